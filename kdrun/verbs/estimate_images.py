"""Steps and hours of a job of images that are not here, by a roofline over the operators of its networks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kdrun import kinds
from kdrun.hardware.cost import amount, said_hours
from kdrun.ledger.figures import DeviceFigures
from kdrun.ledger.roofline import PASSES
from kdrun.verbs.stage_recorder import StageRecorder


def image_rows(
    config: Mapping[str, Any], planned: Mapping[str, Any], targets: Mapping[str, DeviceFigures]
) -> list[dict[str, Any]]:
    """One entry for each stage of one seed, in JSON types: {"name", "learner", "parameters", "steps", "flops", "targets": {name:
    {"hours"}}}; hours are None where no figures are published.

    planned: {"shape", "classes", "train"}. A gradient is PASSES passes of the student and one of each teacher over a batch (a step has
    one; with SAM two; with a second view twice as many), each
    as ledger.roofline has it, with all operators started one by one. Evaluation, loading and the optimizer are left out.
    """
    from kdrun.learning.groups import passes_of
    from kdrun.ledger import roofline
    from kdrun.objectives.terms import build_objective

    networks = ImageNetworks(config, planned)
    lab = StageRecorder(networks)
    lab.ask(config)
    found, hardware = [], config["hardware"]
    precision = "bf16" if hardware["device"] == "auto" else hardware["precision"]
    for stage in lab.stages:
        if stage.trainer is None or stage.objective is None:
            continue
        epochs, batch = stage.trainer["epochs"], stage.trainer["batch_size"]
        steps = epochs * math.ceil(planned["train"] / batch)
        share = math.ceil(batch / hardware["devices"])
        gradients = passes_of(stage.trainer) * build_objective(stage.objective).shown
        nodes = [(gradients * PASSES, stage.learner["network"])]
        nodes += [(gradients, teacher.stage.learner["network"]) for teacher in stage.teachers]
        seen = [(times, *networks.of(node, share)) for times, node in nodes]
        entry = {"name": stage.role, "estimate": True, "learner": stage.learner["name"], "parameters": seen[0][1]}
        entry |= {"precision": precision, "devices": hardware["devices"], "batch": batch, "steps": steps, "targets": {}}
        one = sum(times * sum(part.flops for part in operators) for times, _, operators in seen)
        entry["flops"] = epochs * planned["train"] * one / share
        for name, figures in targets.items():
            parts = [(times, roofline.of(operators, size, figures, precision).ms) for times, size, operators in seen]
            known = all(ms is not None for _, ms in parts)
            hours = steps * sum(times * ms for times, ms in parts) / 3.6e6 if known else None
            entry["targets"][name] = {"hours": hours}
        found.append(entry)
    return found


class ImageNetworks:
    """Networks of a job, without memory for their weights where they can be built so, each looked at once."""

    def __init__(self, config: Mapping[str, Any], planned: Mapping[str, Any]):
        domain = kinds.find(config["data"].get("task", "classification"))
        self.spec, self._known = domain.stand_in(planned, 1).spec, {}

    def of(self, node: dict[str, Any], batch: int) -> tuple[int, list[Any]]:
        """(parameters, operators of a forward pass over a batch)."""
        from kdrun.learning.beforehand import network_of
        from kdrun.ledger.roofline import on, operators

        key = json.dumps([node, batch], sort_keys=True)
        if key not in self._known:
            network = network_of(node, self.spec)
            size = sum(parameter.numel() for parameter in network.parameters())
            self._known[key] = size, operators(network, on(self.spec.shape, batch), everything=True)
        return self._known[key]


def image_lines(rows: list[dict[str, Any]]) -> list[str]:
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
        where = f"{row['devices']} x {row['precision']}"
        text += [f"  {name}, {where}: estimate {said_hours(of['hours'])}" for name, of in row["targets"].items()]
    for name in rows[0]["targets"] if len(rows) > 1 else ():
        hours = [row["targets"][name]["hours"] for row in rows]
        text.append(
            f"all {len(rows)} stages of one seed on {name}: estimate {said_hours(None if None in hours else sum(hours))}"
        )
    return text
