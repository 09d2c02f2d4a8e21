"""What people read: n/a for what is not known, the word estimate beside every estimate, a mark on what fails."""

import re

import pytest
from hardware.card.support import card

from kdrun.hardware.card import render


def lines_of(*cards):
    return render.tables(list(cards))


def row(lines, name):
    return next(line for line in lines if line.startswith(name))


def test_missing_is_never_zero():
    lines = lines_of(card(p99=None, peak=None, value=None, safety=None))
    for name in ("test accuracy", "latency p99", "peak memory", "energy", "all gates"):
        assert row(lines, name).endswith("n/a") and " 0" not in row(lines, name)


def test_a_card_that_fails_is_marked_and_told():
    lines = lines_of(card("teacher"), card(value=0.99, drop=0.1))
    assert lines[1].endswith(" student !") and " teacher " in lines[1]
    assert row(lines, "gate: worst class").endswith("FAILED (<= 2 points)")
    assert any(
        line.startswith("student FAILS: class 8 is the worst: recall 80.00 %, 10.0 points below") for line in lines
    )


def test_every_figure_of_an_estimate_says_so():
    deploy = {"deadline_ms": 5.0, "memory_mb": 60.0}
    energy = {"joules": 0.001, "method": "roofline", "estimate": True, "coverage": "model"}
    lines = lines_of(
        card(kind="estimate", target="h100", energy=energy, why="this machine does not say 'H100'", deploy=deploy)
    )
    for name in ("latency", "memory, w", "energy"):
        assert row(lines, name).endswith(" estimate")
    assert row(lines, "gate: deadline").endswith("passed estimate (<= 5 ms)")
    assert row(lines, "gate: memory").endswith("n/a (<= 60 MB)"), "a lower bound passes no cap"
    assert "estimate" in lines[0] and any("97 % too fast (measured 0.05 ms)" in line for line in lines)
    assert not any("p99 latency" in line for line in lines), "the model knows one time and no tail"


def test_the_same_files_on_another_target_are_told_once():
    export = {
        "format": "onnx",
        "files": ["a"],
        "sha256": {"a": "12"},
        "bytes": 1,
        "max_difference": 0.0,
        "tolerance": 1e-4,
    }
    lines = lines_of(card(export=export), card(export=export, target="h100", kind="estimate"))
    assert sum(line.startswith("recall of the worst class") for line in lines) == 1
    assert "robustness and safety: of the same files as above" in lines
    assert sum(line.startswith("gate: worst class") for line in lines) == 2


def test_the_line_of_a_panel():
    assert (
        render.line(card()) == "student: p99 1 ms, 20.0 kB (local, fp32, ONNX Runtime, 1,000 calls); all gates passed"
    )
    failed = render.line(card(drop=0.1))
    assert failed.endswith(
        "; FAILS the gate worst class: class 8 is the worst: recall 80.00 %, 10.0 points below the teacher's worst class; "
        "2 points are allowed"
    )
    assert "not decided, deadline: n/a" in render.line(card(p99=None, deploy={"deadline_ms": 1.0}))
    assert "no gate is set" in render.line(card(safety=None))
    assert render.line(card(kind="estimate", p99=3.0)).startswith("student: 3 ms estimate, ")


def test_no_front_without_quality_or_with_one_axis():
    assert "no Pareto front: accuracy is n/a" in lines_of(card("alone", value=None), card(value=None))
    found = lines_of(card("alone", p99=None), card(p99=None))
    assert any(line.startswith("no Pareto front: p99 latency is n/a for all of 2") for line in found)


def test_the_summary_of_a_tracker_has_the_cards(tmp_path):
    from kdrun.hardware.card.cards import keep_cards
    from kdrun.report.push import card_summary

    assert card_summary(tmp_path) == {}
    keep_cards(tmp_path, [card(p99=1.5)])
    assert card_summary(tmp_path)["card/local/fp32/p99_ms"] == 1.5


def test_operations_of_a_spiking_student_stand_beside_those_of_its_teacher():
    teacher = card(
        "teacher",
        arithmetic={"macs": 1000.0, "synaptic": 0.0, "joules": 4.6e-9, "estimate": True, "source": "a leaflet"},
    )
    student = card(
        arithmetic={"macs": 100.0, "synaptic": 200.0, "joules": 0.64e-9, "estimate": True, "source": "a leaflet"}
    )
    text = "\n".join(render.tables([teacher, student]))
    assert re.search(r"synaptic operations .* 0 +200\n", text) and re.search(
        r"energy of both, uJ +0.0046 estimate +0.00064 estimate", text
    )
    assert text.count("constants: a leaflet") == 1
    assert "synaptic" not in "\n".join(render.tables([card("teacher"), card()]))


def test_operations_are_counted_on_validation_samples_of_a_network():
    from types import SimpleNamespace

    import torch
    from torch import nn

    from kdrun.hardware.card.figures import arithmetic
    from kdrun.networks.spiking import Spiking, operations

    torch.manual_seed(0)
    network = Spiking(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), steps=2)
    images = torch.rand(5, 1, 4, 4) * 3
    found = arithmetic(SimpleNamespace(network=network, inputs=lambda split, count: (images,)), None)
    counted = operations(network, images)
    assert {"macs": found["macs"], "synaptic": found["synaptic"]} == counted and 0 < counted["synaptic"] < 2 * 8 * 3
    assert found["joules"] == pytest.approx(1e-12 * (4.6 * 2 * 16 * 8 + 0.9 * counted["synaptic"]))
