"""student=auto: the largest network that meets the deadline of the target."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kdrun.job.auto import lines
from kdrun.job.compose import compose
from kdrun.ledger import roofline
from kdrun.ledger.figures import read_figures
from kdrun.networks.resnet import ResNet
from kdrun.problems import UserError

PI = ["student=auto", "seed=0", "hardware=raspberry_pi_5"]


def estimate_of(width):
    network = ResNet(8, width, num_classes=10, in_channels=1, image_size=8)
    return roofline.estimate(network, (1, 8, 8), read_figures()["raspberry_pi_5"]).ms


@pytest.mark.parametrize(
    ("deadline", "chosen"),
    [
        (100, "resnet8"),
        ((1.01, 16), "resnet8"),
        ((0.99, 16), "resnet8_w4"),
        ((1.01, 2), "resnet8_w2"),
    ],
)
def test_the_largest_within_the_deadline(deadline, chosen):
    if isinstance(deadline, tuple):  # so much of the time of a network of this width
        deadline = deadline[0] * estimate_of(deadline[1])
    job = compose([*PI, f"hardware.deploy.deadline_ms={deadline}"])
    assert job.choices["student"] == job.auto["chosen"] == chosen and job.auto["kind"] == "estimate"
    assert job.hash == compose(["seed=0", "hardware=raspberry_pi_5", f"student={chosen}"]).hash, "an ordinary job"
    assert [one["name"] for one in job.auto["candidates"]] == ["resnet8", "resnet8_w4", "resnet8_w2"]
    assert [one["meets"] for one in job.auto["candidates"]] == [one["ms"] <= deadline for one in job.auto["candidates"]]
    assert "(estimate)" in lines(job.auto)[0] and all("estimate" in line for line in lines(job.auto)[1:])


def test_precision_is_that_of_the_target():
    slow, fast = (compose([*PI, f"hardware.deploy.precision={name}"]).auto for name in ("fp32", "int8"))
    assert all(a["ms"] > b["ms"] for a, b in zip(slow["candidates"], fast["candidates"], strict=True))


def test_a_family_of_ones_own():
    job = compose([*PI, "student.family=[resnet20,resnet56]", "teacher=resnet56"])
    assert job.choices["student"] == "resnet56" and len(job.auto["candidates"]) == 2


def test_on_the_target_itself_it_is_measured():
    threads = torch.get_num_threads()
    job = compose(["student=auto", "seed=0", "hardware.deploy.deadline_ms=10000"])
    assert job.auto["kind"] == "measured" and job.auto["chosen"] == "resnet8" and torch.get_num_threads() == threads
    assert all(one["ms"] > 0 for one in job.auto["candidates"]) and "estimate" not in "".join(lines(job.auto))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["student=auto", "seed=0"], ["needs a deadline", "raspberry_pi_5"]),
        ([*PI, "hardware.deploy.deadline_ms=1e-9"], ["no network of the family", "resnet8_w2", "would be met"]),
        (
            ["student=auto", "seed=0", "hardware=jetson_orin_nx", "hardware.deploy.precision=fp16"],
            ["no time can be estimated", "in fp16"],
        ),
        ([*PI, "student.family=[resnet8,resnt20]"], ["closest: resnet20"]),
        ([*PI, "model=ct_se_resnet"], ["student.family="]),
    ],
)
def test_what_cannot_be_chosen_is_told(words, said):
    with pytest.raises(UserError) as caught:
        compose(words)
    assert all(word in "\n".join(caught.value.lines) for word in said)


def test_a_command_without_it_imports_no_torch():
    code = "import sys; from kdrun.config.compose import compose; compose(['seed=0']); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
