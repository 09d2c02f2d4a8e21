"""Statistics of times against slow references, with a clock and a counter of the test's own; no real time is looked at."""

import math
import sys

import numpy as np
import pytest
from export_support import DIGITS, MLP, subject_of
from hypothesis import given
from hypothesis import strategies as st

from kdrun.hardware.exports import measure
from kdrun.hardware.exports.export import export
from kdrun.hardware.exports.runner import peak_kib

ROWS = [np.arange(6.0).reshape(3, 2)]


class Session:
    """Each call takes the next of `times` (seconds) on the test's own clock: a time, or a function of the batch."""

    runtime, version, device = "toy", "1", "cpu"
    threads = {"intra_op": 3, "inter_op": 1}  # noqa: RUF012

    def __init__(self, times):
        self.times, self.now, self.calls = times, 0.0, 0
        self.rows = []

    def bind(self, *arrays):
        self.rows.append(arrays)

        def call():
            self.now += self.times(len(arrays[0])) if callable(self.times) else self.times[self.calls]
            self.calls += 1

        return call

    def clock(self):
        return self.now


class Counter:
    method, estimate, coverage = "rapl", False, "cpu only"

    def __init__(self, session, watts, readable=True):
        self.session, self.watts, self.readable = session, watts, readable

    def read(self):
        return self.watts * self.session.now if self.readable else None


def slow_percentile(values, percent):
    """The smallest value that at least so many percent of all do not exceed."""
    return min(v for v in values if 100 * sum(one <= v for one in values) >= percent * len(values))


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=60))
def test_percentiles_are_those_of_their_definition(seconds):
    found = measure.spread(seconds)
    ms = [1e3 * one for one in seconds]
    ordered = sorted(ms)
    half = len(ms) // 2
    median = ordered[half] if len(ms) % 2 else (ordered[half - 1] + ordered[half]) / 2
    assert found["p50_ms"] == pytest.approx(median)
    assert found["p95_ms"] == slow_percentile(ms, 95) and found["p99_ms"] == slow_percentile(ms, 99)
    assert found["worst_ms"] == max(ms)
    assert found["jitter_ms"] == pytest.approx(found["p99_ms"] - found["p50_ms"])


def test_warm_up_is_not_timed_and_every_call_is():
    times = [9.0] * 5 + [0.002] * 98 + [0.004, 0.010]
    session = Session(times)
    found = measure.latency(session, ROWS, calls=100, warm_up=5, clock=session.clock)
    assert session.calls == 105
    assert (
        found["p50_ms"] == pytest.approx(2)
        and found["p99_ms"] == pytest.approx(4)
        and found["worst_ms"] == pytest.approx(10)
    )
    assert found["threads"] == {"intra_op": 3, "inter_op": 1} and found["batch"] == 3 and found["runtime"] == "toy 1"
    assert found["calls"] == 100 and found["warm_up"] == 5


def test_networks_that_are_compared_take_turns():
    """A slow spell in the middle of everything is shared: each network has as many calls in it."""
    order = []

    def one(name):
        def seconds(batch):
            order.append(name)
            return 0.003 if 100 < len(order) < 140 else 0.001

        return Session(seconds)

    sessions = [one("a"), one("b")]
    parts = [(session, ROWS, 90) for session in sessions]
    found = measure.latencies(parts, 10, 10, clock=lambda: sum(session.now for session in sessions))
    assert [each["calls"] for each in found] == [90, 90] and [session.calls for session in sessions] == [
        10 + 9 + 90
    ] * 2
    slow = [order[100:139].count(name) for name in "ab"]
    assert min(slow) >= 19 and order[:19] == ["a"] * 19 and order[19:38] == ["b"] * 19
    assert found[0]["p50_ms"] == found[1]["p50_ms"] == pytest.approx(1)


def test_the_largest_batch_in_time_is_taken():
    session = Session(lambda batch: 0.001 * batch)
    found = measure.throughput(session, ROWS, 9.0, clock=session.clock)
    assert found["batch"] == 8 and found["per_second"] == pytest.approx(1000) and found["p99_ms"] == pytest.approx(8)
    assert max(len(arrays[0]) for arrays in session.rows) == 16, "nothing is tried beyond the first that is late"
    late = Session(lambda batch: 0.001 * batch)
    assert measure.throughput(late, ROWS, 0.5, clock=late.clock) is None


