"""Steps by one network and answers by another, on arithmetic whose answers are reached step by step."""

import pytest
import torch
from torch import nn

from kdrun.domains.answers.shipped.arithmetic import Chain, arithmetic
from kdrun.domains.answers.task import Answers, AnswersModule
from kdrun.domains.answers.thinking import Setting, Thinking
from kdrun.domains.language.module import language_module
from kdrun.problems import UserError
from tests.language_support import COMMON


def task_of(tmp_path, **settings):
    source = arithmetic(80, 4, 9, **settings)
    config = {**COMMON, "vocabulary": 300, "max_length": 64, "pack": False}
    return Answers(language_module(source, config, tmp_path, AnswersModule))


class Scripted(nn.Module):
    """Writes what stands in the data, or nonsense; notes what it read."""

    def __init__(self, thinking, nonsense=False):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))
        self.lines = {tuple(q.ids): q.reference for q in thinking.questions}
        self.thinking, self.nonsense, self.read = thinking, nonsense, []

    def generate(self, ids, mask, most, ends, **options):
        made = []
        for row, real in zip(ids.tolist(), mask.tolist(), strict=True):
            read = [token for token, kept in zip(row, real, strict=True) if kept]
            self.read.append(read)
            start = next(q for q in self.lines if tuple(read[: len(q)]) == q)
            line, behind = self.lines[start], read[len(start) :]
            mark = line.index(self.thinking.mark)
            if behind and behind[-1] == self.thinking.mark:  # the answer: right where all steps were read
                line = line[mark + 1 :] if behind[:-1] == line[:mark] else line[:1]
            elif self.nonsense:
                line = [line[0]] * 5
            made.append([token for token in line][:most])
            made[-1] = made[-1][: next((n for n, token in enumerate(made[-1]) if token in ends), most)]
        return made


def test_steps_stand_before_the_answer():
    source = arithmetic(60, 4, 9, steps=True)
    for document, known in zip(source.documents, source.known, strict=True):
        (_, question), (_, text) = document
        *steps, answer = text.replace(" = ", " ; ").split(" ; ")
        assert {eval(question), *map(eval, steps), int(answer)} == {known.number} and len(steps) == 2
        assert known.right(text) and not known.right(f"{text}1")
    assert [document[1][1] for document in arithmetic(60).documents] == [
        str(eval(document[0][1])) for document in arithmetic(60).documents
    ]
    assert Chain(3).right("2 + 1 = 3") and not Chain(3).right("3 + 1 = 4") and Chain(-3).right("-3")


def test_the_steps_of_the_one_are_read_by_the_other(tmp_path):
    thinking = Thinking(task_of(tmp_path, steps=True), 12)
    good, bad = Scripted(thinking), Scripted(thinking, nonsense=True)
    outcomes = thinking.measured({"large": good, "small": bad}, [0, 4, 40], timed=2)
    assert outcomes[Setting("large", "large", 40)].right == outcomes[Setting("large", "small", 40)].right == 1
    for beaten in (Setting("large", "large", 4), Setting("small", "large", 40), Setting("large", "large", 0)):
        assert outcomes[beaten].right < 0.5
    assert outcomes[Setting("large", "small", 4)].written == 4 and outcomes[Setting("small", "large", 40)].written == 5
    assert Setting("large", "small", 0) not in outcomes  # without steps nobody thinks
    assert all(outcome.seconds > 0 for outcome in outcomes.values())
    assert (
        max(map(len, bad.read)) > max(map(len, bad.lines)) + 4
    )  # question and steps of the other, from the first token on


def test_data_without_steps_are_refused(tmp_path):
    with pytest.raises(UserError, match="data=arithmetic_chains has both"):
        Thinking(task_of(tmp_path), 4)
