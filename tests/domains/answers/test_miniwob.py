"""MiniWoB++: valid actions by trying all of them in fresh copies of a page, pages on disk, and success in the browser."""

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from kdrun.data.source import TEST, UNUSED
from kdrun.domains.answers.miniwob import browser as browsers
from kdrun.domains.answers.miniwob import pages
from kdrun.domains.answers.screen import Action
from kdrun.domains.answers.shipped import miniwob as shipped
from kdrun.problems import UserError


class Stub:
    """A page in place of a browser: two buttons OK, one Cancel and a field, below each other. Task `press`: any OK, with `several` in its
    seed also the second; task `enter`: "ada" typed into the field; task `hard`: nothing helps."""

    def __init__(self):
        self.opened = self.tries = 0
        self.earned = 0.0
        self.task = self.seed = ""

    def open(self, task, seed):
        self.task, self.seed, self.earned = task, seed, 0.0
        self.opened += 1
        return {"press": 'Press "OK".', "enter": 'Enter "ada".', "hard": "Wait."}[task]

    def elements(self):
        kinds = [("button", "OK"), ("button", "Cancel"), ("button", "OK"), ("field", "")]
        return [
            {"kind": kind, "text": text, "value": "", "colour": "", "box": [10, 40 * n, 20, 20]}
            for n, (kind, text) in enumerate(kinds)
        ]

    def click(self, x, y):
        assert x == 20 and self.earned == 0, "a copy of the page that another action was tried in"
        self.tries += 1
        place = int(y) // 40
        if self.task == "press":
            self.earned = 1.0 if place == 0 or (place == 2 and "1" in self.seed) else -1.0

    def enter(self, x, y, text):
        self.tries += 1
        if self.task == "enter":
            self.earned = 1.0 if (int(y) // 40, text) == (3, "ada") else -1.0

    def reward(self):
        return self.earned

    def screenshot(self):
        made = io.BytesIO()
        Image.new("RGB", (160, 210), "white").save(made, "PNG")
        return made.getvalue()

    def close(self):
        self.opened = -1


def test_valid_actions_are_those_that_earn_something_in_a_fresh_copy():
    stub = Stub()
    page, _ = pages.tried(stub, "press", "test-1")
    assert list(page.lines) == ["OK", "Cancel", "OK 2", "field"]
    assert page.valid() == [Action("click", "OK"), Action("click", "OK 2")]
    assert stub.tries == 5 and stub.opened == 6  # four clicks and "OK" into the field, each in a copy of its own
    page, _ = pages.tried(stub, "enter", "test-0")
    assert page.valid() == [Action("type", "field", "ada")]
    assert pages.tried(stub, "hard", "test-0") is None


def test_answers_are_compared_or_carried_out():
    stub = Stub()
    page, _ = pages.tried(stub, "press", "test-1")
    good, bad = page.answer(Action("click", "OK 2")), page.answer(Action("click", "Cancel"))
    assert page.right(good) and not page.right(bad) and not page.right("{")
    before = stub.opened
    assert page.executed(good) and not page.executed(bad) and stub.opened == before  # without a browser of its own
    live = pages.replace(page, browser=stub)
    assert live.executed(good) and not live.executed(bad) and not live.executed("{") and stub.opened == before + 2
    assert not live.executed('{"Reason": "", "Subtasks": [], "Action": {"type": "click", "element": "Close"}}')
    assert page.matched(bad) == {"valid_matched": json.dumps(Action("click", "OK").to_json())}
    other = pages.replace(live, utterance="Press something else.")
    with pytest.raises(UserError, match="another page than when it was prepared"):
        other.executed(good)


def test_pages_are_prepared_once(tmp_path):
    stub = Stub()
    wanted = [("press", "train", 3), ("enter", "test", 2)]
    told = []
    first = list(pages.prepared(tmp_path, stub, wanted, lambda done, of: told.append((done, of))))
    assert [len(found) for found in first] == [3, 2] and told[-1] == (5, 5)
    with Image.open(first[0][0].shot) as shown:
        assert shown.size == (browsers.WIDTH, browsers.HEIGHT)
    tries = stub.tries
    again = list(pages.prepared(tmp_path, stub, wanted, lambda done, of: told.append("again")))
    assert again == first and stub.tries == tries and "again" not in told
    (tmp_path / "press" / "train-1.json").write_text("{half")  # a machine that stopped
    assert list(pages.prepared(tmp_path, stub, wanted)) == first and stub.tries > tries
    with pytest.raises(UserError, match=r"hard: .* solves 0 of its first 13 pages"):
        list(pages.prepared(tmp_path, stub, [("hard", "train", 1)]))


def test_a_browser_that_is_lost_is_started_once_more():
    class Fails(Stub):
        left, closed = 1, 0

        def click(self, x, y):
            if self.left:
                self.left -= 1
                raise browsers.Lost("tab crashed")
            super().click(x, y)

        def close(self):
            self.closed += 1

    stub = Fails()
    page, _ = pages.tried(Stub(), "press", "test-1")
    live = pages.replace(page, browser=stub)
    assert live.executed(page.answer(Action("click", "OK 2"))) and stub.closed == 1
    stub.left = 2
    with pytest.raises(UserError, match="the browser fails, twice: tab crashed"):
        live.executed(page.answer(Action("click", "OK")))


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setattr(shipped, "Browser", Stub)
    monkeypatch.setattr(shipped, "version", lambda name: "1.0")
    monkeypatch.setattr(shipped, "check_tasks", lambda key, names: None)
    monkeypatch.setattr(shipped, "binaries", lambda: ("browser", "driver"))


def test_the_source_has_splits_by_seed_and_whole_tasks_held_out(stubbed, tmp_path):
    made = shipped.miniwob(["press"], ["enter"], train=4, val=1, test=2, cache=tmp_path)
    seeds = [(page.name, page.seed) for page in made.known]
    assert seeds[:5] == [*(("press", f"train-{n}") for n in range(4)), ("press", "val-0")]
    assert [page.name for page, part in zip(made.known, made.split, strict=True) if part == UNUSED] == ["enter"] * 2
    assert len(made.further["held_out"]) == 2 and len(made.further["several_solutions"]) == 1
    assert (made.split == TEST).sum() == 2
    for page, chat in zip(made.known, made.documents, strict=True):
        assert page.right(chat[1][1]) and page.browser is not None
    again = shipped.miniwob(["press"], ["enter"], train=4, val=1, test=2, executed=False, cache=tmp_path)
    assert again.content_hash == made.content_hash and again.known[0].browser is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 0}, "data.train=0"),
        ({"tasks": []}, "data.tasks is empty"),
        ({"tasks": ["press"], "held_out": ["press"]}, "is in data.tasks too"),
    ],
)
def test_what_cannot_be_asked_for_is_told(stubbed, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        shipped.miniwob(**options, cache=tmp_path)


def test_what_is_absent_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(browsers.shutil, "which", lambda name: None)
    for name in ("MINIWOB_CHROME_BINARY", "MINIWOB_CHROMEDRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="not here: chromium and chromedriver"):
        browsers.binaries()
    monkeypatch.setattr(browsers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install miniwob"):
        browsers.pages_folder()


def test_a_missing_browser_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "miniwob").mkdir()
    (tmp_path / "miniwob" / "__init__.py").touch()
    code = "import sys; from kdrun.cli import main; print(main(['model=gui_agent', 'data=miniwob']), 'torch' in sys.modules)"
    named = {"MINIWOB_CHROME_BINARY": "/nowhere/chromium", "MINIWOB_CHROMEDRIVER": "/nowhere/chromedriver"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **named, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "not here: chromium and chromedriver" in done.stderr and len(done.stderr.splitlines()) <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["miniwob"]  # no folder of a run


def browser():
    """A browser, where this machine has one."""
    pytest.importorskip("selenium")
    pytest.importorskip("miniwob")
    try:
        browsers.binaries()
    except UserError as absent:
        pytest.skip(str(absent))
    return browsers.Browser()


def test_a_page_in_a_browser():
    made = browser()
    try:
        page, picture = pages.tried(made, "click-widget", "test-1")
        assert len(page.valid()) >= 1 and all(pages.carried_out(made, page, action) for action in page.valid())
        wrong = [Action("click", name) for name in page.spots if Action("click", name) not in page.actions]
        assert not any(pages.carried_out(made, page, action) for action in wrong)
        with Image.open(io.BytesIO(picture)) as shown:
            assert shown.size == (browsers.WIDTH, browsers.HEIGHT) and len(shown.getcolors(100_000)) > 10
        page, _ = pages.tried(made, "enter-text", "test-1")
        assert page.valid() == [Action("type", "field", pages.words_of(page.utterance)[0])]
        made._driver.service.process.kill()
        live = pages.replace(page, browser=made)
        assert live.executed(page.answer(page.actions[0]))  # in a browser that was started anew
        with pytest.raises(UserError, match="closest: click-button"):
            browsers.check_tasks("data.tasks", ["click-buton"])
    finally:
        made.close()
