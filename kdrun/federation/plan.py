"""What `kdrun plan` says of a federation before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network


def planned(stage: Any, module: Any) -> dict[str, Any]:
    """{"clients", "rounds", "method", "partition", "private": [{"network", "parameters"}], "travels", "parameters" (of what
    travels; None where no weights do), "bytes" (of all rounds and clients, both ways, an estimate; None where nothing travels), "public":
    samples that all have, without labels, "steps": of clients, at most}.

    stage: lab.stages.federate.Federate. The partition is made, so that one that cannot be is told now.
    """
    from kdrun.federation import partition
    from kdrun.federation.methods.base import build_method
    from kdrun.learning import seeds

    config = stage.federation
    regression = module.samples("train").targets.is_floating_point()
    method = build_method(config["method"], config["options"], regression, config.get("objective"))
    targets = {split: module.samples(split).targets.numpy() for split in ("train", "val", "test")}
    method.suits(regression, None if regression else len(module.spec.classes))
    how = config["partition"]
    shares = partition.shares(
        targets,
        config["clients"],
        how["kind"],
        how["alpha"],
        seeds.derive(stage.seed, "partition"),
        how["minimum"],
        how.get("groups", 1),
        how.get("mixing", 0.0),
    )
    sizes: dict[str, int] = {}

    def size(node: dict[str, Any]) -> int:
        key = repr(node)
        if key not in sizes:
            sizes[key] = parameters(build_network(node, module.spec, 0))
        return sizes[key]

    private = [{"network": node["_target_"], "parameters": size(node)} for node in config["private"]]
    alike = len({repr(node) for node in config["private"]}) == 1
    travels = {
        "proxy": config["proxy"],
        "shared": config["private"][0] if alike else config["proxy"],
    }.get(method.TRAVELS or "")
    called = max(1, round(config["participation"] * config["clients"]))
    share = getattr(method.options, "public", how.get("withheld")) or 0.0
    public = sum(int(share * len(rows)) for rows in shares.train)
    own = [len(rows) - int(share * len(rows)) for rows in shares.train]
    per_round = _steps(method, own, public, stage.trainer["batch_size"]) * called / config["clients"]
    if method.TRAVELS == "predictions":
        width = 1 if regression else len(module.spec.classes)
        answer = _answer(method, public, width)
        sent = answer * called * (2 * config["rounds"] - 1)  # nothing is sent to clients in round 0
    else:
        sent = None if travels is None else 2 * 4 * size(travels) * called * config["rounds"]
    return {
        "clients": config["clients"],
        "rounds": config["rounds"],
        "method": config["method"],
        "partition": {"kind": how["kind"], "alpha": how["alpha"], "samples": own},
        "public": public,
        "private": private,
        "travels": method.TRAVELS,
        "parameters": None if travels is None else size(travels),
        "bytes": sent,
        "steps": round(per_round * config["rounds"]),
    }


def _steps(method: Any, own: list[int], public: int, batch: int) -> int:
    """Steps of all clients in a round, the longest of all rounds. own: samples of each; public: that all have."""
    options = method.options
    if method.TRAVELS != "predictions":
        return sum(-(-count // batch) for count in own) * options.epochs
    labels = max(options.backward_epochs, getattr(options, "first_epochs", None) or 0)
    return sum(-(-count // batch) for count in own) * labels + len(own) * options.forward_epochs * -(-public // batch)


def _answer(method: Any, public: int, width: int) -> int:
    """Bytes of one answer with predictions of public samples."""
    from kdrun.federation.messages import Update, size

    resources = SimpleNamespace(public=range(public), width=width)
    form = method.expected({}, resources)
    return size(Update({name: np.zeros(shape, kind) for name, (shape, kind) in form.items()}))
