"""Screens with a task, actions on their elements, and answers of agents in JSON. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACTIONS = ("click", "type")
MARKS = (0.0, 0.3, 0.5, 0.8, 1.0)
"""That a judge gives a plan."""


@dataclass(frozen=True)
class Action:
    """kind: of ACTIONS; element: name of an element, as the screen shows it; text: what is typed."""

    kind: str
    element: str
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"type": self.kind, "element": self.element, **({"text": self.text} if self.kind == "type" else {})}

    @classmethod
    def of(cls, said: Any) -> Action | None:
        """From JSON; None for what is no action."""
        if not isinstance(said, Mapping) or said.get("type") not in ACTIONS:
            return None
        element, typed = said.get("element"), said.get("text", "")
        return cls(said["type"], element, typed) if isinstance(element, str) and isinstance(typed, str) else None


class Screen:
    """A screen with a task.

    name       of the task
    utterance  the task in words; about: what it asks for, as a step of a plan
    lines      name of each element -> the line that an agent reads, in which the name is
    """

    name: str
    utterance: str
    about: str
    lines: Mapping[str, str]

    @property
    def text(self) -> str:
        """What an agent reads: the task, then one element a line."""
        return "\n".join([self.utterance, *self.lines.values()])

    def valid(self) -> list[Action]:
        """All actions that do what the task asks for."""
        raise NotImplementedError

    def succeeds(self, action: Action) -> bool:
        """Whether the action, carried out in a fresh copy of the screen, does what the task asks for."""
        raise NotImplementedError

    def apart(self, one: str, other: str) -> float:
        """Distance of two elements, from 0 to 1; 1 where one is not on the screen."""
        raise NotImplementedError

    def picture(self) -> tuple[Any, Mapping[str, tuple[int, int, int, int]]]:
        """(image of PIL, name of each element -> its left, top, width and height in pixels), for people."""
        raise NotImplementedError

    def executed(self, text: str) -> bool:
        """Whether the action of an answer succeeds when it is carried out now, which may take a while."""
        return self.right(text)

    def right(self, text: str) -> bool:
        """Whether the action of an answer succeeds; False for an answer that is none."""
        action = action_of(text)
        return action is not None and self.succeeds(action)

    def answer(self, action: Action) -> str:
        """{Reason, Subtasks, Action} as JSON; the reason is the element as it stands on the screen."""
        said = {"Reason": self.lines[action.element], "Subtasks": [self.about], "Action": action.to_json()}
        return json.dumps(said)

    def matched(self, text: str) -> dict[str, str]:
        """The column `valid_matched`: of the valid actions the one that is nearest to that of an answer, the first of those that are
        equally near (LiteGUI, arXiv 2605.07505, section 3.2)."""
        action, valid = action_of(text), self.valid()
        nearest = valid[0] if action is None else max(valid, key=lambda one: self.near(one, action))
        return {"valid_matched": json.dumps(nearest.to_json())}

    def near(self, one: Action, other: Action) -> float:
        """1 for the same type, plus 1 less the distance of the elements, plus 1 for the same text."""
        return (
            float(one.kind == other.kind) + 1 - self.apart(one.element, other.element) + float(one.text == other.text)
        )


def columns(screen: Screen, chosen: Action) -> dict[str, str]:
    """What a teacher may read of a screen (`teacher.prompt`): one valid action, all, and the nearest, which is the chosen one until an
    agent has answered."""
    told = [action.to_json() for action in screen.valid()]
    one = json.dumps(chosen.to_json())
    return {"valid_one": one, "valid_all": json.dumps(told), "valid_matched": one}


def answer_of(text: str) -> dict[str, Any] | None:
    """The answer as a mapping with Reason, Subtasks and Action; None where it is no such JSON."""
    try:
        made = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(made, dict) and {"Reason", "Subtasks", "Action"} <= made.keys()
    return made if whole and isinstance(made["Subtasks"], list) else None


def action_of(text: str) -> Action | None:
    """The action of an answer; None where it has none."""
    made = answer_of(text)
    return Action.of(made["Action"]) if made else None


def levels(share: float) -> float:
    """A share of a plan as the nearest of MARKS."""
    return min(MARKS, key=lambda mark: abs(mark - share))


def plan_overlap(said: Sequence[Any], wanted: str) -> float:
    """Share of the words of a plan that are in what was planned, and of these in the plan, as an F-score (a judge by rule)."""
    one, other = set(" ".join(map(str, said)).lower().split()), set(wanted.lower().split())
    both = len(one & other)
    return 2 * both / (len(one) + len(other)) if both else 0.0
