"""kdrun chat on a network that says what it was given, and on a whole small run."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdrun import api, cli
from kdrun.domains import load as build
from kdrun.problems import UserError
from kdrun.verbs import chat

pytest.importorskip("tokenizers")

DATA = {
    "_target_": "kdrun.domains.vision_language.shipped.shapes_vqa.shapes_vqa",
    "task": "vision_language",
    "train": 90,
    "val": 3,
    "test": 3,
    "further": 0,
    "size": 64,
    "vision": {"tower": None, "image_tokens": 4, "size": 64},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def module(cache):
    return build.load_data(DATA, {"cache": str(cache)})


class Says:
    """Answers with a word per picture, or "no" without one, and keeps what it was asked."""

    def __init__(self, module):
        self.module, self.asked = module, []
        self.kdrun = {"tokenizer": module.spec.tokenizer}

    def generate(self, input_ids, attention_mask, pixel_values=None, max_new=None, eos=None):
        spec = self.module.spec
        number = 0 if pixel_values is None else len(pixel_values)
        assert int((input_ids == spec.image_token).sum()) == number * spec.image_tokens
        assert bool(attention_mask.all()) and eos == spec.eos
        self.asked.append((self.module.decode([input_ids[0].tolist()])[0], pixel_values, max_new))
        return self.module.encoder.tokenizer.encode([" ".join(["red"] * number) or "no"])


@pytest.fixture
def ask(monkeypatch, cache, module, tmp_path):
    """What `kdrun chat ...` prints, from a run that is not there: the network is Says, loaded with `ask.loaded`."""
    network = Says(module)
    view = SimpleNamespace(
        id="cascaded-1", status="done", summary={"arms": {}},
        config={"data": DATA, "paths": {"cache": str(cache)}, "trainer": {"decoding": {"max_extra": 7}}},
    )  # fmt: skip

    def load(run, arm, seed, which, part):
        asking.loaded = (arm, seed, which)
        return network

    monkeypatch.setattr(api.RunView, "find", classmethod(lambda cls, run, outputs: setattr(asking, "run", run) or view))
    monkeypatch.setattr(api, "load", load)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), "red").save("red.png")
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save("clear.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")

    def asking(*words, text=None):
        if text is not None:
            monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        return cli.main(["chat", *words])

    asking.network, asking.view = network, view
    return asking


def test_the_answer_alone_is_printed(ask, capsys):
    assert ask("last", "--image", "red.png", "what colour is the circle?") == 0
    assert capsys.readouterr().out == "red\n"
    ((question, pixels, most),) = ask.network.asked
    assert question.startswith("what colour is the circle?") and most == 7
    assert pixels.shape == (1, 3, 64, 64)
    assert ask.loaded == ("student", None, None) and ask.run == "last"


def test_several_pictures_come_in_the_order_given(ask, capsys):
    assert ask("last", "--image=red.png", "--image", "clear.png", "is there a circle?") == 0
    assert capsys.readouterr().out == "red red\n"
    _, pixels, _ = ask.network.asked[0]
    assert torch.allclose(pixels[0, :, 32, 32], torch.tensor([1.0, -1.0, -1.0]))
    assert bool((pixels[1] == 1).all())  # what is transparent lies on white


def test_without_a_picture_the_question_is_text_alone(ask, capsys):
    assert ask("is there a circle?") == 0
    assert capsys.readouterr().out == "no\n" and ask.run == "last" and ask.network.asked[0][1] is None


def test_questions_are_read_from_standard_input_one_a_line(ask, capsys):
    assert ask("last", "--image", "red.png", text="\ufeffis there a circle?\r\n\nhow many?\n".encode()) == 0
    assert capsys.readouterr().out == "red\n\nred\n"
    assert [asked[0].split("?")[0] for asked in ask.network.asked] == ["is there a circle", "how many"]
    assert ask("last", text=b"good\nb\xe4d\n") == 2
    assert "line 2: not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", 0),
        (b"\xef\xbb\xbf", 0),
        (b"\n \n\n", 3),
        (b"\r\n\r\n", 2),
        (b"\xef\xbb\xbf\n", 1),
        ("a\rb\u2028c".encode(), 1),
    ],
)
def test_every_line_of_standard_input_has_one_of_output(ask, capsys, text, lines):
    assert ask("last", text=text) == 0
    assert capsys.readouterr().out.count("\n") == lines


def test_standard_input_that_is_closed_has_no_lines(ask, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert ask("last") == 0 and capsys.readouterr().out == ""


def test_options_choose_arm_seed_epoch_and_length(ask, capsys):
    ask("last", "hi", "seed=3", "which=last", "max_extra=2", "--teacher")
    assert ask.loaded == ("teacher", 3, "last") and ask.network.asked[0][2] == 2
    ask("last", "hi", "arm=alone", "--seed=1")
    assert ask.loaded == ("alone", 1, None)
    for words, problem in (
        (["sed=1"], "closest: seed"),
        (["seed=x"], "whole number"),
        (["max_extra=0"], "at least 1"),
    ):
        capsys.readouterr()
        assert ask("last", "hi", *words) == 2 and problem in capsys.readouterr().err


def test_words_that_the_network_never_saw_are_told(ask, capsys):
    assert ask("last", "is there a zebra or a circle on Mars?") == 0
    out, err = capsys.readouterr()
    assert out == "no\n" and err.endswith("never saw: zebra, or, on, Mars\n")
    assert ask("last", "is there a circle?") == 0
    assert capsys.readouterr().err == ""
    assert ask("last", "is there a circle;\tis there a zebra? zebra?") == 0
    assert capsys.readouterr().err.endswith("never saw: ;, zebra\n")


def test_a_question_may_have_an_equals_sign(ask, capsys):
    assert ask("RUN", "what is 1 + 1 = ?") == 0
    assert ask.run == "RUN" and ask.network.asked[0][0].startswith("what") and "?" in ask.network.asked[0][0]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--image", "none.png"], "--image none.png: there is no such file"),
        (["--image", "broken.png"], "--image broken.png: "),
        (["--image"], "--image needs a value"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(ask, capsys, words, problem):
    assert ask("last", "hi", *words) == 2
    assert problem in capsys.readouterr().err


def test_runs_that_cannot_answer_are_refused(ask, capsys):
    ask.view.status, ask.view.summary = "interrupted", {}
    assert ask("last", "hi") == 2
    assert "cascaded-1 is not finished, it is interrupted" in (said := capsys.readouterr().err)
    assert "kdrun rerun cascaded-1" in said
    ask.view.status, ask.view.config = "done", {"data": {"task": "translation"}}
    assert ask("last", "hi") == 2
    assert "learned translation, not vision_language" in (said := capsys.readouterr().err) and "kdrun translate" in said
    ask.view.config = {"data": {}}
    assert ask("last", "hi") == 2
    assert "learned classification" in capsys.readouterr().err


def test_no_data_are_read_where_the_tokenizer_is_kept(ask, capsys, monkeypatch, tmp_path):
    loaded, original = [], build.load_data

    def load_data(config, paths):
        loaded.append(paths["cache"])
        return original(config, paths)

    monkeypatch.setattr(build, "load_data", load_data)
    assert ask("last", "--image", "red.png", "hi") == 0 and not loaded
    ask.view.config = {**ask.view.config, "paths": {"cache": str(tmp_path / "empty")}}
    assert ask("last", "--image", "red.png", "hi") == 0 and loaded == [str(tmp_path / "empty")]
    assert capsys.readouterr().out == "red\nred\n"
    ask.network.kdrun["tokenizer"] = "another"
    assert ask("last", "hi") == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_words_are_run_question_and_options():
    assert chat.read_words([], [], chat.OPTIONS) == ("last", "", {})
    assert chat.read_words(["RUN"], ["paths.outputs=x"], chat.OPTIONS) == ("RUN", "", {})
    assert chat.read_words(["RUN", "is", "it?"], ["seed=1"], chat.OPTIONS) == ("RUN", "is it?", {"seed": "1"})
    with pytest.raises(UserError, match="no option 'beam'"):
        chat.read_words([], ["beam=3"], chat.OPTIONS)


def test_flags_of_chat_are_refused_elsewhere_and_teacher_with_a_value_is_an_override(capsys):
    assert cli.main(["show", "--image", "x"]) == 2
    assert "--image belongs to chat" in capsys.readouterr().err
    assert cli.main(["show", "--teacher"]) == 2
    assert cli.parse(["--teacher=resnet20"]).overrides == ["teacher=resnet20"]


def test_pixels_are_those_of_the_data(ask, module):
    answers = chat.Answers(ask.view, ask.network, ["red.png"])
    assert answers.pixels.dtype == np.uint8 and answers.pixels.shape == (1, 3, 64, 64)
    assert (answers.module.spec.image_token, answers.module.spec.eos) == (module.spec.image_token, module.spec.eos)
