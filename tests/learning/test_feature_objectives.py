"""Shipped objectives that compare features, in whole stages: every one trains, and batches are whole where they have to be."""

import pytest
from safetensors.torch import load_file

from kdrun.cli import main
from kdrun.learning.report import Interrupted
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab, teach
from .test_resume import same

RESNETS = ("teacher=resnet14", "student=resnet8_w4", "trainer.epochs=1", "data.limit.train=128")
SMALL_STEPS = ("student.trainer.epochs=3", "student.trainer.optimizer.lr=0.01")
NAMES = [
    "at",
    "sp",
    "pkt",
    "rkd",
    "nst",
    "cc",
    "vid",
    "fsp",
    "ab",
    "ft",
    "crd",
    "ofd",
    "reviewkd",
    "semckd",
    "srrl",
    "catkd",
]
OBJECTIVES = {"fitnet": "hint", **{name: name for name in NAMES}}
WHOLE_BATCH = ("sp", "pkt", "rkd", "cc", "crd", "semckd")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One store, so that the teacher is trained once."""
    return make_lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_shipped_objective_trains(name, lab):
    record = teach(lab, *RESNETS, f"objective={name}", "trainer.batch_size=32", *SMALL_STEPS).record
    assert record["first_step"][OBJECTIVES[name]]["gradient"] > 0
    assert record["first_step"]["ce"]["gradient"] > 0


def test_what_losses_learn_and_remember_goes_on_after_a_stop_to_the_last_bit(tmp_path):
    stages = "student: [stage1, stage3], teacher: [stage1, stage3]"
    layers = {"crd": "student: stage3, teacher: stage3, negatives: 50", "ft": "student: stage3, teacher: stage3"}
    names = ("vid", "crd", "ft", "ofd", "reviewkd", "semckd")
    terms = [f"+objective.{name}={{weight: 0.01, {layers.get(name, stages)}}}" for name in names]
    words = (*RESNETS, "objective={ce: {weight: 1.0}}", *terms, "trainer.batch_size=32", "trainer.epochs=2")
    unbroken = teach(make_lab(tmp_path / "a"), *words)
    cast = Cast(cell(*words))
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(4)).get(stage)
    same(unbroken, make_lab(tmp_path / "b").get(stage))
    kept = load_file(unbroken.weights("best"))
    assert not any("term" in weight or "adaptor" in weight for weight in kept)


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_accumulation_is_refused_where_the_samples_of_a_batch_are_compared(name, capsys):
    assert main(["plan", *RESNETS, f"objective={name}", "student.trainer.accumulate=2", "hardware=cpu"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"trainer.accumulate=2: objective.{name} compares the samples of a batch with each other" in said


REUSING = (
    "student.network={_target_: kdrun.networks.reused_classifier.ReusedClassifier, maps: stage3, width: WIDTH, network: "
    "{_target_: kdrun.networks.resnet.ResNet, depth: 8, width: 4, in_channels: 1, image_size: 8}}"
)


def test_a_student_of_simkd_ends_with_the_classifier_of_its_teacher(tmp_path):
    words = (*RESNETS, "objective=simkd", REUSING.replace("WIDTH", "64"), "trainer.batch_size=32", *SMALL_STEPS)
    cast = Cast(cell(*words))
    lab = make_lab(tmp_path / "a")
    teacher = lab.get(supervised(cast.teacher))
    student = lab.get(distil(cast.student, teacher))
    for which in ("best", "last"):
        ours, theirs = load_file(student.weights(which)), load_file(teacher.weights("best"))
        assert all((ours[f"head.{part}"] == theirs[f"head.{part}"]).all() for part in ("weight", "bias"))
    assert student.record["first_step"]["simkd"]["gradient"] > 0
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(4)).get(stage)
    same(student, make_lab(tmp_path / "b").get(stage))


def test_a_classifier_that_does_not_fit_is_told_before_anything_is_trained(capsys):
    words = ["plan", *RESNETS, "objective=simkd", "hardware=cpu", "trainer=quick"]
    assert main([*words, REUSING.replace("WIDTH", "32")]) == 2
    assert "is [10, 32] and that of ResNet [10, 64]" in " ".join(capsys.readouterr().err.split())
