"""From a request to everything that takes part in a federation: data, networks, clients, server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from kdrun.data import randomness
from kdrun.federation import partition
from kdrun.federation.client import Client
from kdrun.federation.engine import InProcess
from kdrun.federation.faults import Faults
from kdrun.federation.loop import Loop
from kdrun.federation.methods.base import Hall, Method
from kdrun.federation.methods.build import build_method
from kdrun.federation.server import Rules, Server
from kdrun.federation.shards import Shard
from kdrun.learning import seeds
from kdrun.networks.build import build_network
from kdrun.problems import UserError
from kdrun.tasks.build import task_for

if TYPE_CHECKING:
    from kdrun.learning.teaching import Workshop


@dataclass
class Federation:
    """All that takes part, put together and at its beginning.

    nodes  of the networks by role: {"private": one per client, "proxy": what travels or None}
    """

    module: Any
    task: Any
    method: Method
    clients: list[Client]
    engine: InProcess
    server: Server
    nodes: dict[str, Any]

    @property
    def shared(self) -> bool:
        """Whether the network that is tested is the shared one."""
        return self.method.JUDGED == "shared"


def assemble(request: dict[str, Any], shop: Workshop) -> Federation:
    """What `request` describes (see run_federation). Raises UserError where it cannot be."""
    config, seed, hardware = request["federation"], request["seed"], request["hardware"]
    if hardware.get("devices", 1) > 1:
        raise UserError("hardware.devices: clients of one process run on one device", "give hardware.devices=1")
    module = shop.data(request["data"])
    task = task_for(module)
    number = config["clients"]
    method = build_method(config["method"], config.get("options") or {})
    aggregation = config.get("aggregation") or {}
    faults = Faults.of(config.get("faults"), number)
    rules = Rules(
        number,
        config["rounds"],
        config.get("participation", 1.0),
        aggregation.get("how", "fedavg"),
        aggregation.get("trim", 0.1),
        faults.on_bad,
    )
    regression = module.samples("train").targets.is_floating_point()
    method.suits(regression)
    device = torch.device(hardware["device"])
    shards, public = _shards(config, module, method, faults, seed, device)
    make_loop = partial(Loop, task, request["trainer"], device=device, precision=hardware.get("precision", "fp32"))
    layout = {"memory_format": torch.channels_last} if hardware.get("channels_last") else {}

    def network(node: dict[str, Any], *purpose: object) -> nn.Module:
        return build_network(node, module.spec, seeds.derive(seed, *purpose)).to(device, **layout)

    private = [config["private"][client % len(config["private"])] for client in range(number)]
    travelling = _travelling(config, method, private)
    proxy = None if travelling is None else network(travelling, "proxy")
    clients = [
        Client(
            client,
            shards[client],
            make_loop(seed=seeds.derive(seed, "client", client)),
            method,
            None if method.JUDGED == "shared" else network(private[client], "weights", client),
            proxy,
            public,
        )
        for client in range(number)
    ]
    width = 1 if regression else len(module.spec.classes)
    hall = Hall(
        None if travelling is None else network(travelling, "proxy"),
        public,
        make_loop(seed=seeds.derive(seed, "server")),
        width,
    )
    engine = InProcess(clients, faults)
    server = Server(method, engine, hall, rules, seed)
    return Federation(module, task, method, clients, engine, server, {"private": private, "proxy": travelling})


def _travelling(config: dict[str, Any], method: Method, private: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The node of the network whose weights travel. A shared one is `shared`, else what all clients have, else the proxy."""
    if method.TRAVELS == "proxy":
        return config["proxy"]
    if method.TRAVELS != "shared":
        return None
    alike = all(node == private[0] for node in private)
    return config.get("shared") or (private[0] if alike else config["proxy"])


def _shards(
    config: dict[str, Any], module: Any, method: Method, faults: Faults, seed: int, device: torch.device
) -> tuple[list[dict[str, Shard]], Shard | None]:
    """Each client's samples by split, and the public ones; the partition is the same for all methods."""
    number, how = config["clients"], config.get("partition") or {}
    splits = {split: module.samples(split) for split in ("train", "val", "test")}
    shares = partition.shares(
        {split: samples.targets.numpy() for split, samples in splits.items()},
        number,
        how.get("kind", "label"),
        how.get("alpha", 0.5),
        seeds.derive(seed, "partition"),
        how.get("minimum", 8),
    )
    share = getattr(method.options, "public", None)
    own, given = list(shares.train), None
    if share is not None:
        own, given = _published(own, splits["train"].ids.numpy(), share, seed)
    strength = (config.get("shift") or {}).get("strength", 0.0)
    found = []
    for client in range(number):
        change = partial(partition.shift, client=client, clients=number, strength=strength) if strength else None
        targets, flipped = None, None
        if fraction := faults.flip.get(client):
            targets, flipped = _flipped(splits["train"].targets, own[client], module, fraction, seed, client)
        found.append(
            {
                "train": Shard(
                    splits["train"], own[client], targets=targets, flipped=flipped, change=change, device=device
                ),
                **{
                    split: Shard(splits[split], getattr(shares, split)[client], change=change, device=device)
                    for split in ("val", "test")
                },
            }
        )
    if given is None:
        return found, None
    withheld = torch.zeros_like(splits["train"].targets[torch.from_numpy(given)])
    return found, Shard(splits["train"], given, targets=withheld, device=device)


def _published(own: list[np.ndarray], ids: np.ndarray, share: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(what clients keep, what is public): `share` of every client's training samples, at least one in all."""
    kept, public = [], []
    for client, positions in enumerate(own):
        order = positions[randomness.order(randomness.key("public", seed, client), ids[positions])]
        count = int(share * len(order))
        public.append(order[:count])
        kept.append(np.sort(order[count:]))
    together = np.sort(np.concatenate(public))
    if len(together) == 0:
        raise UserError(f"public={share}: that is not one sample of any client", "give a larger share")
    return kept, together


def _flipped(targets: torch.Tensor, positions: np.ndarray, module: Any, fraction: float, seed: int, client: int):
    if targets.is_floating_point():
        raise UserError("faults.flip: only classes can be flipped; targets are numbers here")
    seed = seeds.derive(seed, "flip", client)
    changed, flipped = partition.corrupted(targets.numpy()[positions], len(module.spec.classes), fraction, seed)
    return torch.from_numpy(np.asarray(changed)), np.asarray(flipped)
