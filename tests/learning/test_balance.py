"""Terms brought to gradients of one size: measured norms, what is logged, parts of a batch, and a run that is stopped."""

import json

import pytest
import torch
from torch import nn

from kdrun.learning.backend import Backend
from kdrun.learning.balance import Balance
from kdrun.learning.report import Interrupted
from kdrun.learning.step import train_step
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised
from kdrun.term_weights import Length

from .stages import Silent, cell, make_lab, teach
from .test_resume import same
from .test_step import Constant, Rows, batch_of

OBJECTIVE = {"ce": {"weight": 0.5}, "kd": {"weight": 2.0, "temperature": 3.0}}


def run(objective=None, steps=1, every=1, accumulate=1, lr=0.1):
    """(values of each step, the student, the backend)."""
    torch.manual_seed(0)
    student = nn.Linear(4, 3)
    backend = Backend(Rows(), student, accumulate=accumulate)
    backend.trained, backend.balance = [list(student.parameters())], Balance(every)
    optimizer = torch.optim.SGD(student.parameters(), lr=lr)
    objective = build_objective(objective or OBJECTIVE).begin(Length(steps, steps))
    rows = [
        [float(x) for x in train_step(student, Constant(), objective, batch_of(), optimizer, step, backend)]
        for step in range(steps)
    ]
    return rows, student, backend


def norm_of(term: str, options: dict) -> float:
    """Of the gradient of a raw term by the student as `run` begins with it."""
    torch.manual_seed(0)
    student, batch = nn.Linear(4, 3), batch_of()
    tensors = Rows().tensors(batch, student(batch["inputs"]), Constant().outputs(batch))
    total, _ = build_objective({term: options})(tensors, batch["size"])
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(student.parameters()))]).norm().item()


def test_weights_say_how_large_gradients_are_beside_each_other():
    ((ce, kd, total, of_ce, of_kd),), student, _ = run(lr=0.0)
    factor = norm_of("ce", {}) / norm_of("kd", {"temperature": 3.0})
    assert of_ce == 1.0 and of_kd == pytest.approx(factor, rel=1e-5)
    assert total == pytest.approx(0.5 * ce + 2.0 * factor * kd, rel=1e-5)
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_larger_scale_of_a_term_changes_nothing():
    plain, other = run(steps=3)[1], run({**OBJECTIVE, "kd": {"weight": 2.0, "temperature": 3.0}}, steps=3)[1]
    torch.testing.assert_close(plain.weight, other.weight)
    for weight in (0.1, 7.0):  # of the reference: its own size stays
        assert not torch.allclose(run({**OBJECTIVE, "ce": {"weight": weight}}, steps=3)[1].weight, plain.weight)


def test_factors_hold_until_the_next_measure():
    rows, _, _ = run(steps=5, every=3)
    factors = [row[-1] for row in rows]
    assert factors[0] == factors[1] == factors[2] != factors[3] == factors[4]


def test_a_term_that_comes_later_is_measured_when_it_does():
    late = {"ce": {}, "kd": {"weight": {"step": {"from": 0, "to": 1, "at": 2}}, "temperature": 3.0}}
    rows, _, _ = run(late, steps=4, every=100)
    assert [row[-1] for row in rows[:2]] == [1.0, 1.0] and rows[2][-1] == rows[3][-1] != 1.0


def test_a_single_term_is_left_as_it_is():
    assert run({"ce": {}}, steps=2)[0] == [[*row[:2], 1.0] for row in run({"ce": {}}, steps=2)[0]]


def test_what_is_logged_adds_up_and_a_stopped_run_goes_on_to_the_last_bit(tmp_path):
    words = ("trainer.balance=5", "trainer.accumulate=2")
    unbroken = teach(make_lab(tmp_path / "a"), *words)
    rows = [json.loads(line) for line in (unbroken.path / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "train/loss" in row]
    for row in logged:
        assert row["train/loss"] == pytest.approx(row["train/ce_weighted"] + row["train/kd_weighted"], rel=1e-4)
        assert row["train/ce_balance"] == 1.0 and row["train/kd_balance"] > 0
    assert len({row["train/kd_balance"] for row in logged}) > 1
    cast = Cast(cell(*words))
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(4)).get(stage)
    same(unbroken, make_lab(tmp_path / "b").get(stage))


def test_it_is_refused_where_nothing_reads_it():
    from kdrun.job.compose import compose
    from kdrun.strategies.unused import refuse_unused

    with pytest.raises(UserError, match="an objective of two terms and more"):
        refuse_unused([compose(["trainer.balance=10", "strategy=alone"])])
    with pytest.raises(UserError, match=r"trainer\.balance"):
        refuse_unused([compose(["trainer.balance=10", "strategy=federated"])])
