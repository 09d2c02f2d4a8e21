"""NVML by a fake library: which GPUs, counters and power, parts of GPUs, and what is refused."""

from __future__ import annotations

import pytest

from kdrun.ledger.nvml import Nvml, visible
from kdrun.ledger.sensor import Unreadable

from .fakes import Clock, FakeNvml

WHOLE = ["GPU-aaa1", "GPU-aab2", "GPU-ccc3"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, WHOLE),
        ("", []),
        ("2,0", ["GPU-ccc3", "GPU-aaa1"]),
        ("1", ["GPU-aab2"]),
        ("0,7,1", ["GPU-aaa1"]),  # as CUDA: the first that is not there ends the list
        ("-1", []),
        ("0,-1,1", ["GPU-aaa1"]),
        ("GPU-ccc3,GPU-aaa1", ["GPU-ccc3", "GPU-aaa1"]),
        ("GPU-cc", ["GPU-ccc3"]),
        ("GPU-aa", []),  # two could be meant
        ("0,0", ["GPU-aaa1"]),
        ("MIG-x1", ["MIG-x1"]),
        (" 1 , GPU-ccc3", ["GPU-aab2", "GPU-ccc3"]),
    ],
)
def test_what_cuda_sees(text, expected):
    assert visible(text, WHOLE, ["MIG-x1", "MIG-x2"]) == expected


def gpus(**changes):
    return {"GPU-aaa1": {"mj": 1000}, "GPU-aab2": {"mj": 5000}, "GPU-ccc3": {"mj": 7000}, **changes}


def test_only_the_devices_that_are_computed_on_are_counted():
    cards = gpus()
    nvml = Nvml(2, FakeNvml(cards), {"CUDA_VISIBLE_DEVICES": "2,0,1"}, clock=Clock(), known=None)
    assert nvml.devices == ["GPU-ccc3", "GPU-aaa1"] and nvml.covers == ("gpu",)
    cards["GPU-ccc3"]["mj"] += 2500
    cards["GPU-aaa1"]["mj"] += 500
    cards["GPU-aab2"]["mj"] += 100_000  # somebody else's
    assert nvml.read() == pytest.approx(3.0)


def test_what_torch_knows_wins_over_numbers():
    nvml = Nvml(1, FakeNvml(gpus()), {"CUDA_VISIBLE_DEVICES": "0"}, known=["GPU-aab2"])
    assert nvml.devices == ["GPU-aab2"]


def test_power_is_integrated_by_trapezium_where_there_is_no_counter():
    clock, cards = Clock(), {"GPU-old": {"mw": 100_000}}
    nvml = Nvml(1, FakeNvml(cards), {}, known=None, clock=clock)
    watts, times, expected = [100.0], [0.0], 0.0
    for seconds, power in ((0.5, 120.0), (0.7, 80.0), (0.4, 200.0)):
        clock.now += seconds
        cards["GPU-old"]["mw"] = 1000 * power
        watts.append(power), times.append(clock.now)
        expected = sum((watts[i] + watts[i + 1]) / 2 * (times[i + 1] - times[i]) for i in range(len(times) - 1))
        assert nvml.read() == pytest.approx(expected)
    assert expected == pytest.approx(55 + 70 + 56)


def test_a_counter_that_stands_still_or_goes_back_is_unknown():
    clock, cards = Clock(), gpus()
    nvml = Nvml(1, FakeNvml(cards), {}, clock=clock)
    clock.now = 2.5
    assert nvml.read() is None
    other = Nvml(1, FakeNvml(cards), {}, clock=clock)
    cards["GPU-aaa1"]["mj"] = 10  # the driver was loaded anew
    assert other.read() is None


def test_a_gpu_whose_parts_are_all_ours_counts_once():
    cards = gpus(**{"GPU-mig": {"mj": 0, "mig": ["MIG-x1", "MIG-x2"]}})
    nvml = Nvml(2, FakeNvml(cards), {"CUDA_VISIBLE_DEVICES": "MIG-x1,MIG-x2"})
    cards["GPU-mig"]["mj"] = 4000
    assert nvml.devices == ["GPU-mig"] and nvml.read() == pytest.approx(4.0)


def test_a_part_of_a_gpu_that_others_use_too_is_refused():
    cards = gpus(**{"GPU-mig": {"mj": 0, "mig": ["MIG-x1", "MIG-x2"]}})
    with pytest.raises(Unreadable, match="GPU-mig is divided"):
        Nvml(1, FakeNvml(cards), {"CUDA_VISIBLE_DEVICES": "MIG-x2"})


def test_what_is_missing_is_said():
    with pytest.raises(Unreadable, match="no NVIDIA driver answers"):
        Nvml(1, FakeNvml({}, driver=False), {})
    with pytest.raises(Unreadable, match=r"2 GPUs wanted, 1 visible of 3 \(CUDA_VISIBLE_DEVICES=1\)"):
        Nvml(2, FakeNvml(gpus()), {"CUDA_VISIBLE_DEVICES": "1"})
    with pytest.raises(Unreadable, match="neither energy nor power"):
        Nvml(1, FakeNvml({"GPU-none": {}}), {})


def test_uuids_as_bytes():
    assert Nvml(1, FakeNvml({"GPU-b": {"mj": 0}}), {}).devices == ["GPU-b"]
