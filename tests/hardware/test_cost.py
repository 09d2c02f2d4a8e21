"""Estimates against figures worked out by hand."""

import dataclasses

import pytest

from kdrun.hardware.cost import (
    ParameterGroup,
    StageWork,
    amount,
    flops,
    gigabytes,
    hours,
    lines,
    llava_parts,
    memory,
    rows,
    said_hours,
)
from kdrun.ledger.figures import DeviceFigures
from kdrun.problems import UserError

FAST = DeviceFigures("fast", {"fp32": 10, "bf16": 100, "fp16": None}, 80, 1000, "a leaflet")
SMALL = DeviceFigures("small", {"fp32": 1, "bf16": None}, 4, None, "a leaflet")
COUNTS = {"vision_tower": 400, "projector": 20, "language_model": 500}


def work(**changes):
    """A network of 1 G parameters, all trained, 1,000 samples of 500 tokens, 8 in a batch."""
    plain = StageWork(
        "stage", [ParameterGroup("network", 10**9, 500, "trained")], samples=1000, epochs=2, batch=8, tokens=500
    )
    return dataclasses.replace(plain, **changes)


def kinds(parts):
    return {part.name: (part.kind, part.parameters, part.tokens) for part in parts}


def test_operations_are_six_four_and_two_per_parameter_and_token():
    # D = 1000 samples * 2 epochs * 500 tokens = 1e6
    assert flops(work())["total"] == pytest.approx(6e15)
    assert flops(work(passes=2))["total"] == pytest.approx(12e15)
    parts = [
        ParameterGroup("a", 10**9, 500, "trained"),
        ParameterGroup("b", 10**9, 500, "passed"),
        ParameterGroup("c", 10**9, 100, "frozen"),
    ]
    teachers = [
        [ParameterGroup("t", 3 * 10**9, 500)],
        [ParameterGroup("tower", 10**9, 100), ParameterGroup("u", 7 * 10**9, 500)],
    ]
    found = flops(work(parts=parts, teachers=teachers))
    # frozen: 2 * 1e9 * (1000 * 2 * 100); teachers: 2 * 3e9 * 1e6 + 2 * 1e9 * 2e5 + 2 * 7e9 * 1e6
    assert found == pytest.approx(
        {"trained": 6e15, "passed": 4e15, "frozen": 4e14, "teachers": 2.04e16, "total": 3.08e16}
    )


def test_memory_of_full_training_in_single_precision():
    # 1e9 parameters: 4 + 4 + 8 GB; activations 68 * 1000 * 10 * (8 * 500) = 2.72 GB; 4 * 30000 * 2 * 4000 = 0.96 GB
    found = memory(work(width=1000, layers=10, vocabulary=30_000))
    assert found == pytest.approx(
        {
            "weights": 4,
            "gradients": 4,
            "optimizer": 8,
            "buckets": 0,
            "activations": 2.72,
            "vocabulary": 0.96,
            "teachers": 0,
            "total": 19.68,
        }
    )


def test_memory_in_half_precision_with_frozen_parts_and_teachers():
    parts = [ParameterGroup("frozen", 3 * 10**9, 500, "passed"), ParameterGroup("adapters", 10**7, 500, "trained")]
    teachers = [[ParameterGroup("t", 7 * 10**9, 500)]]
    found = memory(
        work(parts=parts, teachers=teachers, precision="bf16", width=1000, layers=10, vocabulary=30_000, chunk=100)
    )
    # weights 2 * 3e9 + 4 * 1e7; activations 34 * 1e4 * 4000; vocabulary 4 * 30000 * (2 + 1) * 100 positions
    assert found == pytest.approx(
        {
            "weights": 6.04, "gradients": 0.04, "optimizer": 0.08, "buckets": 0, "activations": 1.36, "vocabulary": 0.036,
            "teachers": 14, "total": 21.556,
        }
    )  # fmt: skip
    assert memory(work(parts=parts, precision="bf16", frozen_bytes=4))["weights"] == pytest.approx(12.04)


def test_memory_over_devices_and_accumulated_parts():
    base = {"width": 1000, "layers": 10, "teachers": [[ParameterGroup("t", 4 * 10**9, 500)]]}
    one, four = memory(work(**base)), memory(work(devices=4, shards=4, teacher_shards=2, accumulate=2, **base))
    for name in ("weights", "gradients", "optimizer"):
        assert four[name] == pytest.approx(one[name] / 4)
    assert four["activations"] == pytest.approx(one["activations"] / 8), "8 samples over 4 devices in 2 parts: one"
    assert four["teachers"] == pytest.approx(one["teachers"] / 2)
    uneven = memory(work(devices=3, **base))
    assert uneven["activations"] == pytest.approx(one["activations"] * 3 / 8), "the fullest device has three samples"


def test_a_chunk_is_never_more_than_what_is_there():
    assert memory(work(vocabulary=30_000, chunk=10**9)) == memory(work(vocabulary=30_000))


