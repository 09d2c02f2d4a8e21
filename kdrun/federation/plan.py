"""What `kdrun plan` says of a federation before anything is trained."""

from __future__ import annotations

from typing import Any

from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network


def planned(stage: Any, module: Any) -> dict[str, Any]:
    """{"clients", "rounds", "method", "partition", "private": [{"network", "parameters"}], "travels", "parameters" (of what
    travels; None where no weights do), "bytes" (of all rounds and clients, both ways, an estimate), "steps": at most}.

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
    batch, epochs = stage.trainer["batch_size"], method.options.epochs
    per_round = sum(-(-len(rows) // batch) for rows in shares.train) * epochs * called / config["clients"]
    return {
        "clients": config["clients"],
        "rounds": config["rounds"],
        "method": config["method"],
        "partition": {"kind": how["kind"], "alpha": how["alpha"], "samples": [len(rows) for rows in shares.train]},
        "private": private,
        "travels": method.TRAVELS,
        "parameters": None if travels is None else size(travels),
        "bytes": None if travels is None else 2 * 4 * size(travels) * called * config["rounds"],
        "steps": round(per_round * config["rounds"]),
    }
