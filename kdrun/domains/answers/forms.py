"""Drawn forms: elements, and what actions do to them. No torch, no browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdrun.domains.answers.screen import Action, Screen

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
class Form(Screen):
    """A drawn form. elements: as they stand, with labels that differ; words: texts that may be typed; pressed: label of the button that was
    clicked last; "": none."""

    name: str
    utterance: str
    about: str
    elements: tuple[Element, ...]
    words: tuple[str, ...] = ()
    pressed: str = ""

    @property
    def lines(self) -> dict[str, str]:
        return {element.label: element.text for element in self.elements}

    def after(self, action: Action) -> Form:
        """The form once the action was carried out; one that is for no such element changes nothing."""
        place = next((n for n, element in enumerate(self.elements) if element.label == action.element), None)
        if place is None:
            return self
        element, elements = self.elements[place], list(self.elements)
        if action.kind == "click" and element.kind == "button":
            return replace(self, pressed=element.label)
        if action.kind == "click" and element.kind == "box":
            elements[place] = replace(element, value="" if element.value else "x")
        elif action.kind == "click" and element.kind == "option":
            elements = [replace(e, value="") if e.kind == "option" else e for e in elements]
            elements[place] = replace(element, value="x")
        elif action.kind == "type" and element.kind == "field":
            elements[place] = replace(element, value=action.text)
        return replace(self, elements=tuple(elements))

    def picture(self) -> tuple[Any, Mapping[str, tuple[int, int, int, int]]]:
        from kdrun.domains.answers.drawn import drawn

        return drawn(self.utterance, self.elements)

    def succeeds(self, action: Action) -> bool:
        return GOALS[self.name](self, self.after(action))

    def valid(self) -> list[Action]:
        """Found by trying every action."""
        tried = [Action("click", element.label) for element in self.elements]
        tried += [Action("type", action.element, word) for action in tried for word in self.words]
        return [action for action in tried if self.succeeds(action)]

    def apart(self, one: str, other: str) -> float:
        """In places, as a share of the form."""
        labels = [element.label for element in self.elements]
        if not {one, other} <= set(labels):
            return 1.0
        return abs(labels.index(one) - labels.index(other)) / len(labels)


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
    return next((element for element in form.elements if element.label == form.pressed), None)


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
