"""Several teachers at once, parts of a network, first phases, and the measured gap."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from kdrun.lab.stages.base import Result
from kdrun.learning.teacher import SeveralTeachers
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import cell, make_lab


class Says:
    """A teacher source that answers with its number."""

    def __init__(self, number):
        self.number, self.fingerprint, self.samples = number, str(number), 0

    def outputs(self, batch, step=0):
        return self.number


def test_the_same_teacher_twice_teaches_like_once(tmp_path):
    lab, cast = make_lab(tmp_path), Cast(cell())
    teacher = lab.get(supervised(cast.teacher))
    one, two = (lab.get(distil(cast.student, who)) for who in (teacher, [teacher, teacher]))
    assert one.fingerprint != two.fingerprint
    for name, tensor in load_file(one.weights("last")).items():
        torch.testing.assert_close(load_file(two.weights("last"))[name], tensor, rtol=1e-4, atol=1e-6)
    assert set(two.record["first_step"]) == {"ce", "kd"}
    assert two.record["teacher"]["flops"] == 2 * one.record["teacher"]["flops"]


def test_terms_are_means_over_teachers_and_labels_count_once(tmp_path):
    """Against two teachers the first step's values are the means of those against each."""
    lab, cast = make_lab(tmp_path), Cast(cell())
    teachers = [lab.get(supervised(cast.teacher, epochs=epochs)) for epochs in (1, 3)]
    alone = [lab.get(distil(cast.student, teacher, epochs=1)).record["first_step"] for teacher in teachers]
    both = lab.get(distil(cast.student, teachers, epochs=1)).record["first_step"]
    assert both["kd"]["value"] == pytest.approx(sum(one["kd"]["value"] for one in alone) / 2, rel=1e-5)
    assert both["ce"]["value"] == pytest.approx(alone[0]["ce"]["value"], rel=1e-6)


def test_dropping_is_a_function_of_seed_and_step_and_leaves_one():
    several = SeveralTeachers([Says(0), Says(1), Says(2)], drop=0.5, seed=3)
    again = SeveralTeachers([Says(0), Says(1), Says(2)], drop=0.5, seed=3)
    steps = [several.outputs({}, step) for step in range(400)]
    assert steps == [again.outputs({}, step) for step in range(400)]
    assert all(steps) and steps != [SeveralTeachers(again.teachers, 0.5, seed=4).outputs({}, s) for s in range(400)]
    shares = [sum(number in step for step in steps) / 400 for number in range(3)]
    assert all(0.45 < share < 0.65 for share in shares)  # 1/2, and a third of the 1/8 that would have been left without
    assert SeveralTeachers(several.teachers).present(7) == [0, 1, 2]


def test_a_cut_stage_with_dropped_teachers_ends_as_an_unbroken_one(tmp_path):
    from kdrun.learning.report import Interrupted

    from .stages import Silent

    cast = Cast(cell("trainer.checkpoint_seconds=0"))
    ends = []
    for place, stop_at in ((tmp_path / "whole", None), (tmp_path / "cut", 8)):
        lab = make_lab(place)
        teachers = [lab.get(supervised(cast.teacher, epochs=epochs)) for epochs in (1, 2)]
        stage = distil(cast.student, teachers, drop=0.5)
        if stop_at:
            with pytest.raises(Interrupted):
                make_lab(place, Silent(stop_at)).get(stage)
        ends.append(load_file(make_lab(place).get(stage).weights("last")))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_only_the_chosen_parts_move(tmp_path):
    lab = make_lab(tmp_path)
    cast = Cast(cell("student=resnet8_w2", "trainer.epochs=1"))
    first = lab.get(supervised(cast.student))
    names = {name.partition(".")[0] for name in load_file(first.weights())}
    part = next(name for name in sorted(names) if "fc" in name or "head" in name or "classifier" in name)
    second = lab.get(supervised(cast.student, start=first, parts=[part]))
    before, after = load_file(first.weights()), load_file(second.weights("last"))
    moved = {
        n.partition(".")[0]
        for n in before
        if not torch.equal(before[n], after[n]) and "running" not in n and "tracked" not in n
    }
    assert moved == {part}
    with pytest.raises(UserError, match=f"no part 'x{part}'; closest: {part}"):
        lab.get(supervised(cast.student, parts=[f"x{part}"]))


def test_the_gap_is_measured_before_and_after(tmp_path):
    lab, cast = make_lab(tmp_path), Cast(cell())
    teacher = lab.get(supervised(cast.teacher))
    first = lab.get(distil(cast.student, teacher, gap=True)).record["gap"]
    assert 0 < first["kl_after"] < first["kl_before"]
    assert set(first["train"]) == set(first["val"]) >= {"accuracy", "loss"}
    second = lab.get(distil(cast.student, teacher, start=lab.get(distil(cast.student, teacher, gap=True)), gap=True))
    assert second.record["gap"]["kl_before"] == pytest.approx(first["kl_after"], rel=1e-5)
    assert "gap" not in lab.get(distil(cast.student, teacher)).record


class Notes:
    def __init__(self):
        self.stages = []

    def get(self, stage):
        stage = stage.started(self.get)
        self.stages.append(stage)
        return Result(f"{len(self.stages)}", stage, {})


def test_a_first_phase_comes_before_every_learner_and_is_taught_where_the_learner_is():
    config = cell("pretrain.data.limit.train=50", "pretrain.trainer.epochs=2")
    lab, cast = Notes(), Cast(config)
    lab.get(distil(cast.student, lab.get(supervised(cast.teacher))))
    assert [(s.role, s.start and s.start.fingerprint, s.teacher and s.teacher.fingerprint) for s in lab.stages] == [
        ("teacher_first", None, None), ("teacher", "1", None), ("student_first", None, "2"), ("student", "3", "2"),
    ]  # fmt: skip
    assert [(s.data["limit"]["train"], s.trainer["epochs"]) for s in lab.stages] == [(50, 2), (300, 3)] * 2
    lab = Notes()
    lab.get(supervised(Cast(cell()).student))
    assert [stage.role for stage in lab.stages] == ["student"]


def test_a_mistake_in_the_first_phase_is_found_at_once():
    with pytest.raises(UserError, match=r"pretrain.data.limt"):
        cell("pretrain.data.limt.train=50")
    with pytest.raises(UserError, match=r"pretrain.trainer.epochs"):
        cell("pretrain.trainer.epochs=0")
