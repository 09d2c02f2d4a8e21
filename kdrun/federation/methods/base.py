"""What a method answers, so that clients, server and engines need to know none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.federation import aggregate
from kdrun.federation.messages import Arrays, Broadcast, Expected, Update, form, refusal
from kdrun.federation.methods.losses import Losses
from kdrun.federation.methods.options import METHODS, options_of
from kdrun.objectives.terms import Objective

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from kdrun.federation.client import Client
    from kdrun.federation.loop import Loop
    from kdrun.federation.shards import Shard


@dataclass
class ServerResources:
    """What the server has of its own.

    network  of the shape of what travels
    public   samples that everybody has, without labels
    loop     to train in; width: of a row of predictions
    model    a network that the server trains and nobody else has, for methods with SERVER
    groups   the hidden group of each client, where the partition made any: for what is held against them, and for a method that
             is told to know them
    clients  how many there are
    """

    network: nn.Module | None
    public: Shard | None
    loop: Loop
    width: int
    model: nn.Module | None = None
    groups: Sequence[int] | None = None
    clients: int = 0


class Method:
    """One way to learn together.

    JUDGED   which network is tested on a client's samples: its "private" one or the "shared" one
    SERVER   whether the server trains a network of its own
    TRAVELS  what goes both ways: weights of a "proxy" beside a private network, of the "shared" network, "predictions" on
             public samples, or None
    losses   terms that objectives are made of
    """

    JUDGED: ClassVar[str] = "private"
    SERVER: ClassVar[bool] = False
    TRAVELS: ClassVar[str | None] = None

    def __init__(self, options: Any, losses: Losses | None = None):
        self.options = options
        self.losses = losses or Losses.of(False, getattr(options, "temperature", 1.0))

    def objectives(self) -> Iterable[Objective]:
        """Of all networks that learn."""
        raise NotImplementedError

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that every run must have seen."""
        return tuple(dict.fromkeys(term.name for objective in self.objectives() for term in objective.active))

    def initial(self, resources: ServerResources) -> dict[str, np.ndarray]:
        """What the server holds in the first round."""
        from kdrun.federation.loop import export

        return {} if resources.network is None else export(resources.network)

    def expected(self, arrays: Arrays, resources: ServerResources) -> Expected:
        """What an answer must look like, where `arrays` were sent."""
        return form(arrays)

    def combine(
        self,
        arrays: Arrays,
        updates: Mapping[int, Update],
        how: str,
        trim: float,
        round: int,
        resources: ServerResources,
    ) -> dict[str, np.ndarray]:
        """What the server holds in the next round, from at least one update."""
        return aggregate.combine(updates, how, trim)

    def sent(self, arrays: Arrays, client: int) -> Arrays:
        """What a client is sent of what the server holds."""
        return arrays

    def refusal(self, update: Update, expected: Expected) -> str | None:
        """Why an answer cannot be used, in words, or None."""
        return refusal(update, expected)

    def said(self, arrays: Arrays) -> dict[str, float]:
        """Numbers of a round that are the server's, beside those of clients."""
        return {}

    def outcome(self, arrays: Arrays, resources: ServerResources) -> dict[str, Any]:
        """What is said of the method in the outcome, from what the server holds in the end."""
        return {}

    def work(self, client: Client, broadcast: Broadcast) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """A client's part of a round: (what it sends, means of its losses)."""
        raise NotImplementedError

    def suits(self, regression: bool, width: int | None = None) -> None:
        """Raises UserError where the method cannot be used on these targets. width: of a row of predictions, where it is known."""


def build_method(
    name: str, options: Mapping[str, Any], regression: bool = False, objective: Mapping[str, Any] | None = None
) -> Method:
    """objective: of the config, whose terms stand in place of the method's; None: those of the method.

    Raises UserError for an unknown name or option, or a value that an option cannot have."""
    chosen = options_of(name, options)
    module, kind = METHODS[name][0].split(".")
    if objective is None:
        losses = Losses.of(regression, getattr(chosen, "temperature", 1.0))
    else:
        losses = Losses.of_config(objective, regression)
    return getattr(import_module(f"kdrun.federation.methods.{module}"), kind)(chosen, losses)
