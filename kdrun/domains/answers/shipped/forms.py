"""Drawn forms with tasks for an agent: no browser, nothing to fetch. No figure of it means anything for real screens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdrun.data.source import TEST, TRAIN, UNUSED, VAL
from kdrun.domains.answers.forms import GOALS, Element, Form
from kdrun.domains.answers.screen import Screen, columns
from kdrun.domains.answers.screenshots import Screenshots
from kdrun.domains.language.source import Documents
from kdrun.domains.language.source import documents as documents_of
from kdrun.problems import UserError, closest, listed

TARGETS = ("forms",)

LABELS = ("tea", "milk", "rice", "soup", "corn", "salt", "figs", "plum")
NAMES = ("name", "city", "code")
WORDS = ("ada", "bo", "cy", "dee", "eli")
COLOURS = ("red", "blue", "green")


def forms(
    train: int = 1_200,
    val: int = 120,
    test: int = 240,
    held_out: Sequence[str] = ("tick_named",),
    seed: int = 0,
    screenshot: int | None = None,
) -> Documents:
    """Screens of 3 to 5 elements with a task, as text, and an answer {"Reason", "Subtasks", "Action"}: one of the actions that succeed.

    train, val, test: screens of each split, drawn from seeds of their own. held_out: tasks that are in none of these; further test sets are
    `held_out`, and of the test screens those with `one_solution` and with `several_solutions`. screenshot: pixels of a side of a picture that
    agents see beside the text; null: none.
    """
    unknown = [name for name in held_out if name not in GOALS]
    if unknown:
        raise UserError(f"data.held_out: no task {unknown[0]!r}{closest(unknown[0], GOALS)}; all: {listed(GOALS)}")
    for name, count in (("train", train), ("val", val), ("test", test)):
        if count < 1:
            raise UserError(f"data.{name}={count}: 1 or more")
    seen = [name for name in GOALS if name not in held_out]
    if not seen:
        raise UserError("data.held_out: every task is held out, and none is left to learn")
    drawn: list[Form] = []
    parts: list[int] = []
    for part, count, names in ((TRAIN, train, seen), (VAL, val, seen), (TEST, test, seen), (UNUSED, test, held_out)):
        random = np.random.default_rng([seed, part + 1])
        for number in range(count if names else 0):
            drawn.append(_form(names[number % len(names)], random))
            parts.append(part)
    return screens("forms", drawn, np.array(parts, np.int8), seed, screenshot)


def screens(
    name: str, drawn: Sequence[Screen], split: np.ndarray, seed: int, screenshot: int | None = None
) -> Documents:
    """Chats of an agent on these screens, whose answer is one of the valid actions, drawn by the seed. split: int8 [N]; screens that are in
    none of train, val and test are the further test set `held_out`. screenshot: see forms."""
    solutions = [screen.valid() for screen in drawn]
    random = np.random.default_rng([seed, 9])
    chosen = [valid[random.integers(len(valid))] for valid in solutions]
    several = np.array([len(valid) > 1 for valid in solutions])
    further = {
        "one_solution": np.flatnonzero((split == TEST) & ~several),
        "several_solutions": np.flatnonzero((split == TEST) & several),
        "held_out": np.flatnonzero(split == UNUSED),
    }
    pairs = list(zip(drawn, chosen, strict=True))
    return documents_of(
        [(("user", screen.text), ("assistant", screen.answer(one))) for screen, one in pairs],
        name,
        split=split,
        determined=True,
        fields=[columns(screen, one) for screen, one in pairs],
        known=drawn,
        further={name: rows for name, rows in further.items() if len(rows)},
        pictures=None if screenshot is None else Screenshots(drawn, screenshot),
    )


def _form(name: str, random: np.random.Generator) -> Form:
    """A screen for a task, with at least one action that succeeds."""
    count = int(random.integers(3, 6))
    labels = [str(label) for label in random.permutation(LABELS)[:count]]
    pick = str(random.choice(labels))
    if name == "press":
        elements = [Element("button", label) for label in labels]
        return Form(name, f"Press {pick}.", f"press {pick}", tuple(elements))
    if name == "press_coloured":
        colours = [str(random.choice(COLOURS)) for _ in labels]
        colour = str(random.choice(colours))
        elements = [Element("button", label, "", own) for label, own in zip(labels, colours, strict=True)]
        return Form(name, f"Press a {colour} button.", f"press {colour}", tuple(elements))
    if name in ("tick", "untick"):
        wanted = "" if name == "tick" else "x"
        values = [str(random.choice(("", "x"))) for _ in labels]
        values[int(random.integers(count))] = wanted
        elements = [Element("box", label, value) for label, value in zip(labels, values, strict=True)]
        state = "not ticked" if name == "tick" else "ticked"
        return Form(name, f"{name.capitalize()} a box that is {state}.", f"{name} a box", tuple(elements))
    if name == "tick_named":
        values = {label: str(random.choice(("", "x"))) for label in labels} | {pick: ""}
        boxes = [Element("box", label, value) for label, value in values.items()]
        return Form(name, f"Tick {pick}.", f"tick {pick}", tuple(boxes))
    if name == "choose":
        elements = [Element("option", label) for label in labels]
        return Form(name, f"Choose {pick}.", f"choose {pick}", tuple(elements))
    field, word = str(random.choice(NAMES)), str(random.choice(WORDS))
    others = [Element("button", label) for label in labels[: count - 2]]
    elements = [Element("field", label) for label in dict.fromkeys((field, str(random.choice(NAMES))))] + others
    order = random.permutation(len(elements))
    return Form(name, f"Enter {word} as {field}.", f"enter {field}: {word}", tuple(elements[n] for n in order), WORDS)
