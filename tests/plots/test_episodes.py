"""The sheet of an agent's episodes: which screens, what is drawn on them, and what has none."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from kdrun.domains.answers.forms import Element, Form
from kdrun.domains.answers.screen import Action
from kdrun.plots.episodes import _spread, _words, sheet

FORM = Form(
    "tick",
    "Tick a box that is not ticked.",
    "tick a box",
    (
        Element("box", "tea", "x"),
        Element("box", "milk"),
        Element("field", "name", "ada"),
        Element("button", "OK", "", "red"),
    ),
)


def test_a_drawn_form_shows_each_element_in_a_place_of_its_own():
    image, boxes = FORM.picture()
    assert list(boxes) == ["tea", "milk", "name", "OK"] and image.size == (160, 210)
    pixels = np.asarray(image)
    tops = [top for _, top, _, _ in boxes.values()]
    assert tops == sorted(tops) and all(top + height <= 210 for _, top, _, height in boxes.values())
    for left, top, width, height in boxes.values():
        assert len(np.unique(pixels[top : top + height, left : left + width].reshape(-1, 3), axis=0)) > 1
    left, top, width, height = boxes["OK"]
    assert pixels[top + 4, left + 6].tolist() == [0xF2, 0xB8, 0xB5]  # red


@pytest.mark.parametrize(("rows", "wrong", "right"), [(8, 4, 4), (3, 2, 1), (40, 5, 20)])
def test_half_of_the_screens_are_wrong_ones_as_far_as_there_are(rows, wrong, right):
    said = [{"id": n, "right": int(n % 5 != 0)} for n in range(25)]
    chosen = _spread(said, rows)
    assert [row["right"] for row in chosen] == [0] * wrong + [1] * right
    assert len({row["id"] for row in chosen}) == len(chosen)


def test_a_sheet_is_drawn_of_actions_that_are_none_and_that_miss():
    episodes = [(FORM, Action("click", "milk"), True), (FORM, Action("click", "figs"), False), (FORM, None, False)]
    with Image.open(io.BytesIO(sheet(episodes, "an agent"))) as shown:
        colours = {colour for _, colour in shown.convert("RGB").getcolors(1 << 20)}
    assert {(0, 0x9E, 0x73), (0xD5, 0x5E, 0)} <= colours
    boxes = FORM.picture()[1]
    assert _words(Action("type", "name", "bo"), boxes) == "type 'bo' into name"
    assert "not on the screen" in _words(Action("click", "figs"), boxes) and "no action" in _words(None, boxes)


def test_episodes_of_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    from kdrun.cli import main

    monkeypatch.chdir(tmp_path)
    words = "model=gui_agent strategy=alone student=lm_w32 data.train=40 data.val=4 data.test=6 trainer.epochs=1 hardware=cpu tracker=none seed=0"
    assert main([*words.split(), "data.language.max_new=4"]) == 0
    capsys.readouterr()
    assert main(["plot", "last", "kind=episodes", "rows=3", "--json"]) == 0
    (path,) = json.loads(capsys.readouterr().out)["files"]
    assert Path(path).name == "episodes.png" and Path(path).stat().st_size > 1000
    for wrong, said in (
        ("rows=0", "at least one screen"),
        ("seed=9", "no result of seed 9"),
        ("method=x", "kind=windows"),
    ):
        assert main(["plot", "last", "kind=episodes", wrong]) == 2
        assert said in capsys.readouterr().err
