"""Clients that go wrong on purpose, so that it can be seen what a federation does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdrun.federation.messages import Update
from kdrun.problems import UserError, closest, listed

ON_BAD = ("leave_out", "stop")


class BadUpdate(RuntimeError):
    """A client did not answer, or not in a way that can be used, and `faults.on_bad=stop`."""


@dataclass(frozen=True)
class Failure:
    """In place of an update: why there is none."""

    reason: str


@dataclass(frozen=True)
class Faults:
    """drop    client -> rounds in which it gets the broadcast and never answers
    nan, shapes   clients whose arrays are not finite, or have wrong shapes
    scale   client -> factor on all its arrays
    flip    client -> share of its training labels that are wrong
    on_bad  what the server does without a usable answer: leave the client out of the round, or stop (BadUpdate)
    """

    drop: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    nan: frozenset[int] = frozenset()
    shapes: frozenset[int] = frozenset()
    scale: Mapping[int, float] = field(default_factory=dict)
    flip: Mapping[int, float] = field(default_factory=dict)
    on_bad: str = "leave_out"

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, clients: int) -> Faults:
        """From a config, whose keys may be text. Raises UserError for an unknown fault or a client that is not there."""
        config = dict(config or {})
        known = list(cls.__dataclass_fields__)
        for name in config:
            if name not in known:
                raise UserError(f"faults.{name} is none{closest(name, known)}", f"there are: {listed(known)}")
        on_bad = config.get("on_bad") or "leave_out"
        if on_bad not in ON_BAD:
            raise UserError(f"faults.on_bad={on_bad}: one of {', '.join(ON_BAD)}{closest(str(on_bad), ON_BAD)}")

        def client(name: str, given: Any) -> int:
            number = int(given) if str(given).isdigit() else -1
            if not 0 <= number < clients:
                raise UserError(f"faults.{name}: {given!r} is no client", f"clients are 0 to {clients - 1}")
            return number

        def table(name: str) -> dict[int, Any]:
            return {client(name, key): value for key, value in (config.get(name) or {}).items()}

        flip = {number: float(share) for number, share in table("flip").items()}
        if wrong := [share for share in flip.values() if not 0 <= share <= 1]:
            raise UserError(f"faults.flip: {wrong[0]} is no share in 0..1")
        return cls(
            drop={number: tuple(map(int, rounds)) for number, rounds in table("drop").items()},
            nan=frozenset(client("nan", one) for one in config.get("nan") or ()),
            shapes=frozenset(client("shapes", one) for one in config.get("shapes") or ()),
            scale={number: float(factor) for number, factor in table("scale").items()},
            flip=flip,
            on_bad=on_bad,
        )

    def drops(self, client: int, round: int) -> bool:
        return round in self.drop.get(client, ())

    def spoilt(self, client: int, update: Update) -> Update:
        """The update as this client sends it."""
        arrays = dict(update.arrays)
        floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
        if client in self.scale:
            with np.errstate(over="ignore"):
                arrays |= {name: (arrays[name] * self.scale[client]).astype(arrays[name].dtype) for name in floats}
        if client in self.nan:
            arrays |= {name: np.full_like(arrays[name], np.nan) for name in floats}
        if client in self.shapes:
            arrays |= {name: np.zeros((*array.shape, 2), array.dtype) for name, array in arrays.items()}
        return replace(update, arrays=arrays)
