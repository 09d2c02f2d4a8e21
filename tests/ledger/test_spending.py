"""Energy of a stage: phases that sum, tries, waste, what is unknown, and the model."""

from __future__ import annotations

import json

import pytest

from kdrun.ledger.ledger import Ledger, phase_flops
from kdrun.ledger.meter import Meter, Presence
from kdrun.ledger.spending import Spending, coverage

from .fakes import Clock, Sensor
from .test_meter import SELDOM


class Bench:
    """A stage with fake sensors in a folder; `try_()` begins a try, `pass_(joules, seconds)` lets time and energy pass."""

    def __init__(self, folder, *sensors, model=None):
        self.folder, self.sensors, self.model, self.clock = folder, sensors or (Sensor(),), model, Clock()

    def try_(self, *sensors):
        meter = Meter(sensors or self.sensors, SELDOM, presence=Presence(self.folder / "presence"))
        return Spending(meter, self.model, "fake", self.folder, self.clock)

    def pass_(self, joules, seconds=1.0):
        self.clock.now += seconds
        for sensor in self.sensors:
            sensor.joules += joules


def whole(record):
    return sum(phase["joules"] for phase in record["phases"].values())


def test_phases_sum_to_the_total(tmp_path):
    bench = Bench(tmp_path)
    bench.sensors[0].joules = 77.0  # before the stage
    stage = bench.try_()
    bench.pass_(1)
    assert stage.enter("teacher") == "prepare"
    bench.pass_(10, 2)
    stage.enter("train")
    bench.pass_(100, 3)
    stage.enter("evaluate")
    bench.pass_(4)
    stage.enter("train")
    bench.pass_(200, 5)
    record = stage.record()
    assert record["phases"] == {
        "prepare": {"joules": 1, "seconds": 1},
        "teacher": {"joules": 10, "seconds": 2},
        "train": {"joules": 300, "seconds": 8},
        "evaluate": {"joules": 4, "seconds": 1},
    }
    assert record["joules"] == whole(record) == 315
    assert record["method"] == "rapl" and record["coverage"] == "cpu only" and record["estimate"] is False
    assert record["waste_joules"] == 0 and record["net_joules"] is None and record["devices"] == ["package-0"]
    stage.close()


def test_two_sensors_add(tmp_path):
    gpu = Sensor("nvml", ("gpu",), machine_wide=False, devices=["GPU-1"])
    bench = Bench(tmp_path, Sensor(covers=("cpu", "dram")), gpu)
    stage = bench.try_()
    bench.pass_(3)
    record = stage.record()
    assert record["joules"] == 6 and record["method"] == "nvml+rapl" and record["coverage"] == "gpu+cpu+dram"
    stage.close()


def test_a_sensor_that_says_zero_for_a_stage_is_left_out_and_alone_it_is_unknown(tmp_path):
    gpu = Sensor("nvml", ("gpu",), machine_wide=False, devices=["GPU-1"])
    still = Sensor()
    bench = Bench(tmp_path, gpu)
    stage = bench.try_(gpu, still)
    bench.pass_(5)
    record = stage.record()
    assert record["joules"] == 5 and record["coverage"] == "gpu only" and record["method"] == "nvml"
    stage.close()
    stage = bench.try_(still)
    bench.clock.now += 10
    assert stage.record() is None  # never 0
    stage.close()


def test_killed_after_a_checkpoint_the_rest_is_waste(tmp_path):
    bench = Bench(tmp_path)
    first = bench.try_()
    first.enter("train")
    bench.pass_(30)
    saved = json.loads(json.dumps(first.state()))
    bench.pass_(12)
    first.note()  # every few seconds
    bench.pass_(3)  # after the last note: in neither number
    first._meter.end()  # kill -9: no close, no note
    second = bench.try_()
    bench.pass_(1)
    second.resume(saved)
    second.enter("train")
    bench.pass_(40)
    record = second.record()
    assert record["phases"]["train"]["joules"] == 70 and record["phases"]["prepare"]["joules"] == 1
    assert record["joules"] == whole(record) == 71
    assert record["waste_joules"] == 12
    second.close()


def test_killed_before_a_checkpoint_everything_is_waste_over_several_tries(tmp_path):
    bench = Bench(tmp_path)
    for _ in range(3):
        lost = bench.try_()
        bench.pass_(5)
        lost.note()
        lost._meter.end()
    last = bench.try_()
    bench.pass_(7)
    record = last.record()
    assert record["joules"] == 7 and record["waste_joules"] == 15
    last.close()


def test_stopped_with_its_state_saved_wastes_nothing(tmp_path):
    bench = Bench(tmp_path)
    first = bench.try_()
    first.enter("train")
    bench.pass_(30)
    saved = first.state()
    first.close()
    second = bench.try_()
    second.resume(saved)
    second.enter("evaluate")
    bench.pass_(2)
    record = second.record()
    assert record["joules"] == 32 and record["waste_joules"] == 0
    second.close()


def test_a_note_that_is_older_than_the_checkpoint_makes_no_negative_waste(tmp_path):
    bench = Bench(tmp_path)
    first = bench.try_()
    bench.pass_(10)
    first.note()
    bench.pass_(20)
    saved = first.state()
    first._meter.end()
    second = bench.try_()
    second.resume(saved)
    bench.pass_(1)
    assert second.record()["joules"] == 31 and second.record()["waste_joules"] == 0
    second.close()


