"""The networks of the standard CIFAR-100 pairs, and the presets that name them."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from kdrun.config.compose import compose
from kdrun.domains.images.domain import DOMAIN
from kdrun.job.cells import expected
from kdrun.learning.probe import probe
from kdrun.networks.bottleneck_resnet import BottleneckResNet
from kdrun.networks.capture import Capture, captured, only_call
from kdrun.networks.mobilenet_v2 import MobileNetV2
from kdrun.networks.resnet import ResNet
from kdrun.networks.shufflenet import ShuffleNetV1, ShuffleNetV2, shuffled
from kdrun.networks.vgg import VGG
from kdrun.networks.wide_resnet import PreactBlock, WideResNet
from kdrun.targets import build

CONF = Path(__file__).resolve().parents[2] / "conf"
PAIRS = sorted(path.stem for path in (CONF / "experiment" / "cifar100").glob("[a-z]*.yaml"))
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "wrn_28_10": 36_536_884,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}
"""Of RepDistiller's networks with 100 classes (arXiv 1910.10699), and of WRN-28-10 in arXiv 1605.07146 (36.5 M)."""


def network(name: str, **options) -> torch.nn.Module:
    node = yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())
    padded = {"shortcut": "B"} if "depth" in node and node["_target_"].endswith(".resnet.ResNet") else {}
    return build({**node, **padded, **options}, "network")


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_on_100_classes(name):
    with torch.device("meta"):
        assert sum(each.numel() for each in network(name, num_classes=100).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("vit_tiny", {"num_classes": 10}, 5_362_762),
        ("deit_tiny", {"num_classes": 10}, 5_362_762 + 2 * 192 + 10 * 193),
        # DeiT-Ti of arXiv 2012.12877 and its distilled one: 16x16 patches of ImageNet
        ("vit_tiny", {"patch": 16, "image_size": 224, "num_classes": 1000}, 5_717_416),
        ("deit_tiny", {"patch": 16, "image_size": 224, "num_classes": 1000}, 5_910_800),
    ],
)
def test_parameters_of_vision_transformers(name, options, parameters):
    with torch.device("meta"):
        assert sum(each.numel() for each in network(name, **options).parameters()) == parameters


STAGES = {
    "resnet8x4": [(64, 32), (128, 16), (256, 8)],
    "wrn_16_2": [(32, 32), (64, 16), (128, 8)],
    "vgg8": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    "resnet50": [(256, 32), (512, 16), (1024, 8), (2048, 4)],
    "mobilenet_v2": [(12, 16), (16, 8), (48, 4), (160, 2)],
    "shufflenet_v1": [(240, 16), (480, 8), (960, 4)],
    "shufflenet_v2": [(116, 16), (232, 8), (464, 4)],
}
"""(channels, positions of a side) of stage1, stage2 ... for 32x32, as in RepDistiller."""


@pytest.mark.parametrize("name", STAGES)
def test_what_stages_give_can_be_captured(name):
    student = network(name, num_classes=100).eval()
    paths = [f"stage{number + 1}" for number in range(len(STAGES[name]))]
    with torch.no_grad(), captured(student) as calls:
        logits, maps = Capture(student, dict.fromkeys(paths, "")).of(lambda: student(torch.rand(2, 3, 32, 32)))
    assert logits.shape == (2, 100)
    shapes = [tuple(maps[path][0].shape) for path in paths]
    assert shapes == [(2, channels, side, side) for channels, side in STAGES[name]]
    assert only_call(student, calls).shape[0] == 2  # one input of the last layer: the features


@pytest.mark.parametrize(
    "student",
    [
        WideResNet(10, 1, in_channels=1, image_size=8),
        VGG(8, in_channels=1, image_size=8),
        MobileNetV2(0.25, in_channels=1, image_size=8),
        ShuffleNetV1(2, in_channels=1, image_size=8),
        ShuffleNetV2(0.5, in_channels=1, image_size=8),
        ResNet(8, 4, "B", in_channels=1, image_size=8, stem=2),
    ],
    ids=lambda student: type(student).__name__,
)
def test_every_parameter_gets_a_gradient(student):
    student(torch.randn(8, 1, 8, 8)).square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in student.parameters())


