"""Scenes of composed pictures: a few things on a grid, maybe a word. Drawn at random for a split, never for an answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")

CELLS = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"),
}
"""Names of the cells of a grid, row by row."""
SHARES = {"train": range(0, 16), "val": range(16, 20), "test": range(20, 26), "style": range(26, 32)}
"""Which of 32 shares of all possible scenes a split takes its own from, so that no two have one in common, whatever
their sizes. What has things or combinations that no other split has needs no share."""
ATTEMPTS = 10_000
WORDINGS = {
    "where": ("where is the {one}?", "in which place is the {one}?", "where do you see the {one}?"),
    "count": ("how many {one} are there?", "how many {one} do you see?", "what is the number of {one}?"),
    "exist": ("is there {a_one}?", "do you see {a_one}?", "does the picture show {a_one}?"),
    "more": (
        "are there more {one} than {other}?",
        "do you see more {one} than {other}?",
        "does the picture show more {one} than {other}?",
    ),
    "caption": ("describe the picture.", "what does the picture show?", "what do you see?", "give a description."),
}
"""Templates of questions that are asked alike whatever the things are."""


class Draw:
    """Random choices that are the same in every version of Python: all made of `random.Random(...).random()`."""

    def __init__(self, key: int) -> None:
        self.uniform = random.Random(key).random

    def below(self, count: int) -> int:
        return int(self.uniform() * count)

    def one(self, items: Sequence[Item]) -> Item:
        return items[int(self.uniform() * len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` of the items, without repetition, in random order."""
        left = list(items)
        for place in range(count):
            other = place + self.below(len(left) - place)
            left[place], left[other] = left[other], left[place]
        return left[:count]


class Deck:
    """Deals its items in random order, each once before any comes again, so that what is dealt stays balanced."""

    def __init__(self, items: Sequence[Any], draw: Draw) -> None:
        self.items, self.draw, self.left = tuple(items), draw, []

    def deal(self) -> Any:
        if not self.left:
            self.left = self.draw.some(self.items, len(self.items))
        return self.left.pop()


class Thing(NamedTuple):
    """One thing: what it is and where.

    kind   what it is called (shape or emoji); group: what it has in common with others (colour or category)
    dx, dy how far it is off the middle of its cell, in hundredths of a cell; turn: degrees; shade: of the colour
    """

    kind: str
    group: str
    large: bool
    cell: int
    dx: int = 0
    dy: int = 0
    turn: int = 0
    shade: int = 0

    def corner(self, grid: int, cell: float, width: int) -> tuple[int, int]:
        """Left and top pixel of its square picture, on a grid of cells of so many pixels."""
        row, column = divmod(self.cell, grid)
        left, top = (column + 0.5 + self.dx / 100) * cell - width / 2, (row + 0.5 + self.dy / 100) * cell - width / 2
        return round(left), round(top)


class Word(NamedTuple):
    """A written word that fills a row; shade: of its colour."""

    text: str
    row: int
    shade: int = 0


class Scene(NamedTuple):
    """A picture, in words. things: in the order of their cells; background: number of a shade; style: how it is drawn."""

    things: tuple[Thing, ...]
    word: Word | None
    background: int
    style: str


class Phrase(NamedTuple):
    """What a phrase such as "red star", "star" or "red thing" means; None is anything."""

    kind: str | None
    group: str | None

    def fits(self, thing: Thing) -> bool:
        return self.kind in (None, thing.kind) and self.group in (None, thing.group)


ANYTHING = Phrase(None, None)


