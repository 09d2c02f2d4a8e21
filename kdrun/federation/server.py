"""The server: it chooses clients, sends, takes what comes back if it is usable, and combines it.

It sees messages only: never a sample of a client, never a private weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdrun.data import randomness
from kdrun.federation.aggregate import check, clip
from kdrun.federation.engine import Engine
from kdrun.federation.faults import BadUpdate, Failure
from kdrun.federation.messages import Broadcast, Update, size
from kdrun.federation.methods.base import Method, ServerResources
from kdrun.problems import UserError


@dataclass(frozen=True)
class Rules:
    """clients        how many there are
    rounds         how many are played
    participation  share of the clients that is chosen in each round, at least one
    how, trim      of aggregation, see aggregate.combine
    on_bad         see faults.Faults
    clip_norm      how far an update may be from what was sent, see aggregate.clip; None: as far as it is. Predictions are
                   not clipped: they are no steps from what was sent
    """

    clients: int
    rounds: int
    participation: float = 1.0
    how: str = "fedavg"
    trim: float = 0.1
    on_bad: str = "leave_out"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clients < 1 or self.rounds < 1:
            raise UserError(f"clients={self.clients}, rounds={self.rounds}: at least 1 of each")
        if not 0 < self.participation <= 1:
            raise UserError(f"participation={self.participation}: a share above 0 and at most 1")
        check(self.how, self.trim)
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UserError(f"aggregation.clip_norm={self.clip_norm}: a finite norm above 0, or null")


class Server:
    """State of the rounds; `collect` goes through a round client by client and can be left after any of them."""

    def __init__(self, method: Method, engine: Engine, resources: ServerResources, rules: Rules, seed: int):
        self.method, self.engine, self.resources, self.rules, self.seed = method, engine, resources, rules, seed
        self.round = 0
        self.arrays = method.initial(resources)
        self.came: dict[int, Update] = {}  # usable answers of this round
        self.done: list[int] = []  # clients that were called in this round, whatever came of it
        self.left_out: dict[int, list[tuple[int, str]]] = {client: [] for client in range(rules.clients)}
        self.up = dict.fromkeys(range(rules.clients), 0)
        self.down = dict.fromkeys(range(rules.clients), 0)
        self.calls = dict.fromkeys(range(rules.clients), 0)
        self.answers = dict.fromkeys(range(rules.clients), 0)

    def chosen(self) -> list[int]:
        """Clients of this round, in order: a function of (seed, round)."""
        count = max(1, math.floor(self.rules.participation * self.rules.clients + 0.5))
        drawn = randomness.order(randomness.key("participants", self.seed, self.round), np.arange(self.rules.clients))
        return sorted(drawn[:count].tolist())

    def collect(self) -> Iterator[int]:
        """Calls those of this round's clients that have not been called yet; gives each one's number once it is through."""
        todo = [client for client in self.chosen() if client not in self.done]
        broadcasts = {client: Broadcast(self.round, self.method.sent(self.arrays, client)) for client in todo}
        expected = self.method.expected(self.arrays, self.resources) if self.method.TRAVELS else {}
        for client, answer in self.engine.fit(broadcasts):
            self.down[client] += size(broadcasts[client])
            self.calls[client] += 1
            if isinstance(answer, Failure):
                self._leave_out(client, answer.reason)
            else:
                self.up[client] += size(answer)
                self.answers[client] += 1
                reason = self.method.refusal(answer, expected)
                if reason is None:
                    self.came[client] = answer
                else:
                    self._leave_out(client, reason)
            self.done.append(client)
            yield client

    def close(self) -> dict[str, Any]:
        """Combines what came and goes to the next round; what can be said of the round that ended.

        Without a usable answer what is sent stays as it was.
        """
        metrics = [self.came[client].metrics for client in sorted(self.came)]
        names = sorted({name for one in metrics for name in one})
        found = {
            "round": self.round,
            "called": len(self.done),
            "came": len(self.came),
            "left_out": [
                [c, reason] for c, entries in self.left_out.items() for r, reason in entries if r == self.round
            ],
            "bytes_up": sum(self.up.values()),
            "bytes_down": sum(self.down.values()),
            "metrics": {name: _mean([one[name] for one in metrics if name in one]) for name in names},
        }
        if self.came and self.method.TRAVELS:
            rules, came = self.rules, self.came
            if rules.clip_norm is not None and self.method.TRAVELS != "predictions":
                came, found["clipped"] = clip(came, self.arrays, rules.clip_norm)
            self.arrays = self.method.combine(self.arrays, came, rules.how, rules.trim, self.round, self.resources)
        found["metrics"] |= self.method.said(self.arrays)
        self.came, self.done = {}, []
        self.round += 1
        return found

    def _leave_out(self, client: int, reason: str) -> None:
        if self.rules.on_bad == "stop":
            raise BadUpdate(f"client {client} in round {self.round}: {reason} (faults.on_bad=stop)")
        self.left_out[client].append((self.round, reason))

    # kept between tries, see kept.py

    def numbers(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "done": self.done,
            "left_out": [[client, entries] for client, entries in self.left_out.items()],
            "came": {client: [update.samples, dict(update.metrics)] for client, update in self.came.items()},
            **{name: list(getattr(self, name).values()) for name in ("up", "down", "calls", "answers")},
            "hall": {"seen": self.resources.loop.seen, "counted": self.resources.loop.counted},
        }

    def parts(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        parts = {"global": (str(self.round), self.arrays)}
        parts |= {f"update-{client:03d}": (str(self.round), update.arrays) for client, update in self.came.items()}
        return {
            name: (version, {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})
            for name, (version, arrays) in parts.items()
            if arrays
        }

    def restore(self, numbers: dict[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
        def arrays(name: str) -> dict[str, np.ndarray]:
            return {key: tensor.numpy() for key, tensor in parts.get(name, {}).items()}

        self.round, self.done = numbers["round"], numbers["done"]
        self.arrays = arrays("global")
        self.left_out = {client: [tuple(entry) for entry in entries] for client, entries in numbers["left_out"]}
        self.came = {
            int(client): Update(arrays(f"update-{int(client):03d}"), samples, metrics)
            for client, (samples, metrics) in numbers["came"].items()
        }
        for name in ("up", "down", "calls", "answers"):
            setattr(self, name, dict(enumerate(numbers[name])))
        self.resources.loop.seen, self.resources.loop.counted = numbers["hall"]["seen"], numbers["hall"]["counted"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
