"""Nested students: the whole network is its parent, what is cut out is what was masked, and the router comes to its budgets."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network
from kdrun.networks.weights import load_weights, read_metadata, save_weights
from kdrun.objectives.budget import budget
from kdrun.problems import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
SPEC = DataSpec("images", tuple("abcde"), (1, 12, 12), {}, (0.0,), (1.0,))
IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
RESNET = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 8}
BUDGETS = [1.0, 0.7, 0.4]
NETWORKS = {
    "resnet": RESNET,
    "resnet_b": {**RESNET, "shortcut": "B"},
    **{name: None for name in ("mlp_64", "cnn_small", "vgg8", "wrn_16_1", "resnet8x4")},
}


def base(name):
    return NETWORKS[name] or yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())


def node(target, network=RESNET, **settings):
    return {"_target_": f"kdrun.networks.elastic.{target}", "base": {**network, "_partial_": True}, **settings}


def trained(tmp_path, network=RESNET, **settings):
    """(the parent, a nested network that started from it, ranked; its statistics and router are no longer those it began with)."""
    parent = build_network(network, SPEC, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, buffer in parent.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator))
    file = save_weights(parent, tmp_path / "parent.safetensors", SPEC, network)
    nested = build_network(node("Elastic", network, budgets=BUDGETS, **settings), SPEC, seed=2)
    load_weights(nested, file, SPEC)
    nested.calibrate(nested, [IMAGES])
    return parent.eval(), nested


def statistics_apart(nested):
    """Each budget has statistics of its own, as after training."""
    with torch.no_grad():
        for name, buffer in nested.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=torch.Generator().manual_seed(len(name))))
    return nested


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_budget_is_its_parent_to_the_bit(name, tmp_path):
    parent, nested = trained(tmp_path, base(name))
    assert torch.equal(nested.eval()(IMAGES), parent(IMAGES))
    assert nested.ranked


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("router", [True, False])
def test_what_is_cut_out_gives_what_was_masked(name, router, tmp_path):
    _, nested = trained(tmp_path, base(name), router=router)
    statistics_apart(nested).eval()
    file = save_weights(
        nested, tmp_path / "nested.safetensors", SPEC, node("Elastic", base(name), budgets=BUDGETS, router=router)
    )
    sizes = []
    for share in BUDGETS:
        nested.evaluated = share
        student = build_network(node("Slice", base(name), budget=share, routed=router), SPEC, seed=5)
        load_weights(student, file, SPEC)
        assert torch.allclose(student.eval()(IMAGES), nested(IMAGES), atol=1e-5), share
        assert 2 * nested.body.cost({}, "macs") == Classification(SPEC).flops(
            nested
        )  # masks leave out no multiplication
        kept = save_weights(student, tmp_path / f"{share}.safetensors", SPEC, node("Slice", base(name), budget=share))
        again = build_network(read_metadata(kept)["network"], SPEC, seed=6)
        load_weights(again, kept, SPEC)
        assert torch.equal(again.eval()(IMAGES), student(IMAGES))
        sizes.append(parameters(student))
        assert nested.body.cost(student.kept, "parameters") == pytest.approx(parameters(student))
        assert 2 * nested.body.cost(student.kept, "macs") == pytest.approx(Classification(SPEC).flops(student))
        assert parameters(student) <= 1.051 * share * sizes[0]


@pytest.mark.parametrize("router", [True, False])
def test_a_smaller_student_lies_within_a_larger_one(router, tmp_path):
    _, nested = trained(tmp_path, router=router)
    kept = []
    for share in (1.0, 0.7, 0.55, 0.4):
        _, widths = nested.cut(share)
        ranks = nested._ranks()
        kept.append(
            {name: set(torch.nonzero(ranks[name] < count).flatten().tolist()) for name, count in widths.items()}
        )
    for larger, smaller in pairwise(kept):
        assert all(smaller[name] <= larger[name] for name in larger) and smaller != larger


def test_channels_that_say_nothing_are_ranked_last(tmp_path):
    _, nested = trained(tmp_path)
    silent = [1, 4, 6]
    block = nested.network.stage1[0]
    with torch.no_grad():
        block.norm1.weight[silent] = 0
        block.norm1.bias[silent] = 0
    nested.ranked.fill_(False)
    nested.calibrate(nested, [IMAGES])
    rank = nested._ranks()["stage1.0.conv1"]
    assert sorted(rank.tolist()) == list(range(8)) and set(rank[silent].tolist()) == {5, 6, 7}


def test_the_router_comes_to_its_budgets(tmp_path):
    torch.manual_seed(0)
    _, nested = trained(tmp_path)
    optimizer, told, steps = torch.optim.Adam(nested.router.parameters(), 1e-2), [], 150
    handle = nested.told.register_forward_hook(lambda module, inputs, output: told.append(output))
    logits = torch.zeros(2, 5)
    for step in range(steps):
        nested.train().pace(step, step / steps)
        nested(IMAGES)
        optimizer.zero_grad()
        if (value := budget(logits, [told.pop()]).mean()).requires_grad:  # not once widths are settled
            value.backward()
            optimizer.step()
    handle.remove()
    whole = parameters(nested.cut(1.0)[0])
    for share in BUDGETS:
        assert parameters(nested.cut(share)[0]) / whole == pytest.approx(share, rel=0.051), share
    assert parameters(nested.cut(0.55)[0]) / whole == pytest.approx(0.55, rel=0.1)  # a budget that was never trained


def test_latency_is_measured_once_and_is_kept_with_the_weights(tmp_path, monkeypatch):
    from kdrun.networks import elastic_timing

    monkeypatch.setattr(
        elastic_timing, "measured", lambda networks, *rest: [1e-6 * parameters(network) for network in networks]
    )
    _, nested = trained(tmp_path, base("mlp_64"), cost="latency")
    assert nested.timing.sum() > 0 and nested._cost_of([0] * len(nested.groups)) == pytest.approx(1)
    again = build_network(node("Elastic", base("mlp_64"), budgets=BUDGETS, cost="latency"), SPEC, seed=9)
    assert again._cost({}) == nested.body.cost({}, "parameters")  # until it was measured
    made = node("Elastic", base("mlp_64"), budgets=BUDGETS, cost="latency")
    load_weights(again, save_weights(nested, tmp_path / "nested.safetensors", SPEC, made), SPEC)
    assert torch.equal(again.timing, nested.timing)
    again.calibrate(again, [IMAGES])  # it was ranked, so nothing is measured again
    assert torch.equal(again.timing, nested.timing)


def test_the_budget_of_a_step_is_a_function_of_seed_and_step(tmp_path):
    _, nested = trained(tmp_path, sampling="curriculum")
    _, again = trained(tmp_path, sampling="curriculum")
    drawn = []
    for network in (nested, again):
        numbers = []
        for step in range(400):
            network.pace(step, step / 400)
            numbers.append(network._drawn())
        drawn.append(numbers)
    assert drawn[0] == drawn[1] and set(drawn[0]) == {0, 1, 2}
    halves = [drawn[0][:200].count(0) / 200, drawn[0][200:].count(0) / 200]
    assert halves[0] == pytest.approx(1 / 3, abs=0.08) and halves[1] == pytest.approx(1 / 2.1, abs=0.08)


def test_statistics_are_those_of_the_budget_that_was_drawn(tmp_path):
    _, nested = trained(tmp_path)
    before = nested.network.norm.running_mean.clone()
    nested.train().pace(0, 0.0)
    number = nested._drawn()
    nested(IMAGES)
    changed = (nested.network.norm.running_mean != before).any(1)
    assert changed.tolist() == [row == number for row in range(3)]
    assert nested.network.norm.mask is None


def test_statistics_of_a_student_that_was_cut_out_are_its_own(tmp_path):
    _, nested = trained(tmp_path)
    statistics_apart(nested)
    file = save_weights(nested, tmp_path / "nested.safetensors", SPEC, node("Elastic", budgets=BUDGETS))
    student = build_network(node("Slice", budget=0.4, routed=True), SPEC, seed=5)
    load_weights(student, file, SPEC)
    held = [part.momentum for part in student.modules() if isinstance(part, nn.BatchNorm2d)]
    student.calibrate(student, [IMAGES[:3], IMAGES[3:]])
    seen = student.network.stem(IMAGES)
    assert torch.allclose(student.network.norm.running_mean, seen.mean((0, 2, 3)), atol=1e-6)
    assert student.training and [p.momentum for p in student.modules() if isinstance(p, nn.BatchNorm2d)] == held
    before = {name: value.clone() for name, value in student.state_dict().items()}
    whole = build_network(node("Slice", budget=1.0), SPEC, seed=5)
    load_weights(whole, file, SPEC)
    whole.calibrate(whole, [IMAGES])  # the whole network is what was trained
    nested.evaluated = 1.0
    assert torch.equal(whole.eval()(IMAGES), nested.eval()(IMAGES))
    again = build_network(node("Slice", budget=0.4, kept=student.kept), SPEC, seed=6)
    save_weights(student, tmp_path / "own.safetensors", SPEC, node("Slice", budget=0.4))
    load_weights(again, tmp_path / "own.safetensors", SPEC)
    again.calibrate(again, [IMAGES[:1]])  # weights of its own come with statistics of their own
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_soft_masks_fade_into_hard_ones(tmp_path):
    _, nested = trained(tmp_path)
    nested.train().pace(0, 0.0)
    start = nested._soft(1, torch.device("cpu"))
    nested.pace(49, 0.49)
    end = nested._soft(1, torch.device("cpu"))
    assert start.max(-1).values.mean() < 0.7 < 0.9 < end.max(-1).values.mean()
    nested.pace(50, 0.5)
    assert torch.equal(nested._soft(1, torch.device("cpu")), nested._hard(0.7, torch.device("cpu")))


def test_a_budget_out_of_reach_is_told():
    with pytest.raises(UserError, match="cannot be reached"):
        build_network(node("Elastic", budgets=[1.0, 0.01]), SPEC, 0)
    with pytest.raises(UserError, match="has no channels that can be left out"):
        build_network(
            node("Elastic", {"_target_": "kdrun.networks.mlp.MLP", "hidden": []}, budgets=[1.0, 0.5]), SPEC, 0
        )


@pytest.mark.parametrize(
    ("told", "value"),
    [((0.5, 0.4, 0.3), 0.25), ((0.41, 0.4, 0.3), 0.0), ((0.9, 1.0, 0.02), 0.1 + 0.2), ((0.3, 0.4, 0.0), 0.25)],
)
def test_the_loss_is_how_far_the_cost_is_from_its_budget(told, value):
    values = budget(torch.zeros(4, 5), [torch.tensor(told)])
    assert values.shape == (4,) and torch.allclose(values, torch.full((4,), value), atol=1e-6)


def test_layers_that_are_not_masked_are_as_they_were(tmp_path):
    parent, nested = trained(tmp_path, base("mlp_64"))
    names = {name.removeprefix("network.") for name in nested.state_dict() if name.startswith("network.")}
    assert names == set(parent.state_dict())
    assert isinstance(nested.network[-1], nn.Linear) and nested.network[-1].out_features == 5
