"""What the server asks a client elsewhere, and what comes back: plain data, before it is made a Flower message. No flwr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from kdrun.federation.messages import Arrays, Update

WHO, FIT, EVALUATE = "who", "fit", "evaluate"
TEST = "test"


def versions() -> dict[str, str]:
    """Of what decides the bits of a client's work."""
    return {name: version(name) for name in ("kdrun", "torch", "numpy")}


@dataclass(frozen=True)
class Call:
    """One question to one client.

    what    who (are you), fit or evaluate
    run     identity of the federation that is played: what a client kept of another one does not count
    turn    grows from call to call: one that arrives after a later one is refused
    round   0-based; fit begins with what the client had before this round, evaluate with what it had after it
    best    the best round so far, or -1
    which   what is evaluated: the network of the "last" or of the "best" round
    saved   the first round that may still be played again: what is needed to go back to its beginning is kept
    split   which samples are evaluated; with fit: whether any are, in the same call
    arrays  what travels down
    """

    what: str
    run: str
    turn: int
    round: int
    best: int = -1
    saved: int = 0
    split: str = ""
    which: str = "last"
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a client says: an update after `fit`, metrics after an evaluation, or why there is no update.

    facts    what it says of itself: {"client", "versions"}, and after work {"client", "samples": {split: count}, "numbers": see
             client.numbers}
    failure  why there is no update. chance: whether that was a machine and not the method
    ended    (kind of the exception, its lines) of what concerns all clients alike, so that the run must end
    """

    facts: Mapping[str, Any] | None = None
    update: Update | None = None
    metrics: Mapping[str, float] | None = None
    failure: str | None = None
    chance: bool = False
    ended: tuple[str, ...] = ()