def test_channels_of_groups_take_turns():
    maps = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffled(maps, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(maps, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_a_wide_block_adds_its_input_as_it_is_or_activated():
    maps = torch.randn(2, 4, 6, 6)
    same, wider = PreactBlock(4, 4, 1, 0.0).eval(), PreactBlock(4, 8, 2, 0.0).eval()
    for block in (same, wider):
        torch.nn.init.zeros_(block.conv2.weight)
    assert torch.equal(same(maps), maps)
    torch.testing.assert_close(wider(maps), wider.shortcut(wider.norm1(maps).relu()))


def test_vgg_is_pooled_as_often_as_its_image_allows():
    for side, last in ((64, 4), (32, 4), (28, 3), (8, 2), (2, 2), (1, 1)):
        student = VGG(8, image_size=side).eval()
        maps = student.stage5(
            student.stage4(student.stage3(student.stage2(student.stage1(torch.zeros(1, 3, side, side)))))
        )
        assert maps.shape[2:] == (last, last)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WideResNet(18), "6n"),
        (lambda: WideResNet(16, 0), "widen"),
        (lambda: VGG(12), "8, 11, 13"),
        (lambda: BottleneckResNet(18), "50, 101"),
        (lambda: MobileNetV2(0.0), "width"),
        (lambda: ShuffleNetV1(5), "1, 2, 3, 4, 8"),
        (lambda: ShuffleNetV2(0.7), "0.5, 1.0"),
        (lambda: ResNet(stem=0), "stem"),
    ],
)
def test_impossible_options_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_presets_are_the_thirteen_pairs_and_what_was_published_of_them():
    table = yaml.safe_load((CONF / "table" / "cifar100_kd.yaml").read_text())
    assert len(PAIRS) == 13
    chosen = {row["id"]: row["overrides"][0].rpartition("/")[2] for row in table["rows"]}
    assert sorted(chosen.values()) == PAIRS
    for row, name in chosen.items():
        figures, text = (
            table["published"]["figures"][row],
            (CONF / "experiment" / "cifar100" / f"{name}.yaml").read_text(),
        )
        assert yaml.safe_load(text)["teacher"]["accuracy"] == pytest.approx(figures["teacher"] / 100)
        assert re.findall(r"[\d.]+(?= %)", text) == [f"{figures[key]:.2f}" for key in ("alone", "kd")]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_has_the_published_recipe(pair):
    cell = compose([f"experiment=cifar100/{pair}"]).config
    student, trainer = cell["student"], cell["trainer"]
    small = student["name"].startswith(("mobilenet", "shufflenet"))
    assert pair == f"{cell['teacher']['name']}_{student['name']}" and cell["data"]["augment"]["crop"] == 4
    assert (trainer["epochs"], trainer["batch_size"], trainer["schedule"]["milestones"]) == (240, 64, [150, 180, 210])
    optimizer = {**trainer["optimizer"], **(student["trainer"].get("optimizer") or {})}
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.01 if small else 0.05, 0.9, 5e-4)
    for learner in (cell["teacher"], student):
        built = {key: value for key, value in learner["network"].items() if key != "_target_"}
        with torch.device("meta"):
            counted = build({"_target_": learner["network"]["_target_"], **built, "num_classes": 100}, "network")
        assert sum(each.numel() for each in counted.parameters()) == PARAMETERS[learner["name"]]


@pytest.mark.parametrize(
    "pair", ["wrn_40_2_shufflenet_v1", "resnet32x4_shufflenet_v2", "vgg13_mobilenet_v2", "resnet56_resnet20"]
)
def test_a_pair_trains_on_a_stand_in_of_its_data(pair):
    """One step of each stage: every term is finite and reaches the student."""
    cell = compose([f"experiment=cifar100/{pair}", "trainer.batch_size=8"]).config
    module = DOMAIN.stand_in({"shape": (3, 8, 8), "classes": 100}, 16)
    for stage in expected(cell):
        looked = probe(stage, module)
        assert looked["steps"] == 480 and all(term["gradient"] > 0 for term in looked["terms"].values())
