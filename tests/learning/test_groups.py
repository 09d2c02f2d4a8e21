"""Parameter groups: which parameters have which settings, that they are trained with them, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file

from kdrun.federation.loop import Loop
from kdrun.job.cells import expected
from kdrun.learning import seeds
from kdrun.learning.groups import make_optimizer, parameter_groups
from kdrun.networks.build import build_network
from kdrun.networks.cnn import CNN
from kdrun.networks.resnet import ResNet
from kdrun.problems import UserError

from .stages import cell, make_lab, teach

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 0.05}
NONE = {"norms_and_biases": {"weight_decay": 0.0}}


def settings(network, groups, **beside) -> dict[str, dict]:
    """Name of each parameter -> its settings, looked up one by one."""
    named = {id(p): name for name, p in network.named_parameters()}
    named |= {id(p): f"{key}.{name}" for key, module in beside.items() for name, p in module.named_parameters()}
    parameters = [p for module in (network, *beside.values()) for p in module.parameters()]
    made = parameter_groups(parameters, network, groups, beside)
    found = {named[id(p)]: {k: v for k, v in group.items() if k != "params"} for group in made for p in group["params"]}
    assert sorted(found) == sorted(named.values()) and sum(len(group["params"]) for group in made) == len(named)
    return found


def test_norms_and_biases_are_all_that_has_one_dimension():
    found = settings(ResNet(8, 4, "B"), NONE, adaptor=torch.nn.Linear(3, 2))
    free = {name for name, each in found.items() if each}
    assert free == {name for name in found if "norm" in name or name.endswith("bias") or "shortcut.1." in name}
    assert "adaptor.bias" in free and "adaptor.weight" in found


def test_parts_globs_and_groups_that_overlap():
    groups = {**NONE, "head": {"lr": 0.5}, "late": {"parameters": "stage3.*conv?.weight", "factor": 2.0}}
    found = settings(ResNet(14, 4), groups)
    assert found["head.weight"] == {"lr": 0.5} and found["head.bias"] == {"lr": 0.5, "weight_decay": 0.0}
    assert [name for name, each in found.items() if "factor" in each] == [
        f"stage3.{block}.conv{layer}.weight" for block in (0, 1) for layer in (1, 2)
    ]
    assert found["stem.weight"] == {} and found["stage3.0.norm1.weight"] == {"weight_decay": 0.0}


def test_a_step_is_that_of_torch_with_such_groups():
    network, other = (CNN((2, 3), num_classes=2, in_channels=1, image_size=4) for _ in range(2))
    other.load_state_dict(network.state_dict())
    groups = {**NONE, "head": {"factor": 3.0}}
    optimizer = make_optimizer({"optimizer": SGD, "groups": groups}, list(network.parameters()), network, {})
    for each in (network, other):
        each(torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)).square().sum().backward()
    optimizer.step()
    for name, parameter in other.named_parameters():
        decay = 0.0 if parameter.ndim == 1 else 0.05
        rate = 0.3 if name.startswith("head") else 0.1
        stepped = parameter - rate * (parameter.grad + decay * parameter)
        torch.testing.assert_close(dict(network.named_parameters())[name], stepped)
    assert all("factor" not in group for group in optimizer.param_groups)


def test_without_groups_nothing_is_grouped():
    network = CNN((2,), image_size=4)
    (group,) = make_optimizer({"optimizer": SGD, "groups": {}}, list(network.parameters()), network, {}).param_groups
    assert all(one is other for one, other in zip(group["params"], network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["student.trainer.groups.bdy.lr=1"], "closest: body"),
        (["student.trainer.groups.x={parameters: 'boddy*', lr: 1}"], "no parameters 'boddy"),
        (["trainer.groups.head.parameters=head"], "sets nothing"),
        (["trainer.groups.head={lr: 1, factor: 2}"], "either lr or factor"),
        (["trainer.groups={head: {lr: 1}, h: {parameters: 'head*', lr: 2}}"], "in both groups"),
    ],
)
def test_mistakes_are_told_before_data_are_loaded(words, said):
    with pytest.raises(UserError, match=said):
        expected(cell("teacher=resnet8", "student=cnn_small", *words))


def test_a_setting_that_the_optimizer_lacks():
    from kdrun.learning.beforehand import _optimizer

    with pytest.raises(UserError, match="LBFGS"):
        _optimizer({"optimizer": {"_target_": "torch.optim.LBFGS"}, "groups": NONE}, "cpu")
    with pytest.raises(UserError, match="Rprop has no weight_decay"):
        _optimizer({"optimizer": {"_target_": "torch.optim.Rprop"}, "groups": NONE}, "cpu")


def test_a_rate_of_zero_leaves_a_part_as_it_began(tmp_path):
    """In a job of two stages, under a schedule with warm-up and cosine."""
    taught = teach(
        make_lab(tmp_path),
        "student.trainer.groups={h: {parameters: '1.weight', lr: 0.0}, last: {parameters: '3.*', factor: 2.0}}",
    )
    config = cell()
    from kdrun.domains.load import load_data

    spec = load_data(config["data"], config["paths"]).spec
    begun = build_network(config["student"]["network"], spec, seeds.derive(0, "weights")).state_dict()
    ended = load_file(taught.weights("last"))
    still = [name for name in ended if torch.equal(ended[name], begun[name])]
    assert still == ["1.weight"]


def test_in_a_federation_each_network_has_its_groups():
    class Task:
        def collection(self):
            return torch.nn.Identity()

    trainer = {"optimizer": SGD, "groups": {**NONE, "head": {"factor": 0.0}}, "batch_size": 4}
    loop = Loop(Task(), trainer, 0)
    networks = [CNN((2,), image_size=4), ResNet(8, 2, image_size=4)]
    optimizer = loop._optimizer_of(networks, [list(network.parameters()) for network in networks])
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for network in networks:
        for name, parameter in network.named_parameters():
            expected = (0.0 if name.startswith("head") else 0.1, 0.0 if parameter.ndim == 1 else 0.05)
            assert rates[id(parameter)] == expected
    assert len(rates) == sum(len(list(network.parameters())) for network in networks)
