"""ResNets of basic blocks at paper scale: parameters as published, shapes, pre-activation; presets of SeAl-KD with its settings."""

from pathlib import Path

import pytest
import torch

from kdrun.config.compose import compose
from kdrun.domains.images.domain import DOMAIN
from kdrun.job.cells import expected
from kdrun.learning.probe import probe
from kdrun.networks.basic_resnet import BasicResNet
from kdrun.networks.build import build_network
from kdrun.networks.wide_resnet import PreactBlock

CONF = Path(__file__).resolve().parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "experiment" / "spiking").glob("[a-z]*.yaml"))
LARGE = {"large": True, "image_size": 224, "num_classes": 1000}
NORM = 2  # parameters of batch normalisation for a channel
RESNET19 = (
    3 * 128 * 9 + 128 * NORM
    + 6 * (128 * 128 * 9 + 128 * NORM)
    + 128 * 256 * 9 + 5 * 256 * 256 * 9 + 128 * 256 + 7 * 256 * NORM
    + 256 * 512 * 9 + 3 * 512 * 512 * 9 + 256 * 512 + 5 * 512 * NORM
    + 512 * 256 + 256 + 256 * 10 + 10
)  # fmt: skip
PREACT34 = 21_797_672 - NORM * (128 + 256 + 512) - NORM * 64 + NORM * 512 - NORM * (64 + 128 + 256)
"""Without norms of shortcuts and stem, with one at the end; the first norm of a stage is over the channels of the stage before."""


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"depth": 18}, 11_173_962),
        ({"depth": 18, "num_classes": 100}, 11_220_132),
        ({"depth": 34, "num_classes": 100}, 21_328_292),
        ({"depth": 34, **LARGE}, 21_797_672),  # as torchvision's resnet34
        ({"depth": 19}, RESNET19),
        ({"depth": 34, "preact": True, **LARGE}, PREACT34),
    ],
)
def test_parameters(options, parameters):
    with torch.device("meta"):
        network = BasicResNet(**options)
    assert sum(each.numel() for each in network.parameters()) == parameters


def test_maps_end_small_and_what_cannot_be_is_refused():
    with torch.device("meta"):
        for options, side in (({"depth": 18}, 4), ({"depth": 19}, 8), ({"depth": 34, **LARGE}, 7)):
            network, sizes = BasicResNet(**options), []
            last = getattr(network, f"stage{network.stages}")
            last.register_forward_hook(lambda module, given, output, sizes=sizes: sizes.append(output.shape[2:]))
            network(torch.zeros(2, 3, *2 * [options.get("image_size", 32)]))
            assert sizes == [(side, side)]
    with pytest.raises(ValueError, match="one of 18, 19, 34, got 20"):
        BasicResNet(20)
    with pytest.raises(ValueError, match="64x64 and more, got 32"):
        BasicResNet(18, large=True)


def test_a_block_with_preactivation_leaves_its_input_as_it_is_and_adds():
    torch.manual_seed(0)
    block, maps = PreactBlock(4, 4).eval(), torch.randn(2, 4, 6, 6)
    inner = block.conv2(block.norm2(block.conv1(block.norm1(maps).relu())).relu())
    assert torch.allclose(block(maps), maps + inner)
    wider = PreactBlock(4, 8, 2).eval()
    active = wider.norm1(maps).relu()
    assert torch.allclose(
        wider(maps), wider.shortcut(active) + wider.conv2(wider.norm2(wider.conv1(active)).relu()), atol=1e-6
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_settings(name):
    config = compose([f"experiment=spiking/{name}", "data.root=FOLDER"]).config
    trainer, student = config["trainer"], config["student"]["network"]
    large = name.startswith("imagenet")
    found = trainer["epochs"], trainer["batch_size"], trainer["optimizer"]["lr"], trainer["optimizer"]["weight_decay"]
    events = name == "cifar10_dvs"
    assert found == ((100, 512, 0.2, 2e-5) if large else (300, 32 if events else 128, 0.1, 5e-4))
    assert trainer["schedule"]["name"] == "cosine" and trainer["groups"]["norms_and_biases"]["weight_decay"] == 0
    assert {term: node["weight"] for term, node in config["objective"].items()} == {
        "step_ce": 1,
        "ela": 0.6,
        "sta": 0.15,
    }
    assert (student["steps"], student.get("decay", 0.5)) == (10 if events else 4, 0.2 if large else 0.5)
    assert config["objective"]["ela"]["temperature"] == config["objective"]["sta"]["temperature"] == 3


def test_a_preset_trains_on_a_stand_in_of_its_data():
    """One step of each stage: every term is finite and reaches the student."""
    config = compose(["experiment=spiking/cifar10_resnet18", "trainer.batch_size=4", "student.network.steps=2"]).config
    module = DOMAIN.stand_in({"shape": (3, 8, 8), "classes": 10}, 8)
    for stage in expected(config):
        assert all(term["gradient"] > 0 for term in probe(stage, module)["terms"].values())
    network = build_network(config["student"]["network"], module.spec, 0)
    assert network(torch.zeros(2, 3, 8, 8))["steps"].shape == (2, 2, 10)