def test_a_sensor_that_one_try_did_not_have_is_unknown_for_the_stage(tmp_path):
    bench = Bench(tmp_path)
    first = bench.try_()
    bench.pass_(10)
    saved = first.state()
    first.close()
    gpu = Sensor("nvml", ("gpu",), machine_wide=False, devices=["GPU-1"])
    second = bench.try_(*bench.sensors, gpu)
    second.resume(saved)
    bench.pass_(1)
    gpu.joules = 50.0
    record = second.record()
    assert record["joules"] == 11 and record["method"] == "rapl"
    second.close()


def test_a_checkpoint_of_the_time_before_energy(tmp_path):
    bench = Bench(tmp_path)
    stage = bench.try_()
    stage.resume(None)
    bench.pass_(1)
    assert stage.record() is None
    stage.close()


def test_idle_power_is_taken_off_over_all_tries(tmp_path):
    bench = Bench(tmp_path)
    first = bench.try_()
    first._meter.idle_watts = 3.0
    bench.pass_(30, seconds=5)
    saved = first.state()
    first.close()
    second = bench.try_()
    second._meter.idle_watts = 4.0
    second.resume(saved)
    bench.pass_(30, seconds=5)
    record = second.record()
    assert record["net_joules"] == 60 - 15 - 20 and record["idle_watts"] == 4.0
    second.close()


def test_a_shared_counter_makes_an_estimate_and_no_net(tmp_path):
    import os

    bench = Bench(tmp_path)
    Presence(tmp_path / "presence", os.getppid()).enter(["rapl"])
    stage = bench.try_()
    stage._meter.idle_watts = 1.0
    times = iter([(1.0, 4.0)])
    stage._meter._busy, stage._meter._times = (lambda: next(times, (1.0, 4.0))), (0.0, 0.0)
    bench.pass_(8)
    record = stage.record()
    assert record["joules"] == 8 * 1 / 4 and record["shared"] and record["estimate"] and record["net_joules"] is None
    Presence(tmp_path / "presence", os.getppid()).leave()
    stage.close()


def test_the_model_counts_after_the_stage_and_says_estimate(tmp_path):
    clock = Clock()
    stage = Spending(None, lambda flops: 2.0 * flops, "cpu", tmp_path, clock)
    clock.now = 1.0
    stage.enter("train")
    clock.now = 4.0
    record = stage.record({"teacher": 5.0, "train": 30.0, "evaluate": 1.0})
    assert (
        record["joules"] == 72 and record["method"] == "flops" and record["coverage"] == "model" and record["estimate"]
    )
    assert record["phases"]["prepare"] == {"joules": None, "seconds": 1.0}  # nothing of it is counted: not 0
    assert record["phases"]["train"] == {"joules": 60.0, "seconds": 3.0}
    assert record["waste_joules"] == 0 and record["devices"] == ["cpu"]
    assert stage.record(None) is None
    assert Spending().record({"train": 1.0}) is None


def test_the_models_waste_is_lost_time_at_the_stages_mean_power(tmp_path):
    clock = Clock()
    first = Spending(None, lambda flops: flops, "cpu", tmp_path, clock)
    first.enter("train")
    clock.now = 6.0
    saved = first.state()
    clock.now = 9.0
    first.note()
    second = Spending(None, lambda flops: flops, "cpu", tmp_path, clock)
    second.resume(saved)
    clock.now = 15.0
    record = second.record({"train": 120.0, "evaluate": 0.0})
    assert record["waste_joules"] == pytest.approx(120.0 / 12.0 * 3.0)


def test_nothing_is_written_where_there_is_no_folder_and_a_folder_that_goes_away_is_no_error(tmp_path):
    Spending().note()
    folder = tmp_path / "work"
    folder.mkdir()
    stage = Spending(work=folder)
    assert [path.name for path in folder.iterdir()] == ["energy.json"]
    (folder / "energy.json").unlink()
    folder.rmdir()
    stage.note()
    (tmp_path / "energy.json").write_text("{half")
    assert Spending(work=tmp_path)._all()["tries"] == 1


def test_a_ledger_carries_energy_through_a_checkpoint(tmp_path):
    bench = Bench(tmp_path)
    with Ledger([], bench.try_()) as first:
        bench.pass_(5)
        state = first.state()
    with Ledger([], bench.try_()) as second:
        second.resume(state)
        bench.pass_(6)
        assert second.energy.record()["joules"] == 11


def test_an_unknown_phase():
    with pytest.raises(ValueError, match="no phase 'sleep'"):
        Spending().enter("sleep")


def test_what_is_covered():
    assert coverage(["cpu"]) == "cpu only" and coverage(["gpu"]) == "gpu only"
    assert coverage(["dram", "cpu", "gpu", "cpu"]) == "gpu+cpu+dram"


def test_flops_of_phases_by_hand():
    found = phase_flops(student=10, samples=7, evaluated=3, teacher=100, asked=4, taught=9)
    assert found == {"teacher": 400, "train": 3 * 10 * 7 + 100 * 5, "evaluate": 30}
    assert phase_flops(10, 7, 3, None, 0, 0, 5) == {"train": 260, "evaluate": 30}
    assert phase_flops(10, 7, 3, None, 0, 0) == {"train": 210, "evaluate": 30}
    assert phase_flops(None, 7, 3, None, 0, 0) is None and phase_flops(10, 7, 3, None, 0, 2) is None
    skipped = phase_flops(10, 7, 3, 100, 4, 4)  # a teacher that no step asks: its passes are in no phase
    assert skipped["train"] == 210
