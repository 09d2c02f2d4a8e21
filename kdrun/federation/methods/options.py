"""Options of federated methods, and which methods there are: checked before anything heavy is imported. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from kdrun.problems import UserError, closest, listed

ENERGIES = ("disagreement", "free_energy", "entropy", "squared_error")
NORMS = ("entropy", "log_classes")
GATES = ("logistic", "hard", "off")
STATISTICS = ("batch", "running")
DIRECTIONS = ("both", "forward", "backward")
ORDERS = ("backward_first", "forward_first")
FIRST = ("labels", "skip")


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


@dataclass(frozen=True)
class ProxOptions(Options):
    """mu: weight of the proximal term, that is mu / 2 times the squared distance."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero("mu", self.mu)


@dataclass(frozen=True)
class FusionOptions(PublicOptions):
    """distil_epochs: passes of the server over the public samples in a round; temperature of its distillation."""

    distil_epochs: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distil_epochs, int) or self.distil_epochs < 1:
            raise UserError(f"distil_epochs={self.distil_epochs}: a whole number of at least 1")
        at_least_zero("temperature", self.temperature, above=True)


@dataclass(frozen=True)
class KDOptions(Options):
    """temperature of the distillation."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero("temperature", self.temperature, above=True)


@dataclass(frozen=True)
class GatedOptions(Options):
    """directions  forward: private networks teach proxies; backward: the global proxy teaches private networks. A network
                that is not taught learns from labels alone, in as many steps
    order       which step comes first in a round (inferred)
    first_round the global proxy has learned nothing before round 0, so nothing is taught backward in it. labels: private
                networks learn from labels alone; skip: they do not learn at all, and teach as they are (both inferred)
    energy, energy_norm, gate, beta, temperature: see energy.py; energy=auto is disagreement for classes, squared_error for
                numbers. The temperature is that of the distillation too
    statistics  of energies, by which they are normalised: of the batch, or running (for batches below 8)
    gate_grad   whether gradients flow through the gate into the private network (inferred: no)
    backward_weight, forward_weight   of the terms that teach, beside labels with 1 (inferred)
    """

    directions: str = "both"
    order: str = "backward_first"
    first_round: str = "labels"
    energy: str = "auto"
    energy_norm: str = "entropy"
    gate: str = "logistic"
    beta: float = 1.0
    temperature: float = 2.0
    statistics: str = "batch"
    gate_grad: bool = False
    backward_weight: float = 1.0
    forward_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("directions", self.directions, DIRECTIONS)
        one_of("order", self.order, ORDERS)
        one_of("first_round", self.first_round, FIRST)
        one_of("energy", self.energy, ("auto", *ENERGIES))
        one_of("energy_norm", self.energy_norm, NORMS)
        one_of("gate", self.gate, GATES)
        one_of("statistics", self.statistics, STATISTICS)
        for name in ("beta", "backward_weight", "forward_weight"):
            at_least_zero(name, getattr(self, name))
        at_least_zero("temperature", self.temperature, above=True)
        for name in ("backward_epochs", "forward_epochs"):
            if getattr(self, name) == 0:
                raise UserError(
                    f"{name}=0: both networks must learn; directions=forward or backward turns one teaching off"
                )


METHODS: Mapping[str, tuple[str, type[Options]]] = MappingProxyType(
    {
        "energy_gated": ("energy_gated.EnergyGated", GatedOptions),
        "local": ("local.Local", Options),
        "fedavg": ("shared.FedAvg", Options),
        "fedprox": ("shared.FedProx", ProxOptions),
        "fedmd": ("fedmd.FedMD", PublicOptions),
        "feddf": ("feddf.FedDF", FusionOptions),
        "fedkd": ("fedkd.FedKD", KDOptions),
    }
)
"""Name -> module and class below this package, and its options."""


WHOLE_BATCH = ("energy_gated", "fedkd")
"""Methods whose losses depend on the whole batch: it cannot be computed in parts."""

TEACHING = ("energy_gated", "feddf", "fedkd")
"""Methods in which one network teaches another by a loss that an objective may have in place of theirs."""


def options_of(method: str, given: Mapping[str, Any]) -> Options:
    """Raises UserError for an unknown method or option, or a value that an option cannot have."""
    if method not in METHODS:
        raise UserError(f"method={method}{closest(method, METHODS)}; all: {listed(METHODS)}")
    kind = METHODS[method][1]
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise UserError(f"options.{name}: {method} has no such option{closest(name, known)}; all: {listed(known)}")
    return kind(**given)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises UserError where an option is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{name}={value}: one of {', '.join(allowed)}{closest(str(value), allowed)}")


def at_least_zero(name: str, value: Any, above: bool = False) -> None:
    """Raises UserError where an option is no finite number of at least 0 (or above 0)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value < float("inf") or (value <= 0 if above else value < 0):
        raise UserError(f"{name}={value}: a finite number {'above' if above else 'of at least'} 0")
