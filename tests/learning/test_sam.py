"""Sharpness-aware minimisation: the step against one that is written out, and what surrounds it in a stage."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from kdrun.learning.backend import Backend
from kdrun.learning.balance import Balance
from kdrun.learning.beforehand import _unscaled
from kdrun.learning.report import Interrupted
from kdrun.learning.sam import SAM
from kdrun.learning.step import train_step
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, supervised

from .stages import Silent, cell, make_lab
from .test_resume import same
from .test_step import Rows, batch_of

BASES = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.1),
}
STEPS, RHO, RATE = 3, 0.05, 0.1


def network_of(kind="plain"):
    torch.manual_seed(0)
    middle = {"plain": nn.Tanh(), "norm": nn.BatchNorm1d(5), "dropout": nn.Dropout(0.5)}[kind]
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3)).train()


def trained(network, optimizer, objective=None, steps=STEPS, **options):
    backend = Backend(Rows(), network, **options)
    backend.trained = [list(network.parameters())]
    backend.serve(optimizer)
    objective = build_objective(objective or {"ce": {}})
    torch.manual_seed(1)
    return [train_step(network, None, objective, batch_of(), optimizer, step, backend) for step in range(steps)]


def written_out(network, base, rho=RHO):
    """Equations 2 and 3 of the paper for each number of each parameter, on a copy of the network."""
    optimizer = base(network.parameters(), lr=RATE)
    batch = batch_of()
    for _ in range(STEPS):
        climbed, plain = copy.deepcopy(network), copy.deepcopy(network)
        nn.functional.cross_entropy(plain(batch["inputs"]), batch["targets"]).backward()
        norm = sum(float((each.grad**2).sum()) for each in plain.parameters()) ** 0.5
        for above, slope in zip(climbed.parameters(), plain.parameters(), strict=True):
            above.data = above.data + rho * slope.grad / norm
        nn.functional.cross_entropy(climbed(batch["inputs"]), batch["targets"]).backward()
        for own, above in zip(network.parameters(), climbed.parameters(), strict=True):
            own.grad = above.grad.clone()
        optimizer.step()
    return network


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_steps_as_written_out(base, accumulate):
    network, base = network_of(), BASES[base]
    trained(network, SAM(network.parameters(), base, lr=RATE, rho=RHO), accumulate=accumulate)
    expected = written_out(network_of(), base)
    for own, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    plain = written_out(network_of(), base, rho=0.0)
    assert not torch.allclose(plain[0].weight, expected[0].weight, rtol=1e-3)


def test_without_length_it_is_the_base_optimizer():
    one, other = network_of(), network_of()
    trained(one, SAM(one.parameters(), BASES["sgd"], lr=RATE, rho=0.0))
    trained(other, BASES["sgd"](other.parameters(), lr=RATE))
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_where_there_is_no_slope_nothing_is_added():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SAM([weight], partial(torch.optim.SGD), lr=1.0, rho=0.5)

    def closure():
        weight.grad = torch.zeros_like(weight)
        return weight.sum()

    assert optimizer.step(closure).item() == 3.0
    assert weight.tolist() == [1.0, 2.0]


def test_weights_are_as_they_were_where_the_second_pass_fails():
    weight = nn.Parameter(torch.tensor([0.1, 0.3]))
    optimizer, calls = SAM([weight], partial(torch.optim.SGD), lr=1.0, rho=0.7), []

    def closure():
        calls.append(weight.tolist())
        if len(calls) == 2:
            raise RuntimeError("no more memory")
        weight.grad = torch.ones_like(weight)
        return weight.sum()

    before = weight.tolist()
    with pytest.raises(RuntimeError):
        optimizer.step(closure)
    assert calls[1] != before and weight.tolist() == before


def test_batch_statistics_are_those_of_the_first_pass():
    one, other = network_of("norm"), network_of("norm")
    trained(one, SAM(one.parameters(), BASES["sgd"], lr=RATE, rho=RHO), steps=1)
    trained(other, BASES["sgd"](other.parameters(), lr=RATE), steps=1)
    assert one[1].num_batches_tracked == 1
    torch.testing.assert_close(one[1].running_mean, other[1].running_mean, rtol=0, atol=0)
    torch.testing.assert_close(one[1].running_var, other[1].running_var, rtol=0, atol=0)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_both_passes_drop_the_same_units():
    one, other = network_of("dropout"), network_of("dropout")
    masks = []
    one[1].register_forward_hook(lambda module, given, output: masks.append(output == 0))
    trained(one, SAM(one.parameters(), BASES["sgd"], lr=RATE, rho=RHO), steps=2)
    after = torch.rand(1)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3]) and not torch.equal(masks[0], masks[2])
    trained(other, BASES["sgd"](other.parameters(), lr=RATE), steps=2)
    assert torch.equal(after, torch.rand(1))  # as many numbers are drawn as by an optimizer of one pass


def test_balance_is_measured_at_the_weights_before_the_step(monkeypatch):
    network, measured = network_of(), []
    monkeypatch.setattr(Backend, "gradient_norm", lambda self, value, scale=1.0: measured.append(1) or 1.0)
    backend = Backend(Rows(), network)
    backend.trained, backend.balance = [list(network.parameters())], Balance(1)
    optimizer = SAM(network.parameters(), BASES["sgd"], lr=RATE, rho=RHO)
    backend.serve(optimizer)
    objective = build_objective({"ce": {}, "label_entropy": {"_target_": "kdrun.objectives.ce.ce"}})
    train_step(network, None, objective, batch_of(), optimizer, 0, backend)
    assert len(measured) == 2  # each term once


def test_state_is_that_of_the_base_and_goes_on_to_the_bit():
    one, other = network_of(), network_of()
    first = SAM(one.parameters(), BASES["adamw"], lr=RATE, rho=RHO)
    trained(one, first)
    other.load_state_dict(one.state_dict())
    second = SAM(other.parameters(), BASES["adamw"], lr=RATE, rho=RHO)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.param_groups is second.base.param_groups and second.state is second.base.state
    trained(one, first), trained(other, second)
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


WORDS = ("teacher.trainer.optimizer=sam", "data.limit.train=128", "trainer.accumulate=2", "trainer.epochs=2")


@pytest.mark.parametrize("words", [("teacher=resnet8_w2",), ("hardware.precision=bf16",)], ids=["batch norm", "bf16"])
def test_a_stage_stopped_and_resumed_equals_one_never_stopped(tmp_path, words):
    stage = supervised(Cast(cell(*WORDS, *words)).teacher)
    unbroken = make_lab(tmp_path / "a").get(stage)
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(3)).get(stage)
    resumed = make_lab(tmp_path / "b").get(stage)
    same(unbroken, resumed)
    assert resumed.record["cost"]["tries"] == 2


def test_fp16_is_refused_before_anything_is_fitted():
    optimizer = SAM([nn.Parameter(torch.zeros(1))], BASES["sgd"], lr=RATE)
    with pytest.raises(UserError, match="precision=fp16"):
        _unscaled(optimizer, {"optimizer": {"_target_": "kdrun.learning.sam.SAM"}}, {"precision": "fp16"})


def test_two_gradients_a_step_are_in_the_cost(tmp_path):
    lab = make_lab(tmp_path)
    plain, sharp = (
        lab.get(supervised(Cast(cell("trainer.epochs=1", *words)).teacher)).record["cost"]
        for words in ((), ("teacher.trainer.optimizer=sam",))
    )
    assert sharp["flops"]["total"] == 2 * plain["flops"]["total"] and sharp["steps"] == plain["steps"]
    assert sharp["flops"]["method"].endswith("a training step is 6 of them")


def test_an_optimizer_that_asks_for_gradients_itself_is_no_base():
    with pytest.raises(ValueError, match="base=LBFGS"):
        SAM(network_of().parameters(), torch.optim.LBFGS, lr=RATE)
