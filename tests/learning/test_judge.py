"""Plans judged by a served model: what is asked, what is taken for a mark, what fails."""

import pytest

pytest.importorskip("transformers")

from served_model import Served

from kdrun.domains.answers.forms import Element, Form
from kdrun.domains.answers.rewards import gui
from kdrun.domains.answers.screen import Action
from kdrun.domains.language import endpoint
from kdrun.domains.language import tokens as tokenizers
from kdrun.problems import UserError

FORM = Form("press", "Press tea.", "press tea", (Element("button", "tea"), Element("button", "milk")))


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with Served(tokenizers.trained(["press tea"] * 40, 300, tmp_path)) as served:
        served.asked = []

        def chat(asked):
            served.asked.append(asked)
            return "0.8" if "- press tea" in asked else "Mark: 0.3"

        served.chat = chat
        yield served


def rewards(texts, server, **options):
    return gui(
        texts, [texts[0]] * len(texts), [FORM] * len(texts), judge=server.url, judge_model="tiny-model", **options
    )


def test_marks_of_plans_are_those_of_the_judge(server):
    good = FORM.answer(Action("click", "tea"))
    poor = good.replace('["press tea"]', '["wait"]')
    server.failing = 1  # for a reason that passes
    assert rewards([good, poor, good, "{"], server) == pytest.approx([0.94, 0.79, 0.94, 0.0])
    assert (
        len(server.asked) == 2 and server.requests == ["/v1/chat/completions"] * 3
    )  # each plan once, and one request again
    assert "Press tea.\nbutton tea\nbutton milk" in server.asked[0]
    assert rewards([good], server, subtasks=0.0) == pytest.approx([0.7]) and len(server.asked) == 2  # nothing to ask


@pytest.mark.parametrize(
    ("options", "said", "words"),
    [
        ({}, "good", "answers 'good', not one of 0.0, 0.3"),
        ({}, "0.7", "not one of"),
        ({"judge_model": ""}, "0.8", "reward.judge_model"),
        ({"judge": "localhost"}, "0.8", "reward.judge=localhost is no address"),
    ],
)
def test_what_is_no_judge_is_told(server, options, said, words):
    server.chat = lambda asked: said
    text = FORM.answer(Action("click", "tea"))
    with pytest.raises(UserError, match=words):
        gui([text], [text], [FORM], **{"judge": server.url, "judge_model": "tiny-model", **options})
