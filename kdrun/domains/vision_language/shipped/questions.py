"""Questions about composed scenes, chosen so that every answer comes equally often as far as scenes allow.

A question has a content (what is asked, of what) and a wording. The wording is drawn without looking at the answer. The
content is the one that has been asked least often with its answer, so that knowing the question alone helps little;
yes and no, and the letters of choices, come equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from kdrun.domains.vision_language.shipped.scenes import ANYTHING, Deck, Draw, Phrase, Scene, Split, Thing, World

LETTERS = ("A", "B", "C", "D")
ASIDE = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Row and column of the neighbour that is asked for."""
PAIRS = ("relation", "compare")
"""Types that need two things."""
SPARSE = ("relation", "name")
"""Types with so many contents that few are asked twice: only their answers are kept in balance."""
ALL_THINGS = 4
"""How many times as often all things are to be counted as those of one kind or group."""


class Askable(NamedTuple):
    """Something that can be asked about a scene. content: form, then what it is about."""

    content: tuple[Any, ...]
    answer: str


class Question(NamedTuple):
    type: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


class Asker:
    """Asks about the scenes of one split and keeps count of what was asked."""

    def __init__(self, world: World, split: Split, draw: Draw) -> None:
        self.world, self.split, self.draw = world, split, draw
        self.asked: Counter[Any] = Counter()
        self.verdicts = {name: Deck(("yes", "no"), draw) for name in ("exist", "compare")}
        self.letters = Deck(LETTERS, draw)
        self.kinds = tuple(split.by_kind)
        self.groups = split.groups
        self.possible = {
            "kind": tuple(Phrase(kind, None) for kind in self.kinds) if split.named else (),
            "group": tuple(Phrase(None, group) for group in self.groups),
            "both": tuple(Phrase(*pair) for pair in split.pairs) if split.named else (),
        }
        self.finders = {
            world.kinds: partial(self._called, "kind"),
            world.groups: partial(self._called, "group"),
            "position": self._positions,
            "count": self._counts,
            "exist": self._exists,
            "relation": self._relations,
            "compare": self._compares,
            "text": self._texts,
            "choice": self._choices,
        }

    def possible_in(self, scene: Scene, types: list[str]) -> bool:
        """Whether the scene has something for each of the types; for yes and no, whichever it will be."""
        for name in types:
            found = list(self.finders[name](scene))
            if not found or (name in self.verdicts and len({question.answer for question in found}) < 2):
                return False
        return True

    def ask(self, scene: Scene, name: str) -> Question:
        """A question of this type."""
        found = list(self.finders[name](scene))
        if name in self.verdicts:
            verdict = self.verdicts[name].deal()
            found = [question for question in found if question.answer == verdict]
        if name != "count":  # scenes have one number of things: as a form of its own, some would come far too often
            forms = sorted({_form(question) for question in found})
            form = min(forms, key=lambda form: (self.asked[name, form], self.draw.uniform()))
            found = [question for question in found if _form(question) == form]
            self.asked[name, form] += 1
        if name == "exist" and verdict == "no" and self.draw.uniform() < 0.5:
            found = [question for question in found if _near(scene, question.content[1])] or found
        chosen = min(found, key=lambda question: (*self._often(name, question), self.draw.uniform()))
        self.asked[name, chosen.content, chosen.answer] += 1
        self.asked[name, chosen.content] += 1
        self.asked[name, chosen.answer] += 1
        return self._question(name, chosen, scene)

    def _often(self, name: str, question: Askable) -> tuple[int, ...]:
        """What is asked next is the smallest of these."""
        together = self.asked[name, question.content, question.answer]
        if name in self.verdicts:  # against the other answer to the same question
            return (2 * together - self.asked[name, question.content], together)
        if question.content == ("count", ANYTHING):
            together //= ALL_THINGS
        order = (together, self.asked[name, question.answer])
        return order[::-1] if name in SPARSE else order

    # What can be asked about a scene, type by type.

    def _unique(self, scene: Scene, levels: tuple[str, ...]) -> Iterator[tuple[Phrase, Thing]]:
        """Descriptions that only one thing of the scene fits."""
        for level in levels:
            if level != "group" and not self.split.named:
                continue
            described = Counter(_description(thing, level) for thing in scene.things)
            for thing in scene.things:
                asked = _description(thing, level)
                if described[asked] == 1:
                    yield asked, thing

    def _called(self, side: str, scene: Scene) -> Iterator[Askable]:
        """side: kind or group."""
        for asked, thing in self._unique(scene, self.world.forms[getattr(self.world, f"{side}s")]):
            yield Askable((f"{side} of", asked), getattr(thing, side))
        for thing in scene.things:
            yield Askable((f"{side} at", thing.cell), getattr(thing, side))

    def _positions(self, scene: Scene) -> Iterator[Askable]:
        for asked, thing in self._unique(scene, self.world.forms["position"]):
            yield Askable(("where", asked), self.world.cells[thing.cell])

    def _counts(self, scene: Scene) -> Iterator[Askable]:
        for level in self.world.forms["count"]:
            for asked in self.possible[level]:
                yield Askable(("count", asked), str(sum(map(asked.fits, scene.things))))
        yield Askable(("count", ANYTHING), str(len(scene.things)))

    def _exists(self, scene: Scene) -> Iterator[Askable]:
        for level in self.world.forms["exist"]:
            shown = {_description(thing, level) for thing in scene.things}
            for asked in self.possible[level]:
                yield Askable(("exist", asked), "yes" if asked in shown else "no")

    def _relations(self, scene: Scene) -> Iterator[Askable]:
        grid = self.world.grid
        places = {divmod(thing.cell, grid): thing for thing in scene.things}
        for asked, thing in self._unique(scene, self.world.forms["relation"]):
            row, column = divmod(thing.cell, grid)
            for side, (down, right) in ASIDE.items():
                other = places.get((row + down, column + right))
                if other is not None and not asked.fits(other):
                    yield Askable((side, asked), other.kind)

    def _compares(self, scene: Scene) -> Iterator[Askable]:
        for level in self.world.forms["compare"]:
            counts = Counter(_description(thing, level) for thing in scene.things)
            shown = [asked for asked in self.possible[level] if asked in counts]
            for one in shown:
                for other in shown:
                    if counts[one] != counts[other]:
                        yield Askable(("more", one, other), "yes" if counts[one] > counts[other] else "no")
        if self.world.sized:
            described: dict[Thing, Phrase] = {}
            for asked, thing in self._unique(scene, ("kind", "both", "group")):
                described.setdefault(thing, asked)
            for one, its in described.items():
                for other, theirs in described.items():
                    if one.large != other.large:
                        yield Askable(("larger", its, theirs), "yes" if one.large else "no")

    def _texts(self, scene: Scene) -> Iterator[Askable]:
        if scene.word is not None:
            yield Askable(("text",), scene.word.text)

    def _choices(self, scene: Scene) -> Iterator[Askable]:
        for thing in scene.things:
            if self.split.named:
                yield Askable(("choice kind", thing.cell), thing.kind)
            yield Askable(("choice group", thing.cell), thing.group)

    # Wording.

    def _question(self, name: str, chosen: Askable, scene: Scene) -> Question:
        form, *about = chosen.content
        template = self.draw.one(self.world.templates["beside" if form in ASIDE else form])
        fields = {}
        for key, value in zip(("one", "other"), about, strict=False):
            if isinstance(value, Phrase):
                phrase = self.world.plural(value) if form in ("count", "more") else self.world.describe(value)
                fields |= {key: phrase, f"a_{key}": article(phrase)}
            else:
                fields["cell"] = self.world.cells[value]
        if form in ASIDE:
            fields["side"] = form
        prompt = template.format(**fields)
        if name != "choice":
            return Question(name, prompt, chosen.answer)
        choices, letter = self._options(scene, chosen)
        listed = " ".join(f"{mark}. {text}" for mark, text in zip(LETTERS, choices, strict=True))
        return Question(name, f"{prompt} {listed}", letter, choices)

    def _options(self, scene: Scene, chosen: Askable) -> tuple[tuple[str, ...], str]:
        """Four choices and the letter of the right one; up to two wrong ones are elsewhere in the scene."""
        kind = chosen.content[0] == "choice kind"
        near = dict.fromkeys(thing.kind if kind else thing.group for thing in scene.things)
        near = [value for value in near if value != chosen.answer]
        wrong = self.draw.some(near, len(near))[:2]
        while len(wrong) < len(LETTERS) - 1:
            other = self.split.pair(self.draw)[0 if kind else 1]
            if other != chosen.answer and other not in wrong:
                wrong.append(other)
        wrong = self.draw.some(wrong, len(wrong))
        letter = self.letters.deal()
        place = LETTERS.index(letter)
        return (*wrong[:place], chosen.answer, *wrong[place:]), letter


