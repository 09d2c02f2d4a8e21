import random
import sys
from pathlib import Path

import numpy
import pytest
import torch

from kdrun import slots
from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.problems import UserError


def spec(classes: int = 10, shape=(1, 8, 8)) -> DataSpec:
    channels = shape[0]
    names = tuple(str(i) for i in range(classes))
    return DataSpec("shapes", names, shape, {"train": 6, "val": 2, "test": 2}, (0.5,) * channels, (0.25,) * channels)


RESNET = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 4}


@pytest.fixture(autouse=True)
def own_networks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with slots.allowing(["networks_for_tests"]):
        yield
    sys.modules.pop("networks_for_tests", None)


def states():
    return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_the_data_give_classes_channels_and_size():
    network = build_network(RESNET, spec(7, (3, 12, 12)), seed=0)
    assert network.head.out_features == 7 and network.stem.in_channels == 3
    own = build_network({"_target_": "networks_for_tests.RandomEverywhere"}, spec(7, (3, 12, 9)), seed=0)
    assert own.arguments == (7, 3, (12, 9))


def test_null_in_the_config_counts_as_left_out():
    assert build_network({**RESNET, "num_classes": None}, spec(7), seed=0).head.out_features == 7


def test_what_the_config_sets_is_kept():
    node = {"_target_": "networks_for_tests.RandomEverywhere", "img_size": 99, "num_labels": 10}
    assert build_network(node, spec(), seed=0).arguments == (10, 1, 99)


def test_weights_depend_on_node_and_seed_alone():
    first = build_network(RESNET, spec(), seed=3).state_dict()
    torch.rand(5), numpy.random.rand(5), random.random()
    again = build_network(RESNET, spec(), seed=3).state_dict()
    other = build_network(RESNET, spec(), seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_all_sources_of_random_numbers_are_seeded_and_put_back():
    before = states()
    node = {"_target_": "networks_for_tests.RandomEverywhere"}
    first, again, other = (build_network(node, spec(), seed) for seed in (3, 3, 4))
    assert states() == before
    assert torch.equal(first.weight, again.weight)
    assert (first.weight != other.weight).all()


def test_a_failing_build_puts_the_random_states_back_too():
    before = states()
    with pytest.raises(UserError):
        build_network({"_target_": "networks_for_tests.FourClasses"}, spec(), seed=0)
    assert states() == before


def test_the_trial_forward_leaves_no_trace_in_batch_norm():
    network = build_network({"_target_": "networks_for_tests.RandomEverywhere"}, spec(), seed=0)
    assert network.norm.num_batches_tracked.item() == 0
    assert not network.norm.running_mean.any()
    assert network.training


def test_a_number_of_classes_that_contradicts_the_data_is_refused():
    with pytest.raises(UserError, match="num_classes=100, but shapes has 10 classes"):
        build_network({**RESNET, "num_classes": 100}, spec(), seed=0)


def test_a_network_with_another_number_of_classes_is_found_when_built():
    with pytest.raises(UserError, match=r"gives \(2, 4\) for 2 images, expected \(2, 10\)"):
        build_network({"_target_": "networks_for_tests.FourClasses"}, spec(), seed=0)


def test_a_network_that_does_not_run_on_the_shape_is_found_when_built():
    with pytest.raises(UserError, match=r"does not run on images of shape \(1, 8, 8\)"):
        build_network({"_target_": "networks_for_tests.OneSizeOnly"}, spec(), seed=0)


def test_something_that_is_no_network_is_named():
    with pytest.raises(UserError, match="gave a int"):
        build_network({"_target_": "networks_for_tests.not_a_network"}, spec(), seed=0)


def test_arguments_the_target_refuses_are_shown():
    with pytest.raises(UserError) as caught:
        build_network({**RESNET, "depth": 9}, spec(), seed=0)
    assert "depth must be 6n + 2" in caught.value.lines[0]
    assert caught.value.lines[1] == "its arguments: depth=9, width=4"
