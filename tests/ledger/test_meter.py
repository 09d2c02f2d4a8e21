"""The meter: one thread, sums, other jobs on the same machine, idle power."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from types import SimpleNamespace

from kdrun.ledger.meter import Meter, Presence, processor_seconds
from kdrun.ledger.reader import Metering
from kdrun.ledger.sensor import Counter

from .fakes import Clock, Sensor

SELDOM = 1000.0
"""An interval in which the thread does nothing while a test looks."""


def test_steps_between_begin_and_end_are_counted_and_no_others(tmp_path):
    sensor = Sensor()
    meter = Meter([sensor], SELDOM, presence=Presence(tmp_path))
    sensor.joules = 50.0
    meter.begin()
    sensor.joules = 53.0
    assert meter.read() == {"rapl": 3.0}
    meter.end()
    sensor.joules = 99.0  # between two stages
    meter.begin()
    sensor.joules = 100.0
    meter.end()
    assert meter.read()["rapl"] == 4.0
    meter.close()
    assert sensor.closed


def test_one_thread_per_meter_that_ends_with_the_stage(tmp_path):
    meter = Meter([Sensor()], 0.01, presence=Presence(tmp_path))
    for _ in range(3):
        meter.begin()
        assert [thread.name for thread in threading.enumerate()].count("kdrun-energy") == 1
        meter.end()
    assert "kdrun-energy" not in [thread.name for thread in threading.enumerate()]
    assert not list(tmp_path.iterdir())


def test_a_sensor_that_fails_is_unknown_for_good(tmp_path):
    class Breaking(Sensor):
        def read(self):
            if self.joules == 2.0:
                raise RuntimeError("the driver was reset")
            return self.joules

    breaking, good = Breaking("nvml", ("gpu",), machine_wide=False, devices=["GPU-1"]), Sensor()
    meter = Meter([breaking, good], SELDOM, presence=Presence(tmp_path))
    meter.begin()
    breaking.joules = good.joules = 2.0
    assert meter.read() == {"nvml": None, "rapl": 2.0}
    breaking.joules = good.joules = 3.0
    assert meter.read() == {"nvml": None, "rapl": 3.0}
    meter.end()


def test_two_jobs_share_a_counter_of_the_machine_by_their_processor_time(tmp_path):
    """Two meters of two processes on one counter: together they count each joule at most once."""
    sensors = [Sensor(), Sensor()]
    times = [[0.0, 0.0], [0.0, 0.0]]
    pids = (os.getpid(), os.getppid())  # two that live
    meters = [
        Meter([sensor], SELDOM, presence=Presence(tmp_path, pid), busy=lambda t=time: tuple(t))
        for sensor, time, pid in zip(sensors, times, pids, strict=True)
    ]
    meters[0].begin()
    for sensor in sensors:
        sensor.joules = 10.0
    assert meters[0].read() == {"rapl": 10.0} and not meters[0].shared  # alone: all of it, idle cores included
    meters[1].begin()
    times[0][:], times[1][:] = [3.0, 4.0], [1.0, 4.0]
    for sensor in sensors:
        sensor.joules = 18.0
    assert [meter.read()["rapl"] for meter in meters] == [10.0 + 8.0 * 3 / 4, 8.0 * 1 / 4]
    assert all(meter.shared for meter in meters)
    meters[1].end()
    sensors[0].joules = 20.0
    assert meters[0].read()["rapl"] == 18.0
    meters[0].end()
    meters[0].begin()
    assert not meters[0].shared  # another stage, alone again
    meters[0].end()


def test_without_processor_times_a_shared_counter_is_unknown(tmp_path):
    Presence(tmp_path, os.getppid()).enter(["rapl"])
    sensor = Sensor()
    meter = Meter([sensor], SELDOM, presence=Presence(tmp_path), busy=lambda: None)
    meter.begin()
    sensor.joules = 3.0
    assert meter.read() == {"rapl": None}
    meter.end()


def test_a_gpu_that_two_jobs_use_is_unknown_and_another_is_not(tmp_path):
    Presence(tmp_path, os.getppid()).enter(["GPU-1", "rapl"])
    for uuid, expected in (("GPU-1", None), ("GPU-2", 3.0)):
        sensor = Sensor("nvml", ("gpu",), machine_wide=False, devices=[uuid])
        meter = Meter([sensor], SELDOM, presence=Presence(tmp_path))
        meter.begin()
        sensor.joules = 3.0
        assert meter.read() == {"nvml": expected}
        meter.end()


def test_files_of_dead_processes_are_removed(tmp_path):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    (tmp_path / str(dead)).write_text(json.dumps(["rapl"]))
    assert Presence(tmp_path).others() == set() and not list(tmp_path.iterdir())


def test_idle_power(tmp_path, monkeypatch):
    sensor, clock = Sensor(), Clock()

    def sleep(seconds):
        clock.now += seconds
        sensor.joules += 40.0 * seconds

    meter = Meter([sensor], SELDOM, presence=Presence(tmp_path), busy=lambda: None)
    monkeypatch.setattr("kdrun.ledger.meter.time", SimpleNamespace(sleep=sleep, monotonic=clock))
    assert meter.measure_idle(2.0) == 40.0 == meter.idle_watts


def test_idle_power_is_measured_by_one_process_and_told_to_others(tmp_path, monkeypatch):
    meters = [Meter([Sensor()], SELDOM, presence=Presence(tmp_path)) for _ in range(2)]
    monkeypatch.setattr(Meter, "measure_idle", lambda self, seconds: setattr(self, "idle_watts", 7.0 * seconds))
    owner, other = (Metering(meter, idle=2.0) for meter in meters)
    assert owner.idle_now() == 14.0 == owner.idle_now()
    other.idle_known(14.0)
    monkeypatch.setattr(Meter, "measure_idle", None)
    with contextlib.closing(other.spending()):
        assert other.meter.idle_watts == 14.0
    assert Metering(idle=2.0).idle_now() is None


def test_idle_power_of_a_counter_that_says_nothing_is_unknown(tmp_path):
    meter = Meter([Sensor()], SELDOM, presence=Presence(tmp_path))
    assert meter.measure_idle(0.01) is None


def test_processor_time(tmp_path):
    stat = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu  {3 * ticks} {ticks} {2 * ticks} 900 900 0 {ticks} {ticks} 0 0\ncpu0 1 2 3\n")
    own, everything = processor_seconds(2, stat)
    assert everything == 8 and own > 0  # idle and waiting for a disk are no work
    assert processor_seconds(stat=tmp_path / "nowhere") is None
    stat.write_text("not a line of numbers\n")
    assert processor_seconds(stat=stat) is None


def test_a_gap_between_stages_is_in_neither_however_often_the_counter_may_have_wrapped(tmp_path):
    """A counter of 65 kJ could wrap twice in a gap of 200 s (data are loaded, another process is waited for): what it took is not known,
    what the next stage takes is."""
    clock, value = Clock(), [1000.0]
    counter = Counter(lambda: value[0], 1.0, clock, span=65000.0)
    sensor = Sensor()
    sensor.read, sensor.restart = counter.read, counter.restart
    meter = Meter([sensor], SELDOM, presence=Presence(tmp_path))
    for gap in (70.0, 200.0):
        clock.now, value[0] = clock.now + gap, value[0] + 5000.0
        meter.begin()
        before = meter.read()["rapl"]
        clock.now, value[0] = clock.now + 1.0, value[0] + 7.0
        assert meter.read()["rapl"] - before == 7.0
        meter.end()


def test_a_sensor_that_failed_in_one_stage_is_asked_again_in_the_next(tmp_path):
    sensor = Sensor()
    meter = Meter([sensor], SELDOM, presence=Presence(tmp_path))
    meter.begin()
    sensor.joules = None
    assert meter.read() == {"rapl": None}
    meter.end()
    sensor.joules = 50.0
    meter.begin()
    before, sensor.joules = meter.read()["rapl"], 53.0
    assert meter.read()["rapl"] - before == 3.0
    meter.end()
