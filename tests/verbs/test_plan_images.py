"""`kdrun plan` of images that are not here: steps and hours from what `extra.planned` says."""

import json

import pytest

from kdrun.cli import main
from kdrun.ledger.roofline import on, operators
from kdrun.networks.resnet import ResNet

PAIR = ["plan", "experiment=cifar100/resnet56_resnet20", "teacher=resnet14", "student=resnet8", "hardware=h200"]


def rows(capsys, *words):
    assert main([*PAIR, *words, "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["estimate"]}


def test_steps_flops_and_hours_of_all_stages(capsys):
    found = rows(capsys)
    assert list(found) == ["teacher", "student", "alone"]
    assert all(row["steps"] == 240 * 704 and row["estimate"] for row in found.values())
    assert found["student"]["parameters"] == 83_892
    images = 240 * 45_000
    with_teacher, without = found["student"]["flops"] / images, found["alone"]["flops"] / images
    passes = {
        depth: sum(each.flops for each in operators(ResNet(depth, 16, "B", 100), on((3, 32, 32)))) for depth in (14, 8)
    }
    assert without == pytest.approx(3 * passes[8]) and with_teacher == pytest.approx(3 * passes[8] + passes[14])
    hours = {name: row["targets"]["h200"]["hours"] for name, row in found.items()}
    assert hours["alone"] < hours["student"] < hours["alone"] + hours["teacher"]


def test_half_of_the_epochs_take_half_of_the_time(capsys):
    whole, half = rows(capsys)["alone"], rows(capsys, "trainer.epochs=120")["alone"]
    assert half["steps"] * 2 == whole["steps"]
    assert half["targets"]["h200"]["hours"] * 2 == pytest.approx(whole["targets"]["h200"]["hours"])


def test_a_step_of_sam_is_counted_twice_for_those_who_use_it(capsys):
    plain, sam = rows(capsys), rows(capsys, "student.trainer.optimizer=sam")
    assert sam["teacher"]["flops"] == plain["teacher"]["flops"]
    for role in ("student", "alone"):
        assert sam[role]["flops"] == 2 * plain[role]["flops"] and sam[role]["steps"] == plain[role]["steps"]
        hours = [found[role]["targets"]["h200"]["hours"] for found in (sam, plain)]
        assert hours[0] == pytest.approx(2 * hours[1])


def test_for_people_all_targets_that_are_known(capsys):
    assert main([*PAIR[:-1]]) == 0
    text = capsys.readouterr().out
    assert "data.root is not given" in text and "h100, 1 x bf16: estimate" in text and "at least" in text
    assert "all 3 stages of one seed on h200" in text


def test_operators_started_one_by_one_include_norms_and_activations():
    network = ResNet(8, 4, image_size=8)
    few, all_of_them = (operators(network, on((3, 8, 8)), everything) for everything in (False, True))
    assert [each for each in all_of_them if each.flops] == few
    names = [each.name for each in all_of_them]
    assert sum("batch_norm" in name for name in names) == 7 and sum("relu" in name for name in names) == 7


@pytest.mark.parametrize(
    ("pair", "parameters"),
    [("resnet34_resnet18", (21_797_672, 11_689_512)), ("resnet50_mobilenetv1_100", (25_557_032, 4_231_976))],
)
def test_networks_of_timm_on_imagenet(pair, parameters, capsys):
    pytest.importorskip("timm")
    assert main(["plan", f"experiment=imagenet/{pair}", "hardware=h200", "--json"]) == 0
    teacher, student, _ = json.loads(capsys.readouterr().out)["estimate"]
    assert (teacher["parameters"], student["parameters"]) == parameters
    assert student["steps"] == 100 * 5005 and student["targets"]["h200"]["hours"] > 1


def test_memory_is_counted_from_what_is_built(capsys):
    """Of the student with its teacher, which SGD with momentum trains: 12 bytes a parameter, and the teacher's weights."""
    plain, two = rows(capsys), rows(capsys, "hardware.devices=2")
    needed, alone = plain["student"]["memory_gb"], plain["alone"]["memory_gb"]
    assert needed["gradients"] == needed["optimizer"] == pytest.approx(4 * 83_892 / 1e9)
    assert needed["teachers"] > alone["teachers"] == 0 and needed["activations"] == alone["activations"] > 0
    assert needed["total"] == pytest.approx(sum(value for name, value in needed.items() if name != "total"))
    assert plain["student"]["targets"]["h200"]["fits"] and needed["buckets"] == 0
    assert two["alone"]["memory_gb"]["activations"] == pytest.approx(alone["activations"] / 2, rel=0.1)
    assert two["alone"]["memory_gb"]["buckets"] == pytest.approx(4 * 83_892 / 1e9)


def test_a_translation_that_is_not_here(capsys):
    """The ladder of EKD, by tokens: 160,239 pairs of 25 are 979 batches of 4,096."""
    assert main(["plan", "model=nmt_paper", "hardware=h200", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["estimate"]}
    assert {row["steps"] for row in found.values()} == {30 * 979}
    # 2 operations a parameter of encoder and decoder and token, three times; norms and lookups take none, attention scores some
    per_token = found["teacher"]["flops"] / (30 * 160_239 * 25)
    assert per_token == pytest.approx(6 * found["teacher"]["parameters"], rel=0.5)
    assert found["student"]["targets"]["h200"]["hours"] > found["alone"]["targets"]["h200"]["hours"]
    assert found["teacher"]["memory_gb"]["outputs"] == pytest.approx(4 * 10_000 * 164 * 25 * 2 / 1e9)


def test_scans_that_are_not_here_have_a_channel_for_each_window(capsys):
    pytest.importorskip("monai")
    words = ["plan", "model=ct_paper", "hardware=h200", "data.size=32", "data.slices=4", "--json"]
    sizes = {}
    for window in ("lung", "all"):
        assert main([*words, f"data.window={window}", "data.root=null"]) == 0
        (*_, alone) = json.loads(capsys.readouterr().out)["estimate"]
        sizes[window] = alone["parameters"]
    assert alone["steps"] == 40 * 250 and sizes["all"] > sizes["lung"]
