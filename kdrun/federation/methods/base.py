"""What a method answers, so that clients, server and engines need to know none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.federation import aggregate
from kdrun.federation.messages import Arrays, Broadcast, Expected, Update, form
from kdrun.problems import UserError, closest, listed

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from kdrun.federation.client import Client
    from kdrun.federation.loop import Loop
    from kdrun.federation.shards import Shard


@dataclass(frozen=True)
class Options:
    """Options of all methods: passes over a client's samples in a round, in each of the two directions.

    A method without two directions trains for the sum of both, so that all have the same number of optimisation steps.
    """

    backward_epochs: int = 1
    forward_epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("backward_epochs", "forward_epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UserError(f"{name}={value}: a whole number of at least 0")
        if self.epochs == 0:
            raise UserError("backward_epochs=0 and forward_epochs=0: nothing would be learned")

    @property
    def epochs(self) -> int:
        """Of both directions together."""
        return self.backward_epochs + self.forward_epochs


@dataclass(frozen=True)
class PublicOptions(Options):
    """public: the share of each client's training samples that is taken from it and given to everybody without labels."""

    public: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.public < 1:
            raise UserError(f"public={self.public}: a share of training above 0 and below 1")


@dataclass
class Hall:
    """What the server has of its own: a network of the shape of what travels, public samples, a loop to train in."""

    network: nn.Module | None
    public: Shard | None
    loop: Loop
    width: int


class Method:
    """One way to learn together.

    JUDGED   which network is tested on a client's samples: its "private" one or the "shared" one
    TRAVELS  what goes both ways: weights of a "proxy" beside a private network, of the "shared" network, "predictions" on
             public samples, or None
    TERMS    parts of the losses that every run must have seen, for options as they are
    """

    JUDGED: ClassVar[str] = "private"
    TRAVELS: ClassVar[str | None] = None
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any):
        self.options = options

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the parts of the losses that have a weight."""
        raise NotImplementedError

    def initial(self, hall: Hall) -> dict[str, np.ndarray]:
        """What the server sends in the first round."""
        from kdrun.federation.loop import export

        return {} if hall.network is None else export(hall.network)

    def expected(self, arrays: Arrays, hall: Hall) -> Expected:
        """What an answer must look like, where `arrays` were sent."""
        return form(arrays)

    def combine(
        self, arrays: Arrays, updates: Mapping[int, Update], how: str, trim: float, round: int, hall: Hall
    ) -> dict[str, np.ndarray]:
        """What the server sends in the next round, from at least one update."""
        return aggregate.combine(updates, how, trim)

    def work(self, client: Client, broadcast: Broadcast) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """A client's part of a round: (what it sends, means of its losses)."""
        raise NotImplementedError

    def suits(self, regression: bool) -> None:
        """Raises UserError where the method cannot be used on these targets."""


def choose(options: type[Options], given: Mapping[str, Any], method: str) -> Options:
    """The options of a method. Raises UserError for one that it does not have."""
    known = [field.name for field in fields(options)]
    for name in given:
        if name not in known:
            raise UserError(f"{method} has no option {name!r}{closest(name, known)}", f"it has: {listed(known)}")
    return options(**given)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises UserError where an option is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{name}={value}: one of {', '.join(allowed)}{closest(str(value), allowed)}")


def at_least_zero(name: str, value: Any, above: bool = False) -> None:
    """Raises UserError where an option is no finite number of at least 0 (or above 0)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value < float("inf") or (value <= 0 if above else value < 0):
        raise UserError(f"{name}={value}: a finite number {'above' if above else 'of at least'} 0")
