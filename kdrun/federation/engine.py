"""How server and clients reach each other. Another engine brings the same calls to other processes or machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from kdrun.federation.client import Client
from kdrun.federation.faults import Failure, Faults
from kdrun.federation.messages import Arrays, Broadcast, Update
from kdrun.networks.weights import save_weights


class Engine(Protocol):
    """Calls clients by their numbers. Whatever it runs on, a client answers with the same bits.

    elsewhere  whether clients work in other processes: the state is then saved after every round, since they cannot go back
               farther, and what this process takes is not all
    incidents  [client, round, why] of what befell a machine or a line, and would not happen again in the same way
    """

    elsewhere: bool
    incidents: list[list[Any]]

    def fit(self, broadcasts: Mapping[int, Broadcast]) -> Iterator[tuple[int, Update | Failure]]:
        """Each client's answer to what it is sent, in the order of `broadcasts`."""
        ...

    def evaluate(
        self, clients: Iterable[int], split: str, arrays: Arrays | None = None, best: bool = False
    ) -> dict[int, dict[str, float] | Failure]:
        """Each client's metrics on its own samples (see client.Client.evaluate)."""
        ...

    def keep(self, round: int) -> None:
        """This round is the best so far, for all clients."""
        ...

    def saved(self, round: int) -> None:
        """Everything up to the beginning of `round` is on disk: no client is asked to go back behind it."""
        ...

    def leave(self, folder: Path, spec: Any, nodes: Sequence[dict[str, Any]]) -> None:
        """Private networks, of the last and of the best round, into files in `folder`, where they are here."""
        ...


def answer(client: Client, faults: Faults, broadcast: Broadcast) -> Update | Failure:
    """What a client says to a broadcast, with what goes wrong on purpose."""
    if faults.drops(client.number, broadcast.round):
        return Failure("it dropped out")
    try:
        return faults.spoilt(client.number, client.fit(broadcast))
    except FloatingPointError as error:
        return Failure(f"its training diverged: {error}")


def save_private(
    folder: Path, number: int, network: nn.Module, best: Mapping[str, Tensor], spec: Any, node: dict[str, Any]
) -> None:
    """The network as it is and as it was at its best: client-NN.last.safetensors and client-NN.best.safetensors."""
    save_weights(network, folder / f"client-{number:02d}.last.safetensors", spec, node)
    save_weights(network, folder / f"client-{number:02d}.best.safetensors", spec, node, best)


class InProcess:
    """All clients in this process, one after another."""

    elsewhere = False

    def __init__(self, clients: Sequence[Client], faults: Faults | None = None):
        self.clients = clients
        self.faults = faults or Faults()
        self.incidents: list[list[Any]] = []

    def fit(self, broadcasts: Mapping[int, Broadcast]) -> Iterator[tuple[int, Update | Failure]]:
        for number, broadcast in broadcasts.items():
            yield number, answer(self.clients[number], self.faults, broadcast)

    def evaluate(
        self, clients: Iterable[int], split: str, arrays: Arrays | None = None, best: bool = False
    ) -> dict[int, dict[str, float]]:
        return {number: self.clients[number].evaluate(split, arrays, best) for number in clients}

    def keep(self, round: int) -> None:
        for client in self.clients:
            client.keep(round)

    def saved(self, round: int) -> None:
        """Nothing to do: clients go back with the state itself."""

    def leave(self, folder: Path, spec: Any, nodes: Sequence[dict[str, Any]]) -> None:
        for client in self.clients:
            if client.private is not None:
                save_private(folder, client.number, client.private, client.best, spec, nodes[client.number])

    # kept between tries, see kept.py

    def numbers(self) -> list[dict[str, Any]]:
        return [client.numbers() for client in self.clients]

    def parts(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """{name: (version, tensors)}: equal versions have equal tensors."""
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for client in self.clients:
            for what, tensors in client.tensors().items():
                version = client.fits if what == "private" else client.best_round
                if tensors:
                    found[f"client-{client.number:03d}.{what}"] = (str(version), tensors)
        return found

    def restore(self, numbers: Sequence[dict[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> None:
        for client, own in zip(self.clients, numbers, strict=True):
            prefix = f"client-{client.number:03d}."
            mine = {name.removeprefix(prefix): found for name, found in parts.items() if name.startswith(prefix)}
            client.restore(own, mine)
