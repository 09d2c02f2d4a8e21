"""Latency, throughput, memory and energy of a session. No torch here but for generation; clocks are injected."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from kdrun.hardware.exports.artifact import Artifact
    from kdrun.hardware.exports.sessions import Session
    from kdrun.hardware.exports.subject import TrainedNetwork

Clock = Callable[[], float]
"""Seconds."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EnergyReader(Protocol):
    """A counter of energy. `read` gives joules since some moment, or None where nothing can be read.

    method, estimate, coverage, where it has them, are told with the figure: ("rapl", False, "cpu only").
    """

    def read(self) -> float | None: ...


def latency(
    session: Session,
    arrays: Sequence[np.ndarray],
    calls: int = 1000,
    warm_up: int = 50,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """How long a call takes, over `calls` calls one after another, after `warm_up` that are not timed.

    {"p50_ms", "p95_ms", "p99_ms", "worst_ms", "jitter_ms" (p99 - p50), "calls", "warm_up", "threads", "batch", "runtime",
    "device"}. Inputs lie where the runtime wants them before the clock runs; a call ends when its outputs are there. As in
    timeit the garbage collector of Python is off meanwhile: it is no part of the network.
    """
    [found] = latencies([(session, arrays, calls)], warm_up, 1, clock)
    return found


def latency_of(
    network: Any, shape: Sequence[int], device: str = "cpu", threads: int = 1, repeats: int = 100
) -> dict[str, float]:
    """{"p50_ms", "p95_ms", "repeats"} of a forward pass in eval mode on one input of `shape` [C, H, W], fp32.

    device: "cpu", "cuda", "mps" or "auto". Weights, mode, device of the network and the thread count are as before afterwards.
    """
    import torch

    from kdrun.hardware.exports.sessions import TorchSession

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    mode = network.training
    session = None
    try:
        session = TorchSession(network.eval(), threads, device)
        found = latency(session, [np.zeros((1, *shape), np.float32)], calls=repeats, warm_up=10)
    finally:
        if session is not None:
            session.close()
        network.to(home).train(mode)
    return {"p50_ms": found["p50_ms"], "p95_ms": found["p95_ms"], "repeats": repeats}


def latencies(
    parts: Sequence[tuple[Session, Sequence[np.ndarray], int]],
    warm_up: int = 50,
    turns: int = 10,
    clock: Clock = time.perf_counter,
) -> list[dict[str, Any]]:
    """As `latency` of several (session, arrays, calls) that are to be compared: in turns, so that a minute in which the machine
    is slower is shared by all. Each turn of a session begins with a tenth of `warm_up`, the first with all of it.
    """
    bound = [session.bind(*arrays) for session, arrays, _ in parts]
    seconds: list[list[float]] = [[] for _ in parts]
    with _no_collection():
        for turn in range(turns):
            for call, (_, _, calls), times in zip(bound, parts, seconds, strict=True):
                for _ in range(warm_up if turn == 0 else -(-warm_up // 10)):
                    call()
                times += _timed(call, calls * (turn + 1) // turns - calls * turn // turns, clock)
    return [
        {
            **spread(times),
            "calls": calls,
            "warm_up": warm_up,
            "batch": len(arrays[0]),
            "threads": dict(session.threads),
            "runtime": f"{session.runtime} {session.version}",
            "device": session.device,
        }
        for (session, arrays, calls), times in zip(parts, seconds, strict=True)
    ]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, percentiles, jitter and worst of times, in milliseconds.

    A percentile is the smallest time that so large a share of all does not exceed (nearest rank); the median of an even number
    is the mean of the middle two.
    """
    ordered = sorted(1e3 * one for one in seconds)
    p50, p95, p99 = statistics.median(ordered), _rank(ordered, 95), _rank(ordered, 99)
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "worst_ms": ordered[-1], "jitter_ms": p99 - p50}


def throughput(
    session: Session,
    arrays: Sequence[np.ndarray],
    deadline_ms: float | None,
    batches: Sequence[int] = BATCHES,
    calls: int = 20,
    clock: Clock = time.perf_counter,
) -> dict[str, Any] | None:
    """The largest batch whose p99 over `calls` calls is within the deadline, and how many samples a second that is.

    {"batch", "per_second", "p50_ms", "p99_ms", "deadline_ms"}; without a deadline the batch with most samples a second; None
    where not even the smallest batch is in time. Batches are tried from small to large up to the first that is late.
    """
    found = None
    for batch in sorted(batches):
        call = session.bind(*repeated(arrays, batch))
        for _ in range(2):
            call()
        with _no_collection():
            times = spread(_timed(call, calls, clock))
        if deadline_ms is not None and times["p99_ms"] > deadline_ms:
            break
        rate = 1e3 * batch / times["p50_ms"] if times["p50_ms"] else 0.0
        if found is None or deadline_ms is not None or rate > (found["per_second"] or 0.0):
            kept = {name: times[name] for name in ("p50_ms", "p99_ms")}
            found = {"batch": batch, "per_second": rate, **kept, "deadline_ms": deadline_ms}
    return found


def repeated(arrays: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    """A batch of so many rows, made of the given rows again and again.

    Inputs of unlike numbers of rows (pictures of questions) cannot be cut into samples: then a single sample has to be given.
    """
    rows = len(arrays[0])
    if all(len(one) == rows for one in arrays):
        index = np.arange(batch) % rows
        return [one[index] for one in arrays]
    if rows != 1:
        raise ValueError(f"inputs of {[len(one) for one in arrays]} rows: give those of one sample")
    return [np.concatenate([one] * batch) for one in arrays]


def resident_mb(
    artifact: Artifact, arrays: Sequence[np.ndarray], threads: int = 1, calls: int = 20
) -> dict[str, float] | None:
    """Peak resident memory, in 10^6 bytes, of a fresh process that loads the artifact and calls it, and of one that does no more
    than import the same runtime: {"peak_mb", "runtime_mb"}. None where the system does not tell.
    """
    from kdrun.hardware.exports.runner import peak_mb

    runtime = peak_mb(artifact, None, threads, 0)
    peak = peak_mb(artifact, arrays, threads, calls)
    return None if runtime is None or peak is None else {"peak_mb": peak, "runtime_mb": runtime}


def energy(
    session: Session,
    arrays: Sequence[np.ndarray],
    reader: EnergyReader | None,
    seconds: float = 3.0,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Energy of a call: what the reader counts while calls follow each other for `seconds`, over their number.

    {"joules" per call (None: not known), "calls", "seconds", "method", "estimate", "coverage"}. Idle power is in it.
    """
    told = {name: getattr(reader, name, None) for name in ("method", "estimate", "coverage")}
    call = session.bind(*arrays)
    call()
    before, start, calls = None if reader is None else reader.read(), clock(), 0
    if before is None:
        return {"joules": None, "calls": 0, "seconds": 0.0, **told}
    while True:
        call()
        calls += 1
        passed = clock() - start
        if passed >= seconds:
            break
    after = None if reader is None else reader.read()
    joules = None if after is None else (after - before) / calls
    return {"joules": joules, "calls": calls, "seconds": passed, **told}


def generation(
    subject: TrainedNetwork,
    count: int = 16,
    threads: int = 1,
    reader: EnergyReader | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Any] | None:
    """Greedy generation for `count` validation samples, one at a time, by torch on the CPU in float32.

    {"ms_per_token", "tokens_per_second", "tokens" (the end token of each counts), "samples", "seconds", "joules_per_token" (None:
    not known), "threads", "method", "estimate", "coverage"}. Reading the source or the prompt is in the time.
    None for networks that generate nothing.
    """
    if not subject.sequences:
        return None
    import torch

    work = list(_generations(subject, count))
    before, told = torch.get_num_threads(), {n: getattr(reader, n, None) for n in ("method", "estimate", "coverage")}
    torch.set_num_threads(threads)
    try:
        work[0]()
        joules, start = None if reader is None else reader.read(), clock()
        tokens = sum(one() for one in work)
        seconds, after = clock() - start, None if reader is None else reader.read()
    finally:
        torch.set_num_threads(before)
    return {
        "ms_per_token": 1e3 * seconds / tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "tokens": tokens,
        "samples": len(work),
        "seconds": seconds,
        "joules_per_token": None if joules is None or after is None else (after - joules) / tokens,
        "threads": {"intra_op": threads, "inter_op": torch.get_num_interop_threads()},
        **told,
    }


def _generations(subject: TrainedNetwork, count: int) -> Iterator[Callable[[], int]]:
    """For each sample a function that generates its output and says how many tokens that were, the end included."""
    samples, places = subject.module.samples("val"), subject.positions("val", count)
    return subject.task.generations(subject.network, samples, places)


def _timed(call: Callable[[], Any], calls: int, clock: Clock) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = clock()
        call()
        seconds.append(clock() - start)
    return seconds


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[(percent * len(ordered) - 1) // 100]


@contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
