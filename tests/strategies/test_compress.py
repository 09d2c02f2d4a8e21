"""Compressors in an order of one's own, in a lab that fits nothing, and once for real."""

from __future__ import annotations

import pytest

from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.compress import Compress


class Notes:
    def __init__(self):
        self.stages = []

    def get(self, stage):
        stage = stage.started(self.get)
        self.stages.append(stage)
        return Result(stage.role, stage, {})


@pytest.fixture(scope="module")
def cell():
    return compose(["strategy=compress", "seed=1", "trainer.epochs=10", "trainer.optimizer.lr=0.2"]).cells[0]


def steps(lab):
    """(role, start, taught, share taken out, rounded, epochs, rate) of the student's stages."""
    found = []
    for stage in lab.stages:
        network = stage.learner["network"]
        if stage.role != "teacher":
            settings = stage.trainer["epochs"], pytest.approx(stage.trainer["optimizer"]["lr"])
            made = network.get("prune", 0), network.get("quantize", False)
            found.append((stage.role, stage.start and stage.start.fingerprint, stage.taught, *made, *settings))
    return found


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            ["prune", "distill", "quantize"],
            [
                ("alone", None, False, 0, False, 10, 0.2), ("student_prune", "alone", True, 0.5, False, 2, 0.02),
                ("student_distill", "student_prune", True, 0.5, False, 10, 0.2),
                ("student", "student_distill", True, 0.5, True, 2, 0.02),
            ],
        ),
        (
            ["distill", "prune", "quantize"],
            [
                ("student_distill", None, True, 0, False, 10, 0.2), ("student_prune", "student_distill", True, 0.5, False, 2, 0.02),
                ("student", "student_prune", True, 0.5, True, 2, 0.02),
            ],
        ),
        (
            ["quantize", "prune"],
            [
                ("alone", None, False, 0, False, 10, 0.2), ("student_quantize", "alone", True, 0.0, True, 2, 0.02),
                ("student", "student_quantize", True, 0.5, True, 2, 0.02),
            ],
        ),
    ],
)  # fmt: skip
def test_the_order_is_that_of_the_stages(cell, order, expected):
    lab = Notes()
    strategy = Compress(order=order)
    strategy.run(lab, Cast(cell))
    assert steps(lab) == expected
    assert strategy.student_epochs(Cast(cell)) == sum(row[5] for row in expected)


def test_the_arm_without_a_teacher_takes_the_same_steps(cell):
    taught, untaught = Notes(), Notes()
    Compress().run(taught, Cast(cell))
    Compress().control("untaught", untaught, Cast(cell))
    assert [row[3:] for row in steps(taught)] == [row[3:] for row in steps(untaught)]
    assert not any(stage.taught for stage in untaught.stages)
    assert steps(untaught)[0] == steps(taught)[0], "both start from the student on labels"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": ["prune", "distil"]}, "closest: distill"),
        ({"order": ["prune", "prune"]}, "different steps"),
        ({"order": []}, "one to three"),
        ({"ratio": 1.0}, "strategy.ratio"),
        ({"importance": "l3"}, "l2, l1"),
        ({"tune_epochs": 0}, "at least 1"),
        ({"tune_rate": 0.0}, "above 0"),
    ],
)
def test_wrong_options_are_told(options, said):
    with pytest.raises(UserError) as caught:
        Compress(**options)
    assert said in "\n".join(caught.value.lines)


def test_text_is_refused_when_the_config_is_composed():
    with pytest.raises(UserError) as caught:
        compose(["strategy=compress", "model=nmt_transformer", "seed=0"])
    assert "hardware.deploy.precision=int8" in caught.value.lines[1]


def test_a_real_run_ends_with_a_smaller_network_in_8_bits(tmp_path):
    import kdrun.api as api
    from kdrun.networks.compressed import RoundedConv2d

    words = [
        "strategy=compress", "student=resnet8_w4", "teacher=resnet8_w8", "seed=0", "trainer.epochs=2", "data.limit.train=200",
        "tracker=none", "card=false", f"paths.outputs={tmp_path}", "strategy.controls=[alone]",
    ]  # fmt: skip
    run = api.run(*words)
    stages = {stage["label"]: stage for stage in run.record["stages"]}
    assert run.status == "done" and stages["student/seed=0"]["flops"] < 0.7 * stages["alone/seed=0"]["flops"]
    network = api.load(run.id, outputs=tmp_path)
    assert any(isinstance(part, RoundedConv2d) for part in network.modules())


def test_what_was_trained_in_8_bits_is_exported_with_its_own_ranges(tmp_path):
    """The file says what the network says: no ranges are looked for in training samples, and weights lie in it as int8."""
    pytest.importorskip("onnx")
    import kdrun.api as api
    from kdrun.hardware.exports.export import export
    from kdrun.hardware.exports.subjects import subjects
    from kdrun.tracking.registry import find_run

    words = [
        "strategy=compress", "'strategy.order=[quantize]'".strip("'"), "student=resnet8_w4", "teacher=resnet8_w8", "seed=0",
        "trainer.epochs=2", "data.limit.train=200", "tracker=none", f"paths.outputs={tmp_path}", "strategy.controls=[]",
    ]  # fmt: skip
    run = api.run(*words)
    [student] = [one for one in subjects(find_run(tmp_path, run.id)) if one.arm == "student"]
    rounded = export(student, tmp_path / "exports", "onnx", "int8")
    whole = export(student, tmp_path / "exports", "onnx", "fp32")
    assert rounded.labels_agree == 1.0 and rounded.max_difference < 1e-4
    assert rounded.bytes < 0.7 * whole.bytes
    import onnx

    stored = {one.data_type for one in onnx.load(rounded.path).graph.initializer}
    assert onnx.TensorProto.INT8 in stored
