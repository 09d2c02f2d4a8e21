"""Pages with their valid actions: found by trying every one in a fresh copy of the page, and kept in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kdrun.domains.answers.miniwob.browser import HEIGHT, WIDTH, Lost
from kdrun.domains.answers.screen import Action, Screen, action_of
from kdrun.files import write_atomic
from kdrun.problems import UserError

MOST = 20
"""Elements of a page that an agent reads; pages with more are left out."""
VERSION = 1
"""Of how pages are read and tried; pages of other versions are prepared anew."""

Made = TypeVar("Made")


class Opened(Protocol):
    """A browser; see browser.Browser."""

    def open(self, task: str, seed: str) -> str: ...
    def elements(self) -> list[dict[str, Any]]: ...
    def click(self, x: float, y: float) -> None: ...
    def enter(self, x: float, y: float, text: str) -> None: ...
    def reward(self) -> float: ...
    def screenshot(self) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Spot:
    """An element of a page. box: left, top, width and height in pixels; see page.js for the rest."""

    kind: str
    text: str
    value: str
    colour: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        left, top, width, height = self.box
        return left + width / 2, top + height / 2


@dataclass(frozen=True)
class Page(Screen):
    """A page as it was opened. spots: name -> element; actions: those that succeeded; shot: file with its screenshot; browser: one in which actions
    of answers are carried out (`executed`), None: they are compared with those that succeeded."""

    name: str
    seed: str
    utterance: str
    spots: dict[str, Spot]
    actions: tuple[Action, ...]
    shot: Path | None = None
    browser: Opened | None = field(default=None, compare=False, repr=False)

    @property
    def about(self) -> str:
        return re.sub(r"[^\w ]", "", self.utterance).lower()

    @property
    def lines(self) -> dict[str, str]:
        return {name: _line(name, spot) for name, spot in self.spots.items()}

    def picture(self) -> tuple[Any, dict[str, tuple[int, int, int, int]]]:
        """Its screenshot; a blank page where that is not on disk."""
        from PIL import Image

        image = Image.new("RGB", (WIDTH, HEIGHT), "white")
        if self.shot is not None and self.shot.exists():
            with Image.open(self.shot) as shown:
                image = shown.convert("RGB")
        return image, {name: spot.box for name, spot in self.spots.items()}

    def valid(self) -> list[Action]:
        return list(self.actions)

    def succeeds(self, action: Action) -> bool:
        return action in self.actions

    def executed(self, text: str) -> bool:
        action = action_of(text)
        if self.browser is None or action is None:
            return self.right(text)
        browser = self.browser
        return action.element in self.spots and steady(browser, lambda: carried_out(browser, self, action))

    def apart(self, one: str, other: str) -> float:
        """Between centres, as a share of the page's diagonal."""
        if not {one, other} <= self.spots.keys():
            return 1.0
        (x, y), (u, v) = self.spots[one].centre, self.spots[other].centre
        return min((((x - u) ** 2 + (y - v) ** 2) / (WIDTH**2 + HEIGHT**2)) ** 0.5, 1.0)


def _line(name: str, spot: Spot) -> str:
    shown = {"box": f"[{spot.value or ' '}]", "option": f"({spot.value or ' '})"}.get(spot.kind, "")
    held = f'"{spot.value}"' if spot.kind == "field" and spot.value else ""
    return " ".join(part for part in (_drawn(spot) if spot.text else "", shown, name, held) if part)


def _drawn(spot: Spot) -> str:
    return " ".join(part for part in (spot.colour, spot.kind) if part)


def named(elements: Sequence[dict[str, Any]]) -> dict[str, Spot]:
    """Name -> element: its text, else its colour and kind; of further ones with this name a number behind it."""
    made: dict[str, Spot] = {}
    for element in elements:
        spot = Spot(**{**element, "box": tuple(element["box"])})
        name = base = spot.text or _drawn(spot)
        number = 1
        while name in made:
            number += 1
            name = f"{base} {number}"
        made[name] = spot
    return made


