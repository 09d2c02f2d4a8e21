"""Options of how a training step is computed: each ends where the plain run ends."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kdrun.job.compose import compose
from kdrun.learning.execution import Execution, check_execution, compilable, segments
from kdrun.networks.capture import Capture
from kdrun.networks.resnet import ResNet
from kdrun.networks.spiking import Spiking
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, supervised

from .stages import cell, make_lab, teach

TOLERANCE = 1e-5
"""Largest difference of a weight after nine steps, of compiled code that adds in another order."""
RESNETS = ("student=resnet8_w2", "trainer.epochs=1", "teacher.trainer.epochs=3", "teacher.source=online")


def weights(result) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(result.weights("last"))


def close(one, other, tolerance: float) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return teach(make_lab(tmp_path_factory.mktemp("plain")), *RESNETS)


@pytest.mark.parametrize("word", ["trainer.activation_checkpointing=true", "hardware.channels_last=true"])
def test_ends_as_the_plain_run(word, plain, tmp_path):
    close(teach(make_lab(tmp_path), *RESNETS, word), plain, TOLERANCE)


def test_compiled_student_and_teacher_end_as_the_plain_ones(tmp_path, monkeypatch):
    compiled, make = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiled.append(options) or make(function, **options)
    )
    words = ("teacher.source=online", "trainer.epochs=1", "teacher.trainer.epochs=3")
    close(
        teach(make_lab(tmp_path / "a"), *words, "trainer.compile=aot_eager"),
        teach(make_lab(tmp_path / "b"), *words),
        TOLERANCE,
    )
    assert compiled == 3 * [{"backend": "aot_eager"}]  # the teacher's own stage, then student and teacher


def test_fused_optimizers_end_as_the_plain_ones(tmp_path):
    adam = ("trainer.optimizer={_target_: torch.optim.AdamW, lr: 0.001}", "trainer.epochs=1")
    single = make_lab(tmp_path / "a").get(supervised(Cast(cell(*adam)).student))
    fused = make_lab(tmp_path / "b").get(supervised(Cast(cell(*adam, "+trainer.optimizer.fused=true")).student))
    close(fused, single, TOLERANCE)


def test_options_change_no_hash_at_their_defaults():
    plain = compose(["data=digits"])
    said = ["trainer.compile=null", "trainer.activation_checkpointing=false", "trainer.sync_batch_norm=false"]
    assert compose(["data=digits", *said]).hash == plain.hash
    assert compose(["data=digits", "trainer.compile=eager"]).hash != plain.hash


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(8, 2, in_channels=1, image_size=8).train()


def step(network: nn.Module, execution, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with execution():
        output = network(inputs)
    output.square().sum().backward()
    return output, [parameter.grad for parameter in network.parameters()]


def test_recomputed_activations_give_the_same_bits_and_buffers(network):
    other, inputs = copy.deepcopy(network), torch.randn(6, 1, 8, 8)
    kept, again = step(network, nullcontext, inputs), step(other, Execution(other, recompute=True), inputs)
    assert torch.equal(kept[0], again[0])
    assert all(torch.equal(*pair) for pair in zip(kept[1], again[1], strict=True))
    assert all(torch.equal(*pair) for pair in zip(network.buffers(), other.buffers(), strict=True))


def test_recomputing_keeps_fewer_activations(network):
    def kept(execution) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t), execution():
            network(torch.randn(6, 1, 8, 8))
        return sum(sizes)

    assert len(segments(network)) == 3
    assert kept(Execution(network, recompute=True)) < 0.5 * kept(nullcontext)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("before:stage2", {"compiler": "eager"}),
        ("stage2", {"compiler": "eager", "recompute": True}),
        ("stage2", {"recompute": True}),
    ],
)
def test_captures_are_those_of_the_plain_pass(network, path, options):
    capture = Capture(network, {path: "objective.x.student"})
    inputs, plain = torch.randn(6, 1, 8, 8), copy.deepcopy(network)
    _, expected = Capture(plain, {path: "x"}).of(lambda: plain(inputs))
    with Execution(network, capture=capture, features=True, **options)():
        _, taken = capture.of(lambda: network(inputs))
    torch.testing.assert_close(taken[path], expected[path])
    sum(taken[path]).sum().backward()
    assert next(network.parameters()).grad is not None


def test_nothing_of_it_is_left_after_the_pass(network):
    execution = Execution(network, compiler="eager", recompute=True)
    before = [dict(module.__dict__) for module in network.modules()]
    with execution():
        assert sum("forward" in module.__dict__ for module in network.modules()) == 6
    assert [module.__dict__.keys() for module in network.modules()] == [each.keys() for each in before]
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


def test_what_is_compiled_holds_nothing_that_is_watched(network):
    assert compilable(network, set(), set()) == [network]
    parts = compilable(network, {network.stage2}, set())
    assert network.stage2 in parts and network not in parts
    assert network.stage2 not in compilable(network, {network.stage2}, {network.stage2})


@pytest.mark.parametrize("other", [{"sync_batch_norm": True}, {"sharding": "fsdp"}])
def test_what_does_not_go_together_is_refused(other):
    with pytest.raises(UserError, match="compile=inductor"):
        check_execution({"compile": "inductor", **other})


def test_a_network_whose_parts_change_during_a_pass_is_not_computed_again(network):
    spiking = Spiking(network, steps=2)
    with pytest.raises(UserError, match=r"activation_checkpointing=true: parts of Spiking"):
        Execution(spiking, recompute=True)
    images = torch.randn(3, 1, 8, 8)
    plain = spiking.eval()(images)["steps"]
    with Execution(spiking, compiler="aot_eager")():
        assert spiking(images)["steps"].equal(plain)
