"""Drawn forms: actions that succeed, answers in JSON, rewards, and what a teacher is told of them."""

import json

import numpy as np
import pytest

from kdrun.data.source import TEST, UNUSED
from kdrun.domains.answers.forms import GOALS, Element, Form
from kdrun.domains.answers.rewards import gui
from kdrun.domains.answers.screen import Action, action_of, answer_of
from kdrun.domains.answers.shipped.arithmetic import arithmetic
from kdrun.domains.answers.shipped.forms import forms
from kdrun.problems import UserError

BOXES = Form(
    "tick",
    "Tick a box that is not ticked.",
    "tick a box",
    (Element("box", "tea", "x"), Element("box", "milk"), Element("box", "figs")),
)
FIELDS = Form(
    "enter",
    "Enter bo as city.",
    "enter city: bo",
    (Element("button", "tea"), Element("field", "city"), Element("field", "name")),
    ("ada", "bo"),
)


def test_valid_actions_are_those_that_succeed_when_carried_out():
    assert BOXES.valid() == [Action("click", "milk"), Action("click", "figs")]
    assert FIELDS.valid() == [Action("type", "city", "bo")]
    assert BOXES.after(Action("click", "milk")).elements[1].value == "x" and BOXES.elements[1].value == ""
    assert (
        BOXES.after(Action("click", "rice")) is BOXES
        and BOXES.after(Action("type", "milk", "bo")).elements == BOXES.elements
    )


def said(action):
    return json.dumps({"Reason": "", "Subtasks": [], "Action": action})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"Action": {}}'),
        '{"Reason": "", "Subtasks": "x", "Action": {"type": "click", "element": "milk"}}',
        said({"type": "click", "element": 2}),
        said({"type": "drag", "element": "milk"}),
        said({"type": "type", "element": "city", "text": 3}),
    ],
)
def test_what_is_no_answer_is_wrong(text):
    assert action_of(text) is None and not BOXES.right(text)


def test_every_drawn_answer_is_right_and_splits_are_what_they_say():
    made = forms(train=120, val=12, test=60)
    for form, chat, columns in zip(made.known, made.documents, made.fields, strict=True):
        valid = json.loads(columns["valid_all"])
        assert form.right(chat[1][1]) and answer_of(chat[1][1]) and json.loads(columns["valid_one"]) in valid
        assert len(valid) == len(form.valid()) >= 1
    names = {form.name for form, part in zip(made.known, made.split, strict=True) if part != UNUSED}
    assert "tick_named" not in names and len(names) == 6
    assert {made.known[row].name for row in made.further["held_out"]} == {"tick_named"}
    rows = np.concatenate([made.further["one_solution"], made.further["several_solutions"]])
    assert sorted(rows.tolist()) == np.flatnonzero(made.split == TEST).tolist()
    assert all(len(made.known[row].valid()) > 1 for row in made.further["several_solutions"])
    assert (
        forms(train=120, val=12, test=60).content_hash
        == made.content_hash
        != forms(train=120, val=12, test=60, seed=1).content_hash
    )


def test_guidance_is_the_valid_action_that_is_nearest_to_the_answer():
    def told(action):
        return json.loads(BOXES.matched(BOXES.answer(action))["valid_matched"])["element"]

    assert told(Action("click", "figs")) == "figs" and told(Action("click", "tea")) == "milk"
    assert json.loads(BOXES.matched("no answer")["valid_matched"])["element"] == "milk"
    assert FIELDS.matched(FIELDS.answer(Action("click", "tea"))) == FIELDS.matched(
        ""
    )  # with one solution there is no choice


def test_rewards_are_weighted_and_of_any_solution_or_of_one():
    one, other = (BOXES.answer(Action("click", number)) for number in ("milk", "figs"))
    wrong = BOXES.answer(Action("click", "tea")).replace("tick a box", "wait")
    texts, references, samples = [one, other, wrong, "{"], [one] * 4, [BOXES] * 4
    assert gui(texts, references, samples) == pytest.approx([1.0, 1.0, 0.1, 0.0])
    assert gui(texts, references, samples, solutions="one") == pytest.approx([1.0, 0.4, 0.1, 0.0])
    assert gui(texts, references, samples, execution=2, subtasks=0, format=0) == pytest.approx([2.0, 2.0, 0.0, 0.0])
    with pytest.raises(UserError, match="no screens"):
        gui(texts, references, [None] * 4)
    for weights in ({"execution": -1}, {"format": float("nan")}):
        with pytest.raises(UserError, match=r"reward\.\w+=.*: a weight, 0 or more"):
            gui(texts, references, samples, **weights)


def test_arithmetic_is_exact_and_all_different():
    made = arithmetic(samples=200, terms=3, largest=9)
    questions = [chat[0][1] for chat in made.documents]
    assert len(set(questions)) == 200
    for (_, question), (_, answer) in made.documents:
        assert sum(int(part) for part in question.replace("- ", "-").replace("+ ", "").split()) == int(answer)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: forms(held_out=["unticks"]), "closest: untick"),
        (lambda: forms(held_out=list(GOALS)), "none is left"),
        (lambda: forms(val=0), "1 or more"),
        (lambda: arithmetic(samples=10), "at least 40"),
        (lambda: arithmetic(samples=1000, largest=3), "there are 32"),
    ],
)
def test_what_cannot_be_drawn_is_told(call, words):
    with pytest.raises(UserError, match=words):
        call()
