"""Steps, memory and hours of a job whose data are not here, from the operators of its networks on the meta device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdrun import kinds
from kdrun.hardware.cost import amount, gigabytes, said_hours
from kdrun.ledger.figures import DeviceFigures
from kdrun.ledger.roofline import PASSES
from kdrun.nodes import world_of
from kdrun.verbs.stage_recorder import StageRecorder


def step_rows(
    config: Mapping[str, Any], planned: Mapping[str, Any], targets: Mapping[str, DeviceFigures]
) -> list[dict[str, Any]]:
    """One entry for each stage of one seed, in JSON types: {"name", "learner", "parameters", "steps", "flops", "memory_gb", "targets": {name:
    {"hours", "fits", "memory_gb"}}}; None where no figures are published, or something cannot be known.

    planned: {"train"} and what Domain.foreseen asks for. A gradient is PASSES passes of the student and one of each teacher over a batch (a
    step has one; with SAM two; with a second view twice as many), each as ledger.roofline has it, with all operators started one by one.
    Evaluation, loading, the optimizer and communication are left out.
    """
    lab = StageRecorder(NetworksOfStages(config, planned))
    lab.ask(config)
    stages = [stage for stage in lab.stages if stage.trainer is not None and stage.objective is not None]
    return [_row(stage, lab.networks, planned, targets) for stage in stages]


def _row(stage: Any, networks: NetworksOfStages, planned: Mapping[str, Any], targets: Mapping[str, DeviceFigures]):
    from kdrun.learning.footprint import footprint, kept_bytes
    from kdrun.learning.groups import passes_of
    from kdrun.ledger import roofline
    from kdrun.objectives.terms import build_objective

    trainer, hardware = stage.trainer, stage.hardware
    precision = "bf16" if hardware["device"] == "auto" else hardware["precision"]
    per_sample = networks.foreseen(stage.data).per_sample
    samples = max(trainer["batch_size"] / per_sample, 1)
    steps = trainer["epochs"] * math.ceil(planned["train"] / samples)
    share = math.ceil(samples / world_of(hardware))
    part = math.ceil(share / trainer["accumulate"])
    gradients = passes_of(trainer) * build_objective(stage.objective).shown
    student = networks.of(stage.learner["network"], stage.data, share)
    views = {**stage.data, **(stage.sees or {})}
    teachers = [networks.of(teacher.stage.learner["network"], views, share) for teacher in stage.teachers]
    seen = [(gradients * PASSES, student), *((gradients, teacher) for teacher in teachers)]
    entry = {"name": stage.role, "estimate": True, "learner": stage.learner["name"], "parameters": student.parameters}
    entry |= {"precision": precision, "devices": world_of(hardware), "batch": trainer["batch_size"], "steps": steps}
    one = sum(times * sum(operator.flops for operator in known.operators) for times, known in seen)
    entry["flops"] = trainer["epochs"] * planned["train"] * one / share
    needed = footprint(
        student.network,
        [teacher.network for teacher in teachers],
        trainer,
        {**hardware, "precision": precision},
        kept_bytes(student.network, networks.foreseen(stage.data).passes(part)),
        part * (per_sample if student.spec.per_position else 1) * _outputs(student.spec),
        stage.teaching,
    )
    entry |= {"memory_gb": needed, "targets": {}}
    for name, figures in targets.items():
        times = [
            (times, roofline.of(known.operators, known.parameters, figures, precision).ms) for times, known in seen
        ]
        known = all(ms is not None for _, ms in times)
        hours = steps * sum(number * ms for number, ms in times) / 3.6e6 if known else None
        sized = needed["total"] is not None and figures.memory_gb is not None
        fits = needed["total"] <= figures.memory_gb if sized else None
        entry["targets"][name] = {"hours": hours, "fits": fits, "memory_gb": figures.memory_gb}
    return entry


def _outputs(spec: Any) -> int:
    return spec.vocabulary if spec.per_position else spec.outputs


@dataclass(frozen=True)
class Known:
    """A network on the meta device and the operators of a forward pass over a batch."""

    network: Any
    spec: Any
    operators: list[Any]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


class NetworksOfStages:
    """Networks of a job, without memory for their weights where they can be built so, each looked at once."""

    def __init__(self, config: Mapping[str, Any], planned: Mapping[str, Any]):
        self._domain = kinds.find(config["data"].get("task", "classification"))
        self._planned = planned
        self._foreseen: dict[str, Any] = {}
        self._known: dict[str, Known] = {}

    def foreseen(self, data: Mapping[str, Any]) -> Any:
        """The data of a stage (domains.base.Foreseen)."""
        key = json.dumps(data, sort_keys=True, default=str)
        if key not in self._foreseen:
            self._foreseen[key] = self._domain.foreseen(self._planned, data)
        return self._foreseen[key]

    def of(self, node: dict[str, Any], data: Mapping[str, Any], batch: int) -> Known:
        """The network with a forward pass over so many samples."""
        from kdrun.learning.beforehand import network_of
        from kdrun.ledger.roofline import operators

        key = json.dumps([node, data, batch], sort_keys=True, default=str)
        if key not in self._known:
            foreseen = self.foreseen(data)
            network = network_of(node, foreseen.spec)
            found = operators(network, foreseen.passes(batch), everything=True)
            self._known[key] = Known(network, foreseen.spec, found)
        return self._known[key]


def step_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The same for people."""
    text = [
        f"hours are at least these: a roofline over operators, {PASSES} passes of the learner and one of each teacher a step (twice with SAM, "
        "and with a second view), not measured;",
        "  loading, evaluation, the optimizer and Python are left out, which may be most of the time of small networks on large cards",
    ]
    for row in rows:
        text.append(
            f"{row['name']}: {row['learner']}, {row['parameters']:,} parameters, {row['steps']:,} steps of {row['batch']}, "
            f"estimate {amount(row['flops'])}FLOP"
        )
        needed = row["memory_gb"]
        parts = [f"{name} {gigabytes(value)}" for name, value in needed.items() if name != "total" and value != 0]
        text.append(f"  memory of a device, estimate: {gigabytes(needed['total'])} GB ({', '.join(parts)})")
        where = f"{row['devices']} x {row['precision']}"
        for name, of in row["targets"].items():
            room = {None: "n/a whether it fits", True: "fits", False: "does not fit"}[of["fits"]]
            size = "" if of["memory_gb"] is None else f" {of['memory_gb']:g} GB"
            text.append(f"  {name}, {where}: estimate {said_hours(of['hours'])}, {room}{size}")
    for name in rows[0]["targets"] if len(rows) > 1 else ():
        hours = [row["targets"][name]["hours"] for row in rows]
        text.append(
            f"all {len(rows)} stages of one seed on {name}: estimate {said_hours(None if None in hours else sum(hours))}"
        )
    return text