def words_of(utterance: str) -> list[str]:
    """Texts of a task that an agent may be asked to type: those in quotation marks."""
    return list(dict.fromkeys(re.findall(r'"([^"]+)"', utterance)))


def steady(browser: Opened, work: Callable[[], Made]) -> Made:
    """What work() gives, which begins with fresh copies of pages: once more in a new browser where this one was Lost, as when a tab has
    crashed. UserError where that one is lost too."""
    try:
        return work()
    except Lost:
        browser.close()
    try:
        return work()
    except Lost as error:
        raise UserError(
            f"data=miniwob: the browser fails, twice: {error}", "the same command goes on from what is done"
        ) from error


def carried_out(browser: Opened, page: Page, action: Action) -> bool:
    """Whether the action succeeds in a fresh copy of the page. UserError where the browser shows another page than the one that is known."""
    if browser.open(page.name, page.seed) != page.utterance:
        raise UserError(
            f"data=miniwob: {page.name} with seed {page.seed} is another page than when it was prepared",
            "the pages of another miniwob? its folder in the cache can be deleted, and is prepared anew",
        )
    place = page.spots[action.element].centre
    browser.enter(*place, action.text) if action.kind == "type" else browser.click(*place)
    return browser.reward() > 0


def tried(browser: Opened, task: str, seed: str) -> tuple[Page, bytes] | None:
    """The page with all actions that succeed, and its screenshot. None for one with more than MOST elements, or that no action solves."""
    utterance = browser.open(task, seed)
    spots, picture = named(browser.elements()), browser.screenshot()
    if not 0 < len(spots) <= MOST:
        return None
    page = Page(task, seed, utterance, spots, ())
    actions = [Action("click", name) for name in spots]
    actions += [
        Action("type", n, word) for n, spot in spots.items() if spot.kind == "field" for word in words_of(utterance)
    ]
    good = tuple(action for action in actions if carried_out(browser, page, action))
    return (replace(page, actions=good), picture) if good else None


def prepared(
    folder: Path,
    browser: Opened,
    wanted: Sequence[tuple[str, str, int]],
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[list[Page]]:
    """For each (task, split, count): that many pages, of seeds `SPLIT-0`, `SPLIT-1` ...; those that `tried` refuses are left out, and noted.

    What is not in the folder yet is opened and tried in the browser, and kept there. told(pages, of all): after each of these.
    Raises UserError for a task of which too few pages can be solved by one action.
    """
    done, total = 0, sum(count for *_, count in wanted)
    for task, split, count in wanted:
        pages: list[Page] = []
        number = 0
        while len(pages) < count:
            if number >= 3 * count + 10:
                raise UserError(
                    f"data.tasks: {task}: one click or one text solves {len(pages)} of its first {number} pages",
                    "an agent has one action here: leave out tasks of several steps",
                )
            path = folder / task / f"{split}-{number}.json"
            new, page = not path.exists(), _kept(path, browser, task, f"{split}-{number}")
            number += 1
            if page is not None:
                pages.append(page)
                done += 1
                if new:
                    told(done, total)
        yield pages


def _kept(path: Path, browser: Opened, task: str, seed: str) -> Page | None:
    """The page in a file; made and written where it is not there."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    except ValueError:
        known = None  # of a machine that stopped while it wrote
    if known is None:
        found = steady(browser, lambda: tried(browser, task, seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        if found is not None:
            write_atomic(path.with_suffix(".png"), found[1])
        known = found and {
            "utterance": found[0].utterance,
            "spots": {name: asdict(spot) for name, spot in found[0].spots.items()},
            "actions": [action.to_json() for action in found[0].actions],
        }
        write_atomic(path, json.dumps(known or {}))
    if not known:
        return None
    spots = {name: Spot(**{**spot, "box": tuple(spot["box"])}) for name, spot in known["spots"].items()}
    actions = tuple(filter(None, map(Action.of, known["actions"])))
    return Page(task, seed, known["utterance"], spots, actions, path.with_suffix(".png"))
