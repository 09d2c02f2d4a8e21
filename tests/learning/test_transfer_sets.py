"""Stages whose data have samples without labels: with teachers that know more, cached, cut, and on two ranks."""

import numpy as np
import pytest
import torch
from forked import stand_in
from PIL import Image
from safetensors.torch import load_file

from kdrun.learning import workers
from kdrun.learning.report import Interrupted
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab

FEW = "data.labelled=60"
KNOWS_MORE = (FEW, "teacher.data.labelled=null")


def last(result):
    return load_file(result.weights("last"))


def same(one, other):
    return all(torch.equal(tensor, last(other)[name]) for name, tensor in last(one).items())


def pair(lab, *words, **options):
    cast = Cast(cell(*words))
    teacher = lab.get(supervised(cast.teacher))
    return teacher, lab.get(distil(cast.student, teacher, **options))


def test_a_teacher_of_all_labels_is_the_one_of_a_run_without_hidden_ones(tmp_path):
    lab = make_lab(tmp_path)
    plain, _ = pair(lab)
    teacher, student = pair(lab, *KNOWS_MORE)
    few, _ = pair(lab, FEW)
    assert teacher.fingerprint == plain.fingerprint != few.fingerprint
    assert "labelled" not in teacher.record["seen"]
    seen = student.record["seen"]
    assert (seen["samples"], seen["labelled"]) == (300, 60)
    assert seen["shown"] == {"labelled": 3 * 60, "unlabelled": 3 * 240}
    assert few.record["seen"]["shown"] == {"labelled": 3 * 5 * 64, "unlabelled": 0}
    assert (
        few.record["cost"]["samples"] == 3 * 5 * 64 and few.record["cost"]["steps"] == student.record["cost"]["steps"]
    )


def test_students_of_few_and_of_many_labels_share_what_a_teacher_says(tmp_path):
    lab = make_lab(tmp_path)
    for words in ((), KNOWS_MORE, ("data.labelled=100", "teacher.data.labelled=null", "data.labelled_share=0.5")):
        assert pair(lab, *words)[1].record["teacher"]["source"] == "cached"
    assert len(list((tmp_path / "outputs").iterdir())) == 1


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        pixels = random.integers(256, size=(8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("share", ["null", "0.25"])
def test_a_cached_teacher_says_of_further_inputs_what_a_live_one_says(tmp_path, folder, share):
    words = (*KNOWS_MORE, f"data.unlabelled={folder}", "teacher.data.unlabelled=null", f"data.labelled_share={share}")
    ends = [pair(make_lab(tmp_path / source), *words, f"teacher.source={source}")[1] for source in ("cached", "online")]
    assert [end.record["teacher"]["source"] for end in ends] == ["cached", "online"]
    assert ends[0].record["seen"]["samples"] == 320
    for name, tensor in last(ends[0]).items():
        torch.testing.assert_close(last(ends[1])[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", ["null", "0.5"])
def test_parts_of_a_batch_change_nothing(tmp_path, share):
    words = (*KNOWS_MORE, f"data.labelled_share={share}", "trainer.epochs=1")
    one, two = (pair(make_lab(tmp_path / n), *words, f"trainer.accumulate={n}")[1] for n in ("1", "4"))
    for name, tensor in last(one).items():
        torch.testing.assert_close(last(two)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_stage_of_mixed_batches_that_is_cut_ends_as_an_unbroken_one(tmp_path, stop_at):
    words = (FEW, "data.labelled_share=0.5", "data.augment.crop=1", "trainer.checkpoint_seconds=0")
    _, unbroken = pair(make_lab(tmp_path / "a"), *words)
    cast = Cast(cell(*words))
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(stop_at)).get(stage)
    assert same(unbroken, make_lab(tmp_path / "b").get(stage))


def test_two_ranks_divide_by_the_labels_of_both(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "subprocess", stand_in())
    words = (*KNOWS_MORE, "data.labelled_share=0.1", "trainer.epochs=1")
    teacher, one = pair(make_lab(tmp_path / "a"), *words)
    cast = Cast(cell(*words, "hardware.devices=2"))
    two = make_lab(tmp_path / "a").get(distil(cast.student, teacher))
    for name, tensor in last(one).items():
        torch.testing.assert_close(last(two)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_control_of_labels_alone_is_the_same_stage_whatever_share_is_mixed(tmp_path):
    lab = make_lab(tmp_path)
    stages = [lab.get(supervised(Cast(cell(FEW, f"data.labelled_share={s}")).student)) for s in ("null", "0.5")]
    assert stages[0].fingerprint == stages[1].fingerprint


@pytest.mark.parametrize("source", ["cached", "online"])
def test_a_teacher_that_learned_a_target_in_other_units_is_understood(tmp_path, source):
    """Moments of the target are those of the labels that a learner has."""
    words = (
        "data=diabetes",
        "objective=mse_kd",
        "trainer.optimizer.lr=0.01",
        "data.labelled=60",
        f"teacher.source={source}",
    )
    words = (*words, "~data.limit.train", "teacher.data.labelled=null", "trainer.epochs=8", "trainer.monitor=r2")
    lab = make_lab(tmp_path)
    teacher, student = pair(lab, *words)
    taught = student.record["teacher"]
    assert taught["r2"] == pytest.approx(teacher.record["val"]["best"]["r2"], abs=1e-3)
    specs = [lab.workshop.data(each.stage.data).spec for each in (teacher, student)]
    assert specs[0].target_mean != specs[1].target_mean
    assert lab.workshop.data(student.stage.data).spec.output_turn(specs[0].metadata()) is not None


def test_a_first_epoch_of_mixed_batches_fills_no_cache(tmp_path):
    words = (*KNOWS_MORE, "data.labelled_share=0.5", "teacher.source=cached", "teacher.fill=first_epoch")
    with pytest.raises(UserError, match="not every sample is in the first epoch"):
        pair(make_lab(tmp_path), *words)
