"""Time, memory and energy of one exported network: measured on this machine, or estimated for another one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdrun.hardware.card.request import FEWEST_CALLS, CardRequest, Place
from kdrun.hardware.exports import measure
from kdrun.hardware.exports.artifact import Artifact
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.ledger import roofline
from kdrun.ledger.figures import DeviceFigures, read_figures
from kdrun.networks.spiking import operations

WARM_UP = 50
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
THROUGHPUT_CALLS = 20
THROUGHPUT_SECONDS = 5.0
ENERGY_SECONDS = 2.0
COUNTED_SAMPLES = 64


class Counters:
    """The sensors of this machine as one counter of joules (exports.measure.EnergyReader)."""

    def __init__(self, sensors: Sequence[Any]) -> None:
        self._sensors = list(sensors)
        self.method = "+".join(sensor.method for sensor in self._sensors)
        self.estimate = any(sensor.estimate for sensor in self._sensors)
        covers = {part for sensor in self._sensors for part in sensor.covers}
        self.coverage = "gpu+cpu" if {"gpu", "cpu"} <= covers else "gpu only" if "gpu" in covers else "cpu only"

    def read(self) -> float | None:
        """Joules since they were opened; None where one of them is not known."""
        values = [sensor.read() for sensor in self._sensors]
        return None if None in values else sum(values)


def open_counters() -> Counters | None:
    """RAPL, and NVML where torch sees a GPU; None where neither can be read. Models are no counters."""
    import torch

    from kdrun.ledger.reader import open_metering

    hardware = {"device": "cuda" if torch.cuda.is_available() else "cpu", "devices": 1}
    meter = open_metering({"reader": "auto", "interval": 0.5}, hardware).meter
    return Counters(list(meter.sensors.values())) if meter is not None else None


def affordable(session: Any, arrays: Sequence[np.ndarray], calls: int, seconds: float | None) -> int:
    """How many of `calls` fit into the seconds, at least a few."""
    if seconds is None:
        return calls
    call = session.bind(*arrays)
    call()
    start = time.perf_counter()
    for _ in range(5):
        call()
    each = (time.perf_counter() - start) / 5
    return max(FEWEST_CALLS, min(calls, int(seconds / max(each, 1e-9))))


def measured(
    subject: TrainedNetwork,
    artifact: Artifact,
    session: Any,
    place: Place,
    request: CardRequest,
    threads: int,
    reader: Any,
    latency: dict[str, Any],
) -> dict[str, Any]:
    """{"latency", "throughput", "memory", "energy", "notes"} of `place.batch` real validation samples at a time.

    latency: of this network, measured in turns with those it is compared with.
    """
    arrays = arrays_of(subject, place.batch)
    notes, throughput = busy(), None
    if request.quick:
        notes["throughput"] = "left out at the end of a run: kdrun card"
    else:
        throughput = most_per_second(
            session, arrays_of(subject, 1), place.deploy.get("deadline_ms"), latency, place.batch
        )
    memory: dict[str, Any] = {"weights_bytes": artifact.bytes, "peak_mb": None, "runtime_mb": None}
    if request.quick and place.deploy.get("memory_mb") is None:
        notes["memory"] = "left out at the end of a run without a memory cap: kdrun card"
    elif session.device != "cpu":
        notes["memory"] = f"the network lies in the memory of the device ({session.device}), not of the process"
    else:
        memory |= measure.resident_mb(artifact, arrays, threads) or {}
    energy = None
    if reader is not None:
        energy = measure.energy(session, arrays, reader, min(ENERGY_SECONDS, request.seconds or ENERGY_SECONDS))
        energy = energy if energy.get("joules") is not None else None
    return {"latency": latency, "throughput": throughput, "memory": memory, "energy": energy, "notes": notes}


def busy() -> dict[str, str]:
    """A note where other processes compete for the cores: the tails are theirs then. {} where the system does not tell."""
    cores = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        return {}
    if load < cores + 1:
        return {}
    said = (
        f"the machine was busy while they were measured ({load:.0f} processes for {cores} cores), p99 may be too high"
    )
    return {"undisturbed times": said}


def most_per_second(
    session: Any, arrays: Sequence[np.ndarray], deadline_ms: float | None, latency: dict[str, Any], batch: int
) -> dict[str, Any] | None:
    """Throughput at the largest batch within the deadline, among batches that can be tried in a few seconds."""
    each, spent, batches = latency["p50_ms"] / batch / 1e3, 0.0, []
    for size in BATCHES:
        spent += THROUGHPUT_CALLS * size * each
        if batches and spent > THROUGHPUT_SECONDS:
            break
        batches.append(size)
    return measure.throughput(session, arrays, deadline_ms, batches, THROUGHPUT_CALLS)


def arrays_of(subject: TrainedNetwork, batch: int) -> list[np.ndarray]:
    """Real validation samples as the artifact is called with them."""
    return [tensor.numpy() for tensor in subject.inputs("val", batch)]


def model_energy(
    flops: float | None, figures: DeviceFigures | None, precision: str, batch: int
) -> dict[str, Any] | None:
    """Energy of a call by the FLOPs model, an estimate; None where the machine has no constants."""
    joules = None if flops is None or figures is None else figures.joules(batch * flops, precision)
    return joules and {"joules": joules, "method": "flops", "estimate": True, "coverage": "model"}


def arithmetic(subject: TrainedNetwork, figures: DeviceFigures | None) -> dict[str, Any]:
    """Operations of one sample, mean over some of validation: {"macs", "synaptic"}; and, as an estimate, the energy of their arithmetic,
    {"joules", "estimate", "source"}. figures: constants; None: those of conf/hardware/cpu.yaml."""
    if figures is None or not figures.operation_pj:
        figures = read_figures()["cpu"]
    counted = operations(subject.network, *subject.inputs("val", COUNTED_SAMPLES))
    joules = figures.joules_of({"mac": counted["macs"], "add": counted["synaptic"]})
    return {**counted, "joules": joules, "estimate": True, "source": figures.source}


def token_energy(energy: dict[str, Any] | None, tokens: int, batch: int) -> dict[str, Any]:
    """What is known of a generated token where no sensor counted it: the energy of a teacher-forced pass by the FLOPs model, by its
    tokens. With a cache of keys and values generating costs about as much; an estimate. {} where there is none."""
    if not energy or not energy.get("estimate"):
        return {}
    method = f"flops of a teacher-forced pass of {tokens} tokens"
    return {"joules_per_token": energy["joules"] / (batch * tokens), "estimate": True, "method": method}


def estimated(
    subject: TrainedNetwork, artifact: Artifact, session: Any, place: Place, here: DeviceFigures | None
) -> dict[str, Any]:
    """As `measured`, by the roofline model for a target that is not this machine.

    here: what this machine reaches (roofline.measured_figures): the model is held against a measurement of the same file here, where
    that is known in this precision.
    """
    forward = _forward(subject, place.batch)
    found = roofline.estimate(subject.bare(), forward, place.target.figures, place.precision)
    memory: dict[str, Any] = {"weights_bytes": artifact.bytes, "peak_mb": None, "runtime_mb": None}
    if found is None or found.ms is None:
        why = "operators of this network cannot be counted" if found is None else "bandwidth or peak is not published"
        return {"latency": None, "throughput": None, "memory": memory, "energy": None, "notes": {"latency": why}}
    latency: dict[str, Any] = {"ms": found.ms, "method": found.method, "error": None, "measured_here_ms": None}
    if here is not None:
        known = roofline.estimate(subject.bare(), forward, here, place.precision)
        arrays = arrays_of(subject, place.batch)
        calls = affordable(session, arrays, 200, 0.5)
        latency["measured_here_ms"] = measure.latency(session, arrays, calls=calls, warm_up=10)["p50_ms"]
        latency["error"] = roofline.error(known and known.ms, latency["measured_here_ms"])
    energy = found.joules and {"joules": found.joules, "method": "roofline", "estimate": True, "coverage": "model"}
    memory["peak_mb"] = found.memory_mb
    return {"latency": latency, "throughput": None, "memory": memory, "energy": energy, "notes": {}}


def _forward(subject: TrainedNetwork, batch: int) -> Any:
    inputs = subject.inputs("val", batch)
    return lambda shadow: shadow(*(tensor.to("meta") for tensor in inputs))