def test_hours_are_operations_over_what_a_device_reaches():
    # 6e15 / (10e12 * 0.4) = 1500 s
    assert hours(6e15, FAST, "fp32") == pytest.approx(1500 / 3600)
    assert hours(6e15, FAST, "bf16", devices=2, utilisation=0.5) == pytest.approx(60 / 3600)
    assert hours(6e15, FAST, "fp16") is None and hours(6e15, SMALL, "bf16") is None and hours(1, SMALL, "int8") is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"trained": ["projector"]}, {"vision_tower": "frozen", "projector": "trained", "language_model": "passed"}),
        ({"trained": None}, {"vision_tower": "frozen", "projector": "trained", "language_model": "trained"}),
        (
            {"trained": ["language_model"]},
            {"vision_tower": "frozen", "projector": "frozen", "language_model": "trained"},
        ),
        ({"trained": None, "cached": True}, {"projector": "trained", "language_model": "trained"}),
        (
            {"trained": ["vision_tower", "language_model"]},
            {"vision_tower": "trained", "projector": "passed", "language_model": "trained"},
        ),
        (
            {"trained": None, "lora": 7},
            {"vision_tower": "frozen", "projector": "trained", "language_model": "passed", "adapters": "trained"},
        ),
        (
            {"trained": ["projector"], "lora": 7},
            {"vision_tower": "frozen", "projector": "trained", "language_model": "passed"},
        ),
        (
            {"trained": ["language_model"], "lora": 7},
            {"vision_tower": "frozen", "projector": "frozen", "language_model": "passed", "adapters": "trained"},
        ),
    ],
)
def test_gradients_pass_through_what_lies_above_a_trained_part(options, expected):
    found = kinds(llava_parts(COUNTS, **{"tokens": 100, "image_tokens": 9, **options}))
    assert {name: kind for name, (kind, *_) in found.items()} == expected
    assert found["language_model"][2] == 100 and found["projector"][2] == 9
    assert found.get("adapters", (0, 7, 100))[1:] == (7, 100)


def test_a_part_that_is_not_there():
    with pytest.raises(
        UserError, match="no part 'head' in the network; parts: vision_tower, projector, language_model"
    ):
        llava_parts(COUNTS, ["head"], tokens=1, image_tokens=1)


def test_rows_are_marked_as_estimates_and_unknown_is_none():
    (row,) = rows([work(precision="bf16", width=1000, layers=10)], {"fast": FAST, "small": SMALL})
    assert row["estimate"] is True and row["utilisation"] == 0.4
    assert row["targets"]["fast"] == {"hours": pytest.approx(150 / 3600), "fits": True, "memory_gb": 80}
    assert row["targets"]["small"] == {"hours": None, "fits": False, "memory_gb": 4}
    (row,) = rows([work(precision="bf16")], {"fast": FAST})
    assert row["memory_gb"]["activations"] is None and row["memory_gb"]["total"] is None
    assert row["targets"]["fast"]["fits"] is None


def test_lines_call_every_figure_an_estimate():
    works = [work(name="grade 1", precision="bf16", width=1000, layers=10), work(name="grade 2", precision="bf16")]
    found = lines(works, {"fast": FAST, "small": SMALL})
    assert found == [
        "estimates from parameter and token counts alone, at 40 % of the published peak; nothing was measured",
        "FLOPs: 6 N D trained, 4 N D frozen with gradients passing, 2 N D frozen and teachers (N parameters, D tokens)",
        "grade 1: estimate 6 PFLOP (trained 6 P)",
        "  memory of a device, estimate: 17.4 GB (weights 4, gradients 4, optimizer 8, activations 1.4)",
        "  fast, 1 x bf16: estimate 2 min, fits 80 GB",
        "  small, 1 x bf16: estimate n/a h, does not fit 4 GB",
        "grade 2: estimate 6 PFLOP (trained 6 P)",
        "  memory of a device, estimate: n/a GB (weights 4, gradients 4, optimizer 8, activations n/a)",
        "  fast, 1 x bf16: estimate 2 min, n/a whether it fits 80 GB",
        "  small, 1 x bf16: estimate n/a h, n/a whether it fits 4 GB",
        "all 2 stages on fast: estimate 5 min",
        "all 2 stages on small: estimate n/a h",
    ]
    assert all("estimate" in line for line in found[2:]) and lines([], {"fast": FAST}) == []


@pytest.mark.parametrize("utilisation", [0, -0.1, 1.01])
def test_utilisation_is_a_share(utilisation):
    with pytest.raises(UserError, match="share of the peak"):
        rows([work()], {}, utilisation)


def test_how_figures_are_written():
    assert [amount(v) for v in (2, 1.5e3, 1.234e18, None)] == ["2 ", "1.5 k", "1.23 E", "n/a "]
    assert [gigabytes(v) for v in (0.456, 31.23, None)] == ["0.46", "31.2", "n/a"]
    assert [said_hours(v) for v in (123.4, 1.26, 0.5, 0.001, None)] == [
        "123 h",
        "1.3 h",
        "30 min",
        "below 1 min",
        "n/a h",
    ]
