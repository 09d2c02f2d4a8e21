"""From a request to everything that takes part in a federation: data, networks, clients, server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from kdrun.data import randomness
from kdrun.federation import partition
from kdrun.federation.client import Client
from kdrun.federation.engine import Engine, InProcess
from kdrun.federation.faults import Faults
from kdrun.federation.loop import Loop
from kdrun.federation.methods.base import Method, ServerResources, build_method
from kdrun.federation.request import FederationRequest
from kdrun.federation.server import Rules, Server
from kdrun.federation.shards import Shard
from kdrun.learning import seeds
from kdrun.networks.build import build_network
from kdrun.problems import UserError

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
    engine: Engine
    server: Server
    nodes: dict[str, Any]

    @property
    def shared(self) -> bool:
        """Whether the network that is tested is the shared one."""
        return self.method.JUDGED == "shared"


def assemble(request: FederationRequest, workshop: Workshop) -> Federation:
    """What `request` describes (see request.FederationRequest), all of it here. Raises UserError where it cannot be."""
    setting = Setting(request, workshop)
    clients = [setting.client(number) for number in range(setting.rules.clients)]
    return setting.federation(clients, InProcess(clients, setting.faults))


class Setting:
    """What a request describes, piece by piece: where clients are elsewhere, nobody needs all of the pieces.

    Each piece is a function of the request alone, whoever asks for it and in which order.
    """

    def __init__(self, request: FederationRequest, workshop: Workshop):
        config, hardware = request.federation, request.hardware
        if hardware.get("devices", 1) * hardware.get("nodes", 1) > 1:
            raise UserError("hardware.devices: clients of one process run on one device", "give hardware.devices=1")
        self.config, self.seed = config, request.seed
        self.module = workshop.data(request.data)
        self.task = self.module.task(metrics=request.metrics)
        number = config["clients"]
        self.regression = self.module.samples("train").targets.is_floating_point()
        self.method = build_method(
            config["method"], config.get("options") or {}, self.regression, config.get("objective")
        )
        aggregation = config.get("aggregation") or {}
        self.faults = Faults.of(config.get("faults"), number)
        self.rules = Rules(
            number,
            config["rounds"],
            config.get("participation", 1.0),
            aggregation.get("how", "fedavg"),
            aggregation.get("trim", 0.1),
            self.faults.on_bad,
            aggregation.get("clip_norm"),
        )
        self.width = 1 if self.regression else len(self.module.spec.classes)
        self.method.suits(self.regression, self.width)
        self.device = torch.device(hardware["device"])
        precision = hardware.get("precision", "fp32")
        self._make_loop = partial(
            Loop, self.task, request.trainer, device=self.device, precision=precision, rounds=config["rounds"]
        )
        self._layout = {"memory_format": torch.channels_last} if hardware.get("channels_last") else {}
        self.private = [config["private"][client % len(config["private"])] for client in range(number)]
        self.travelling = _travelling(config, self.method, self.private)

    def federation(self, clients: list[Client], engine: Engine) -> Federation:
        """The server, which reaches these clients through this engine, and all that is needed around it."""
        server = Server(self.method, engine, self.resources(), self.rules, self.seed)
        nodes = {"private": self.private, "proxy": self.travelling}
        return Federation(self.module, self.task, self.method, clients, engine, server, nodes)

    def client(self, number: int) -> Client:
        """One client with its samples and its networks."""
        return Client(
            number,
            self.shards(number),
            self.client_loop(number),
            self.method,
            None if self.method.JUDGED == "shared" else self.network(self.private[number], "weights", number),
            self.proxy,
            self.public,
        )

    def client_loop(self, number: int) -> Loop:
        return self._make_loop(seed=seeds.derive(self.seed, "client", number))

    def resources(self) -> ServerResources:
        """What the server has of its own."""
        network = None if self.travelling is None else self.network(self.travelling, "proxy")
        loop = self._make_loop(seed=seeds.derive(self.seed, "server"))
        node = self.config.get("server") or self.config["proxy"]
        model = self.network(node, "server") if self.method.SERVER else None
        return ServerResources(network, self.public, loop, self.width, model, self.groups, self.rules.clients)

    @property
    def groups(self) -> list[int] | None:
        """The group of each client, where the partition is by groups."""
        how, number = self.config.get("partition") or {}, self.config["clients"]
        if how.get("kind") != "groups":
            return None
        return [partition.group_of(client, number, how["groups"]) for client in range(number)]

    def network(self, node: dict[str, Any], *purpose: object) -> nn.Module:
        """A network as it is at the beginning: its weights are a function of the run's seed and its purpose."""
        built = build_network(node, self.module.spec, seeds.derive(self.seed, *purpose))
        return built.to(self.device, **self._layout)

    @cached_property
    def proxy(self) -> nn.Module | None:
        """The network of the shape of what travels, which clients of one process share."""
        return None if self.travelling is None else self.network(self.travelling, "proxy")

    @cached_property
    def public(self) -> Shard | None:
        """The samples that everybody has, without their labels."""
        samples, given = self.module.samples("train"), self._divided[1]
        if given is None:
            return None
        withheld = torch.zeros_like(samples.targets[torch.from_numpy(given)])
        return Shard(samples, given, targets=withheld, device=self.device)

    @cached_property
    def _shares(self) -> partition.Shares:
        """Who has which samples; the same for all methods."""
        how = self.config.get("partition") or {}
        return partition.shares(
            {split: self.module.samples(split).targets.numpy() for split in ("train", "val", "test")},
            self.config["clients"],
            how.get("kind", "label"),
            how.get("alpha", 0.5),
            seeds.derive(self.seed, "partition"),
            how.get("minimum", 8),
            how.get("groups", 1),
            how.get("mixing", 0.0),
        )

    @cached_property
    def _divided(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """(training samples of each client, public ones or None)."""
        own, share = list(self._shares.train), getattr(self.method.options, "public", None)
        # Samples that are public under another arm are withheld from all arms where `withheld` says so.
        share = (self.config.get("partition") or {}).get("withheld") if share is None else share
        if share is None:
            return own, None
        return _published(own, self.module.samples("train").ids.numpy(), share, self.seed)

    def shards(self, client: int) -> dict[str, Shard]:
        """One client's samples by split."""
        own, strength = self._divided[0][client], (self.config.get("shift") or {}).get("strength", 0.0)
        change = partial(partition.shift, client=client, clients=self.rules.clients, strength=strength)
        change = change if strength else None
        samples, targets, flipped = self.module.samples("train"), None, None
        if fraction := self.faults.flip.get(client):
            targets, flipped = _flipped(samples.targets, own, self.module, fraction, self.seed, client)
        shards = {"train": Shard(samples, own, targets=targets, flipped=flipped, change=change, device=self.device)}
        for split in ("val", "test"):
            positions = getattr(self._shares, split)[client]
            shards[split] = Shard(self.module.samples(split), positions, change=change, device=self.device)
        return shards


def _travelling(config: dict[str, Any], method: Method, private: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The node of the network whose weights travel. A shared one is `shared`, else what all clients have, else the proxy."""
    if method.TRAVELS == "proxy":
        return config["proxy"]
    if method.TRAVELS != "shared":
        return None
    alike = all(node == private[0] for node in private)
    return config.get("shared") or (private[0] if alike else config["proxy"])


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