def caption(world: World, scene: Scene, draw: Draw) -> tuple[str, str]:
    """A request for a description and the description."""
    parts = []
    for thing in scene.things:
        phrase = world.describe(Phrase(thing.kind, thing.group))
        if world.sized:
            phrase = f"{'large' if thing.large else 'small'} {phrase}"
        parts.append(f"{article(phrase)} at the {world.cells[thing.cell]}")
    if scene.word is not None:
        parts.append(f"the word {scene.word.text}")
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return draw.one(world.templates["caption"]), f"{text}."


def article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"


def _form(question: Askable) -> str:
    """What is asked, and by which kind of description."""
    form, *about = question.content
    level = _level(about[0]) if about and isinstance(about[0], Phrase) else ""
    return f"{'beside' if form in ASIDE else form}/{level}"


def _level(asked: Phrase) -> str:
    if asked.kind is not None:
        return "kind" if asked.group is None else "both"
    return "all" if asked.group is None else "group"


def _description(thing: Thing, level: str) -> Phrase:
    return Phrase(None if level == "group" else thing.kind, None if level == "kind" else thing.group)


def _near(scene: Scene, asked: Phrase) -> bool:
    """Whether parts of a description that nothing fits are there, on different things."""
    return (
        asked.kind is not None
        and asked.group is not None
        and any(thing.kind == asked.kind for thing in scene.things)
        and any(thing.group == asked.group for thing in scene.things)
    )
