"""How server and clients reach each other. Another engine brings the same calls to other processes or machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from kdrun.federation.client import Client
from kdrun.federation.faults import Failure, Faults
from kdrun.federation.messages import Arrays, Broadcast, Update


class Engine(Protocol):
    """Calls clients by their numbers. Whatever it runs on, a client answers with the same bits."""

    def fit(self, clients: Iterable[int], broadcast: Broadcast) -> Iterator[tuple[int, Update | Failure]]:
        """Each client's answer, as it comes."""
        ...

    def evaluate(
        self, clients: Iterable[int], split: str, arrays: Arrays | None = None, best: bool = False
    ) -> dict[int, dict[str, float]]:
        """Each client's metrics on its own samples (see client.Client.evaluate)."""
        ...

    def keep(self, round: int) -> None:
        """Tells all clients that this round is the best so far."""
        ...


class InProcess:
    """All clients in this process, one after another."""

    def __init__(self, clients: Sequence[Client], faults: Faults | None = None):
        self.clients = clients
        self.faults = faults or Faults()

    def fit(self, clients: Iterable[int], broadcast: Broadcast) -> Iterator[tuple[int, Update | Failure]]:
        for number in clients:
            if self.faults.drops(number, broadcast.round):
                yield number, Failure("it dropped out")
                continue
            try:
                update = self.clients[number].fit(broadcast)
            except FloatingPointError as error:
                yield number, Failure(f"its training diverged: {error}")
            else:
                yield number, self.faults.spoilt(number, update)

    def evaluate(
        self, clients: Iterable[int], split: str, arrays: Arrays | None = None, best: bool = False
    ) -> dict[int, dict[str, float]]:
        return {number: self.clients[number].evaluate(split, arrays, best) for number in clients}

    def keep(self, round: int) -> None:
        for client in self.clients:
            client.keep(round)

    # kept between tries, see kept.py

    def numbers(self) -> list[dict[str, Any]]:
        return [client.numbers() for client in self.clients]

    def parts(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """{name: (version, tensors)}: equal versions have equal tensors."""
        found = {}
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
