"""Drawn forms as a screen of a graphical interface: elements, actions, what they do, and answers in JSON. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

KINDS = ("button", "box", "field", "option")


@dataclass(frozen=True)
class Element:
    """kind: of KINDS; label: what stands on it; value: "x" of a ticked box or a chosen option, the text of a field; colour: of a button."""

    kind: str
    label: str
    value: str = ""
    colour: str = ""

    @property
    def text(self) -> str:
        """As an agent reads it: `box [x] tea`, `field "ada" name`, `blue button OK`."""
        shown = {"box": f"[{self.value or ' '}]", "option": f"({self.value or ' '})"}.get(self.kind, "")
        if self.kind == "field" and self.value:
            shown = f'"{self.value}"'
        return " ".join(part for part in (self.colour, self.kind, shown, self.label) if part)


@dataclass(frozen=True)
class Action:
    """kind: click or type; element: number of an element, from 1; text: what is typed."""

    kind: str
    element: int
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"type": self.kind, "element": self.element, **({"text": self.text} if self.kind == "type" else {})}


@dataclass(frozen=True)
class Form:
    """A screen with a task. name: of the task; about: what it asks for; words: texts that may be typed.

    elements: as they stand; pressed: number of the button that was clicked last, 0: none.
    """

    name: str
    utterance: str
    about: str
    elements: tuple[Element, ...]
    words: tuple[str, ...] = ()
    pressed: int = 0

    @property
    def text(self) -> str:
        """What an agent reads: the task, then one element a line, with its number behind it, which a small network finds most easily."""
        lines = [f"{element.text} #{number}" for number, element in enumerate(self.elements, 1)]
        return "\n".join([self.utterance, *lines])

    def after(self, action: Action) -> Form:
        """The form once the action was carried out; one that is for no such element changes nothing."""
        if not 1 <= action.element <= len(self.elements):
            return self
        element, place = self.elements[action.element - 1], action.element - 1
        if action.kind == "click" and element.kind == "button":
            return replace(self, pressed=action.element)
        elements = list(self.elements)
        if action.kind == "click" and element.kind == "box":
            elements[place] = replace(element, value="" if element.value else "x")
        elif action.kind == "click" and element.kind == "option":
            elements = [replace(e, value="") if e.kind == "option" else e for e in elements]
            elements[place] = replace(element, value="x")
        elif action.kind == "type" and element.kind == "field":
            elements[place] = replace(element, value=action.text)
        return replace(self, elements=tuple(elements))

    def succeeds(self, action: Action) -> bool:
        """Whether the action, carried out in a fresh copy of the form, does what the task asks for."""
        return GOALS[self.name](self, self.after(action))

    def valid(self) -> list[Action]:
        """All actions that succeed, found by trying every one."""
        tried = [Action("click", number) for number in range(1, len(self.elements) + 1)]
        tried += [Action("type", a.element, word) for a in tried for word in self.words]
        return [action for action in tried if self.succeeds(action)]

    def answer(self, action: Action) -> str:
        """{Reason, Subtasks, Action} as JSON; the reason is the element as it stands on the screen."""
        element = self.elements[action.element - 1]
        said = {"Reason": f"{element.text} #{action.element}", "Subtasks": [self.about], "Action": action.to_json()}
        return json.dumps(said)

    def right(self, text: str) -> bool:
        """Whether the action of an answer succeeds; False for an answer that is none."""
        action = action_of(text)
        return action is not None and self.succeeds(action)

    def matched(self, text: str) -> dict[str, str]:
        """The column `valid_matched`: of the valid actions the one that is nearest to that of an answer, the first of those that are
        equally near (LiteGUI, arXiv 2605.07505, section 3.2)."""
        action, valid = action_of(text), self.valid()
        nearest = valid[0] if action is None else max(valid, key=lambda one: self.near(one, action))
        return {"valid_matched": json.dumps(nearest.to_json())}

    def near(self, one: Action, other: Action) -> float:
        """1 for the same type, plus 1 less the distance of the elements as a share of the form, plus 1 for the same text."""
        apart = min(abs(one.element - other.element) / len(self.elements), 1.0)
        return float(one.kind == other.kind) + 1 - apart + float(one.text == other.text)


def answer_of(text: str) -> dict[str, Any] | None:
    """The answer as a mapping with Reason, Subtasks and Action; None where it is no such JSON."""
    try:
        made = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(made, dict) and {"Reason", "Subtasks", "Action"} <= made.keys()
    return made if whole and isinstance(made["Subtasks"], list) else None


def action_of(text: str) -> Action | None:
    """The action of an answer; None where it has none."""
    made = answer_of(text)
    found = made["Action"] if made else None
    if not isinstance(found, Mapping) or found.get("type") not in ("click", "type"):
        return None
    element, typed = found.get("element"), found.get("text", "")
    if not isinstance(element, int) or isinstance(element, bool) or not isinstance(typed, str):
        return None
    return Action(found["type"], element, typed)


def _ticks_one(before: Form, after: Form) -> bool:
    ticked = [
        sum(element.value == "x" for element in form.elements if element.kind == "box") for form in (before, after)
    ]
    return ticked[1] == ticked[0] + 1


def _unticks_one(before: Form, after: Form) -> bool:
    return _ticks_one(after, before)


def _ticks_named(before: Form, after: Form) -> bool:
    """The named box is ticked that was not, and the others are as they were."""
    changed = [new for old, new in zip(before.elements, after.elements, strict=True) if old != new]
    return [(element.label, element.value) for element in changed] == [(before.about.removeprefix("tick "), "x")]


def _pressed(form: Form) -> Element | None:
    return form.elements[form.pressed - 1] if form.pressed else None


def _presses(before: Form, after: Form) -> bool:
    pressed = _pressed(after)
    return pressed is not None and pressed.label == before.about.removeprefix("press ")


def _presses_coloured(before: Form, after: Form) -> bool:
    pressed = _pressed(after)
    return pressed is not None and pressed.colour == before.about.removeprefix("press ")


def _chooses(before: Form, after: Form) -> bool:
    chosen = [element.label for element in after.elements if element.value == "x" and element.kind == "option"]
    return chosen == [before.about.removeprefix("choose ")]


def _enters(before: Form, after: Form) -> bool:
    label, word = before.about.removeprefix("enter ").split(": ")
    return [e.value for e in after.elements if e.kind == "field" and e.label == label] == [word]


GOALS: Mapping[str, Callable[[Form, Form], bool]] = {
    "press": _presses,
    "press_coloured": _presses_coloured,
    "tick": _ticks_one,
    "untick": _unticks_one,
    "tick_named": _ticks_named,
    "choose": _chooses,
    "enter": _enters,
}
"""Name of a task -> (form, form after an action) -> whether that is what it asks for."""


def levels(share: float) -> float:
    """A share of a plan as the nearest of the five marks that a judge gives (0, 0.3, 0.5, 0.8, 1)."""
    return min((0.0, 0.3, 0.5, 0.8, 1.0), key=lambda mark: abs(mark - share))


def plan_overlap(said: Sequence[Any], wanted: str) -> float:
    """Share of the words of a plan that are in what was planned, and of these in the plan, as an F-score (a judge by rule)."""
    one, other = set(" ".join(map(str, said)).lower().split()), set(wanted.lower().split())
    both = len(one & other)
    return 2 * both / (len(one) + len(other)) if both else 0.0