def test_without_a_deadline_the_fastest_batch_is_taken():
    session = Session(lambda batch: 0.001 * batch + (0.05 if batch < 16 else 0.0 if batch < 64 else 0.5))
    found = measure.throughput(session, ROWS, None, clock=session.clock)
    assert found["batch"] in (16, 32) and found["deadline_ms"] is None


def test_larger_batches_are_the_same_rows_again():
    assert measure.repeated(ROWS, 5)[0].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    one, pictures = measure.repeated([np.ones((1, 4)), np.arange(3.0)[:, None]], 2)
    assert one.shape == (2, 4) and pictures[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="one sample"):
        measure.repeated([np.ones((2, 4)), np.ones((3, 1))], 4)


def test_energy_is_what_the_counter_says_per_call():
    session = Session(lambda batch: 0.1)
    found = measure.energy(session, ROWS, Counter(session, 20.0), seconds=2.0, clock=session.clock)
    assert found["joules"] == pytest.approx(2.0) and found["calls"] in (20, 21)
    assert (found["method"], found["estimate"], found["coverage"]) == ("rapl", False, "cpu only")


def test_energy_that_nobody_measures_is_unknown_and_not_0():
    session = Session(lambda batch: 0.1)
    assert measure.energy(session, ROWS, None, clock=session.clock)["joules"] is None
    assert measure.energy(session, ROWS, Counter(session, 1.0, readable=False), clock=session.clock)["joules"] is None


def test_memory_is_that_of_a_fresh_process_without_torch(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    artifact = export(subject_of(tmp_path, MLP, DIGITS), tmp_path / "files", "onnx")
    ballast = np.ones(40_000_000)  # 320 MB that a fresh process does not have
    found = measure.resident_mb(artifact, [np.zeros((1, 1, 8, 8), np.float32)], calls=2)
    own = peak_kib()
    assert ballast[0] == 1 and own is not None
    assert 0 < found["runtime_mb"] <= found["peak_mb"] * 1.05
    assert found["peak_mb"] < 150, "torch alone takes more"
    assert found["peak_mb"] < own * 1024 / 1e6 - 200


def test_onnx_needs_no_torch(tmp_path):
    import subprocess

    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    artifact = export(subject_of(tmp_path, MLP, DIGITS), tmp_path / "files", "onnx")
    code = (
        "import sys, numpy; from kdrun.hardware.exports.artifact import Artifact; from kdrun.hardware.exports import measure;"
        f"session = Artifact.read({str(artifact.folder)!r}).session(); x = numpy.zeros((2, 1, 8, 8), 'float32');"
        "found = measure.latency(session, [x], calls=5, warm_up=1); print(session(x).shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 10) False"


def test_a_torch_session_leaves_the_number_of_threads_as_it_was(tmp_path):
    import torch

    artifact, before = (
        export(subject_of(tmp_path, MLP, DIGITS), tmp_path / "files", "safetensors"),
        torch.get_num_threads(),
    )
    session = artifact.session(threads=before + 1)
    x = np.zeros((1, 1, 8, 8), np.float32)
    session(x)
    assert torch.get_num_threads() == before
    session.bind(x)()
    assert torch.get_num_threads() == before + 1
    session.close()
    assert torch.get_num_threads() == before


def test_tokens_of_generated_sentences_are_counted(monkeypatch):
    class Subject:
        sequences = True

    now = [0.0]

    def one(tokens):
        def made():
            now[0] += 0.01 * tokens
            return tokens

        return made

    monkeypatch.setattr(measure, "_generations", lambda subject, count: [one(3), one(5)])

    class Reader(Counter):
        def read(self):
            return 50 * now[0]

    found = measure.generation(Subject(), reader=Reader(None, 0), clock=lambda: now[0])
    assert found["tokens"] == 8 and found["ms_per_token"] == pytest.approx(10)
    assert found["joules_per_token"] == pytest.approx(0.5) and math.isclose(found["tokens_per_second"], 100)
    assert measure.generation(Subject(), clock=lambda: now[0])["joules_per_token"] is None
    Subject.sequences = False
    assert measure.generation(Subject()) is None
