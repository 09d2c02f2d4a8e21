"""One client: its samples, its private network, and what it does when the server calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kdrun.federation.energy import Running
from kdrun.federation.loop import Loop, export, load
from kdrun.federation.messages import Arrays, Broadcast, Update
from kdrun.federation.shards import Shard

if TYPE_CHECKING:
    from kdrun.ledger.spending import Spending

COUNTED = ("clean", "corrupted", "gated")


class Client:
    """Called by an engine; nothing but what `fit` returns and plain metrics leaves it.

    number    from 0
    shards    its own samples: {"train", "val", "test"}
    method    a methods.base.Method: what it does in a round
    private   its own network, never sent; None where the method has only a shared one
    proxy     a network of the shape of what travels; every call begins by loading what the server sent, so that clients of one
              process may use the same. None where no weights travel
    public    unlabelled samples that everybody has, or None

    Kept between rounds and never sent: the private network, running statistics of energies, counters.
    """

    def __init__(
        self,
        number: int,
        shards: Mapping[str, Shard],
        loop: Loop,
        method: Any,
        private: nn.Module | None,
        proxy: nn.Module | None,
        public: Shard | None = None,
    ):
        self.number, self.shards, self.loop, self.method = number, shards, loop, method
        self.private, self.proxy, self.public = private, proxy, public
        networks = {"private": private, "proxy": proxy}
        self._state = {role: {} if one is None else dict(one.state_dict()) for role, one in networks.items()}
        self.running = Running()
        self.fits = 0  # times that it worked: with it the version of what is kept
        self.seconds = 0.0
        self.spending: Spending | None = None  # of the stage, where this client works in its process
        self.phases: dict[str, dict[str, float | None]] = {}  # what "train" and "evaluate" took, over all calls
        self.evaluated = 0  # samples on which a network was evaluated
        self.gates: dict[str, list[float]] = {name: [0.0, 0] for name in COUNTED}
        self.best: dict[str, Tensor] = {}
        self.best_round: int | None = None

    @property
    def train(self) -> Shard:
        return self.shards["train"]

    def fit(self, broadcast: Broadcast) -> Update:
        """The work of one round. Raises FloatingPointError where training diverged; everything is then as it was before."""
        started = time.perf_counter()
        moment = self._moment()
        before = {name: tensor.clone() for name, tensor in self._tensors().items()}
        running, gates = self.running.state_dict(), {name: list(sums) for name, sums in self.gates.items()}
        try:
            arrays, metrics = self.method.work(self, broadcast)
        except FloatingPointError:
            self._restore(before)
            self.running.load_state_dict(running)
            self.gates = gates
            raise
        finally:
            self.fits += 1
            self.seconds += time.perf_counter() - started
            self._took("train", moment)
        return Update(arrays, len(self.train), metrics)

    def evaluate(self, split: str, arrays: Arrays | None = None, best: bool = False) -> dict[str, float]:
        """The task's metrics on this client's own samples: of its private network, or of the shared one given as arrays.

        best: of the private network as it was at the last `keep`.
        """
        moment = self._moment()
        try:
            return self._evaluate(split, arrays, best)
        finally:
            self.evaluated += len(self.shards[split])
            self._took("evaluate", moment)

    def _evaluate(self, split: str, arrays: Arrays | None, best: bool) -> dict[str, float]:
        final = split == "test"
        if self.private is None:
            load(self.proxy, arrays, self._state["proxy"])
            return self.loop.evaluate(self.proxy, self.shards[split], final)
        if not best:
            return self.loop.evaluate(self.private, self.shards[split], final)
        now = {name: tensor.clone() for name, tensor in self._tensors().items()}
        self._restore(self.best)
        try:
            return self.loop.evaluate(self.private, self.shards[split], final)
        finally:
            self._restore(now)

    def _moment(self) -> tuple[float | None, float]:
        return (None, time.perf_counter()) if self.spending is None else self.spending.moment()

    def _took(self, phase: str, since: tuple[float | None, float]) -> None:
        """Joules (None without a sensor) and seconds since a moment belong to this phase of this client."""
        joules, now = self._moment()
        taken = {"joules": None if None in (joules, since[0]) else joules - since[0], "seconds": now - since[1]}
        self.phases = summed(self.phases, {phase: taken})

    def keep(self, round: int) -> None:
        """This round is the best so far."""
        self.best = {name: tensor.clone() for name, tensor in self._tensors().items()}
        self.best_round = round

    def count_gates(self, gates: list[Tensor], positions: list[Tensor]) -> dict[str, float]:
        """Means of gates [b] over the samples at `positions` of training, counted for the whole run too.

        gate_clean, gate_corrupted: over samples with right and with wrong labels; gated: share with a gate below one half.
        """
        values = torch.cat(gates).double().cpu()
        flipped = self.train.flipped
        wrong = torch.zeros(len(values), dtype=torch.bool) if flipped is None else flipped[torch.cat(positions)]
        chosen = {"clean": values[~wrong], "corrupted": values[wrong], "gated": (values < 0.5).double()}
        found = {}
        for name, some in chosen.items():
            if len(some):
                total = float(some.sum())
                self.gates[name] = [self.gates[name][0] + total, self.gates[name][1] + len(some)]
                found["gated" if name == "gated" else f"gate_{name}"] = total / len(some)
        return found

    def gate_means(self) -> dict[str, float | None]:
        """gate_clean, gate_corrupted and gated over all rounds; None where there was no such sample."""
        means = {name: sums[0] / sums[1] if sums[1] else None for name, sums in self.gates.items()}
        return {"gate_clean": means["clean"], "gate_corrupted": means["corrupted"], "gated": means["gated"]}

    def numbers(self) -> dict[str, Any]:
        """What is kept between rounds and is no tensor."""
        return {
            "fits": self.fits,
            "seconds": self.seconds,
            "phases": self.phases,
            "evaluated": self.evaluated,
            "gates": self.gates,
            "running": self.running.state_dict(),
            "seen": self.loop.seen,
            "counted": self.loop.counted,
            "best_round": self.best_round,
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """{what: weights} that are kept between rounds."""
        return {"private": self._tensors(), "best": self.best} if self.private is not None else {}

    def restore(self, numbers: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Back to what `numbers` and `tensors` gave."""
        self.fits, self.seconds, self.gates = numbers["fits"], numbers["seconds"], numbers["gates"]
        self.phases, self.evaluated = numbers.get("phases", {}), numbers.get("evaluated", 0)
        self.running.load_state_dict(numbers["running"])
        self.loop.seen, self.loop.counted = numbers["seen"], numbers["counted"]
        self.best_round = numbers["best_round"]
        if self.private is not None:
            self._restore(tensors["private"])
            self.best = {name: tensor.to(self.loop.device) for name, tensor in tensors.get("best", {}).items()}

    def _tensors(self) -> dict[str, Tensor]:
        return self._state["private"]

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])

    # for methods

    def receive(self, broadcast: Broadcast) -> nn.Module:
        """The proxy (or shared network) with what the server sent."""
        load(self.proxy, broadcast.arrays, self._state["proxy"])
        return self.proxy

    def send(self) -> dict[str, np.ndarray]:
        """What travels back: the proxy (or the shared network) as it is now."""
        return export(self.proxy, self._state["proxy"])


def summed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """{phase: {what: amount}} of both together; None where one of them is not known."""
    found = {phase: dict(amounts) for phase, amounts in one.items()}
    for phase, amounts in other.items():
        before = found.setdefault(phase, dict.fromkeys(amounts, 0.0))
        for what, amount in amounts.items():
            before[what] = None if None in (before[what], amount) else before[what] + amount
    return found