@dataclass(frozen=True)
class Split:
    """What the scenes of a split are made of.

    pairs   (kind, group) of the things there may be
    types   of its questions
    named   whether kinds may be named (not those that training never shows)
    fits    whether (kind, group) may be together in a scene of it
    style   how they are drawn
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    types: tuple[str, ...]
    named: bool = True
    fits: Callable[[Sequence[tuple[str, str]]], bool] = lambda pairs: True
    style: str = "filled"

    @cached_property
    def by_kind(self) -> dict[str, list[tuple[str, str]]]:
        return self._by(0)

    @cached_property
    def by_group(self) -> dict[str, list[tuple[str, str]]]:
        return self._by(1)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.by_group)

    def pair(self, draw: Draw) -> tuple[str, str]:
        """(kind, group) at random: groups come equally often, and within each its kinds."""
        return draw.one(self.by_group[draw.one(self.groups)])

    def _by(self, side: int) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for pair in self.pairs:
            found.setdefault(pair[side], []).append(pair)
        return found


@dataclass(frozen=True)
class World:
    """Everything that questions and pictures are composed of.

    grid        2 or 3 cells a side
    things      fewest and most things of a scene
    kinds       type of questions for what a thing is called; groups: for what it has in common with others
    templates   wordings per form of a question (see vqa_questions)
    forms       per type with descriptions, which of "kind", "group" and "both" it uses
    sized       whether things are large or small, which questions then compare
    words       that may be written; () for none
    describe    the phrase of an Asked; plural: of several
    backgrounds, shades, turns  how many of them, and which, a painter can draw
    """

    name: str
    grid: int
    things: tuple[int, int]
    kinds: str
    groups: str
    templates: Mapping[str, tuple[str, ...]]
    forms: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, Split]
    describe: Callable[[Phrase], str]
    plural: Callable[[Phrase], str]
    sized: bool = False
    words: tuple[str, ...] = ()
    backgrounds: int = 6
    shades: int = 5
    turns: tuple[int, ...] = (0,)

    @property
    def cells(self) -> tuple[str, ...]:
        return CELLS[self.grid]


class Scenes:
    """An endless stream of scenes of one split, no two alike. The first n are the same however many are taken."""

    def __init__(self, world: World, split: Split, draw: Draw) -> None:
        self.world, self.split, self.draw = world, split, draw
        self.seen: set[bytes] = set()
        self.words = Deck(world.words, draw)
        self.alike = (split.by_kind, split.by_group)

    def next(
        self, suits: Callable[[Scene], bool], *, fewest: int = 1, word: bool = False, alike: bool = False
    ) -> Scene:
        """One more scene for which `suits`, with at least `fewest` things; alike: with more things that have something
        in common."""
        text = self.words.deal() if word else None
        for _ in range(ATTEMPTS):
            scene = self._drawn(fewest, text, alike)
            if scene is not None and suits(scene):
                digest = meaning(scene)
                share = SHARES.get(self.split.name)
                if digest not in self.seen and (share is None or digest[0] % 32 in share):
                    self.seen.add(digest)
                    return scene
        raise ValueError(
            f"{self.world.name}: no further scene was found for {self.split.name}; {len(self.seen)} are there"
        )

    def _drawn(self, fewest: int, text: str | None, alike: bool) -> Scene | None:
        world, draw = self.world, self.draw
        cells = list(range(world.grid**2))
        word = None
        if text is not None:
            word = Word(text, draw.below(world.grid), draw.below(world.shades))
            cells = [cell for cell in cells if cell // world.grid != word.row]
        fewest = max(fewest, world.things[0])
        count = fewest + draw.below(min(world.things[1], len(cells)) - fewest + 1)
        pairs = self._pairs(count, alike)
        if not self.split.fits(pairs):
            return None
        things = []
        for pair, cell in zip(pairs, sorted(draw.some(cells, count)), strict=True):
            large = draw.uniform() < 0.5 or not world.sized
            room = 7 if large else 20
            dx, dy = draw.below(2 * room + 1) - room, draw.below(2 * room + 1) - room
            things.append(Thing(*pair, large, cell, dx, dy, draw.one(world.turns), draw.below(world.shades)))
        return Scene(tuple(things), word, draw.below(world.backgrounds), self.split.style)

    def _pairs(self, count: int, alike: bool) -> list[tuple[str, str]]:
        """Things at random; some take after one before them, in kind or group. In random order."""
        draw = self.draw
        pairs = [self.split.pair(draw)]
        often = draw.one((0.6, 0.8, 1.0)) if alike else 0.3
        side = draw.below(2)
        while len(pairs) < count:
            if draw.uniform() < often:
                side = side if alike else draw.below(2)
                pairs.append(draw.one(self.alike[side][(pairs[0] if alike else draw.one(pairs))[side]]))
            else:
                pairs.append(self.split.pair(draw))
        return draw.some(pairs, count)


def meaning(scene: Scene) -> bytes:
    """Hash of what a scene shows: which things are in which cells, and what is written, however it is drawn."""
    shown = [(thing.kind, thing.group, thing.large, thing.cell) for thing in scene.things]
    word = scene.word and (scene.word.text, scene.word.row)
    return hashlib.blake2b(repr((shown, word)).encode(), digest_size=16).digest()
