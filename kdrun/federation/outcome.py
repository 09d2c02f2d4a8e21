"""What is said of a federation when it is over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdrun.federation.loop import export
from kdrun.federation.messages import Update, size
from kdrun.ledger.flops import parameters
from kdrun.ledger.spending import known_sum


def means(values: Sequence[Mapping[str, float]], task: Any) -> dict[str, float | None]:
    """Each of the task's metrics as a mean over clients; of its main one also the worst and the 10th percentile of clients.

    The percentile is that of the worse end (the 90th of a metric that is better when smaller), between ranks linear. Clients
    without a value, as an AUC of one class, do not count; None where no client has one.
    """
    found: dict[str, float | None] = {}
    for name in task.METRICS:
        known = [one[name] for one in values if not math.isnan(one[name])]
        found[name] = sum(known) / len(known) if known else None
    known = [one[task.MAIN] for one in values if not math.isnan(one[task.MAIN])]
    larger = task.METRICS[task.MAIN] == "max"
    found[f"{task.MAIN}/worst"] = (min(known) if larger else max(known)) if known else None
    found[f"{task.MAIN}/p10"] = float(np.percentile(known, 10 if larger else 90)) if known else None
    return found


def client_results(running: Any, test: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Per client: val and test of the best and of the last round, sizes, traffic, time, gates, and when it was left out."""
    server, found = running.federation.server, []
    for client in running.federation.clients:
        number = client.number
        network = client.proxy if client.private is None else client.private
        found.append(
            {
                "client": number,
                "val": {which: dict(running.val[which][number]) for which in ("best", "last")},
                "test": {which: dict(test[which][number]) for which in ("best", "last")},
                "samples": {split: len(shard) for split, shard in client.shards.items()},
                "parameters": parameters(network),
                "bytes_up": server.up[number],
                "bytes_down": server.down[number],
                "bytes_private": _private_bytes(client, server.calls[number] + server.answers[number]),
                "seconds": round(client.seconds, 3),
                "steps": client.loop.counted["steps"],
                **client.gate_means(),
                "left_out": [list(entry) for entry in server.left_out[number]],
            }
        )
    return found


def _private_bytes(client: Any, messages: int) -> int | None:
    """What the same number of messages with the private weights would have been."""
    if client.private is None or client.method.TRAVELS is None:
        return None
    return messages * size(Update(export(client.private)))


def outcome_of(
    running: Any, test: dict[str, Any], first_step: dict[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Like the outcome of learning.fit.run_stage, with means over clients as metrics, and:

    judged   "private" or "shared": the network that was tested
    method   its name
    clients  see client_results
    rounds   of each round: clients called and whose answers came, who was left out and why, bytes so far, means of losses
    bytes    up, down, and private: what sending private weights instead would have been (None without private networks)
    """
    federation = running.federation
    server, task = federation.server, federation.task
    clients = client_results(running, test)
    private = [client["bytes_private"] for client in clients]
    flops = _flops(running)
    energy = _energy(running, clients, flops["work"])
    sizes = [client["parameters"] for client in clients]
    return {
        "label": running.label,
        "monitor": running.monitor,
        "judged": federation.method.JUDGED,
        "method": running.request.federation["method"],
        "val": {
            "best": means(running.val["best"], task),
            "last": means(running.val["last"], task),
            "epoch_best": running.best,
            "epochs": server.rules.rounds,
        },
        "test": {which: means(test[which], task) for which in ("best", "last")},
        "further": {},
        "history": running.history,
        "rounds": running.played,
        "clients": clients,
        "bytes": {
            "up": sum(server.up.values()),
            "down": sum(server.down.values()),
            "private": known_sum(private),
        },
        **federation.method.outcome(server.arrays, server.resources),
        "first_step": first_step,
        "teacher": None,
        "cost": {
            **{name: None if value is None else round(value, 3) for name, value in running.ledger.totals().items()},
            "tries": running.ledger.tries,
            "tokens": None,
            "training_seconds": training.get("seconds"),
            "steps": running.steps,
            "samples": sum(flops["samples"].values()),
            "flops": flops["flops"],
            "energy": energy,
        },
        "parameters": round(sum(sizes) / len(sizes)),
        "packaged": 0,
        "flops": flops["forward"],
    }


def _energy(running: Any, clients: list[dict[str, Any]], work: list[dict[str, int | None]]) -> dict[str, Any] | None:
    """`cost.energy` of the stage (see ledger.spending); every client gets its own part as "energy", and "server" is what is left.

    work: FLOPs by phase of each client, and of the server last.
    """
    spending, phases = running.ledger.energy, ("train", "evaluate")
    sums = {phase: known_sum(one[phase] for one in work if phase in one) for phase in phases}
    found = spending.record(None if None in sums.values() else sums)
    if found is None:
        return None
    left: float | None = found["joules"]
    for client, entry, flops in zip(running.federation.clients, clients, work, strict=False):
        own = {phase: dict(client.phases.get(phase) or {"joules": 0.0, "seconds": 0.0}) for phase in phases}
        if found["method"] == "flops":
            for phase in phases:
                own[phase]["joules"] = spending.modelled(flops[phase])
        joules = known_sum(own[phase]["joules"] for phase in phases)
        entry["energy"] = {"joules": joules, "phases": own}
        left = None if None in (left, joules) else left - joules
    return {**found, "server": {"joules": None if left is None else max(0.0, round(left, 8))}}


def _flops(running: Any) -> dict[str, Any]:
    """FLOPs of all training and of all frozen outputs, from forward passes that are counted on the meta device.

    work: of each client and of the server, by phase.
    """
    federation, task = running.federation, running.federation.task
    samples: dict[str, int] = {}
    passes: dict[str, list[int | None]] = {"trained": [], "asked": []}
    known: dict[int, int | None] = {}
    work: list[dict[str, int | None]] = []

    def cost(network: Any, count: int) -> int | None:
        """FLOPs of so many forward passes of one sample."""
        if id(network) not in known:
            known[id(network)] = task.flops(network)
        return None if known[id(network)] is None else known[id(network)] * count

    resources = federation.server.resources
    workers = [(client.loop, {"private": client.private, "proxy": client.proxy}) for client in federation.clients]
    workers.append((resources.loop, {"private": None, "proxy": resources.network, "server": resources.model}))
    for loop, networks in workers:
        own = []
        for what, count in loop.counted.items():
            kind, _, role = what.partition("/")
            if kind in passes:
                network = networks["proxy" if role == "shared" else role]
                own.append(cost(network, 3 * loop.passes * count if kind == "trained" else count))
                passes[kind].append(own[-1])
                if kind == "trained":
                    samples[role] = samples.get(role, 0) + count
        work.append({"train": known_sum(own)})
    judged = [client.proxy if client.private is None else client.private for client in federation.clients]
    for client, network, own in zip(federation.clients, judged, work, strict=False):
        own["evaluate"] = cost(network, client.evaluated)
    forward = known_sum(cost(network, 1) for network in judged)
    steps = "three" if resources.loop.passes == 1 else 3 * resources.loop.passes
    learned, asked = known_sum(passes["trained"]), known_sum(passes["asked"])
    return {
        "samples": samples,
        "work": work,
        "forward": None if forward is None else round(forward / len(judged)),
        "flops": {
            "student": learned,
            "teacher": asked,
            "total": known_sum([learned, asked]),
            "method": f"forward passes counted on the meta device; a training step is {steps} of them",
        },
    }
