"""Options of federated methods, and which methods there are: checked before anything heavy is imported. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.problems import UserError, closest, listed

ENERGIES = ("disagreement", "free_energy", "entropy", "squared_error")
NORMS = ("entropy", "log_classes")
GATES = ("logistic", "hard", "constant", "off")
CLUSTERINGS = ("gap", "greedy", "kmeans", "known", "one")
ENCODINGS = ("float32", "float16", "top_k")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any, above: bool) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and value < float("inf") and (value > 0 if above else value >= 0)


COUNT = (lambda value: _is_whole(value, 0), "a whole number of at least 0")
WEIGHT = (lambda value: _is_number(value, above=False), "a finite number of at least 0")
POSITIVE = (lambda value: _is_number(value, above=True), "a finite number above 0")
FIRST = (lambda value: value is None or _is_whole(value, 1), "a whole number of at least 1, or null")
LEARNS = (
    lambda value: _is_whole(value, 1), "both networks must learn; directions=forward or backward turns one teaching off"
)  # fmt: skip


@dataclass(frozen=True)
class MethodOptions:
    """Options of all methods: passes over a client's samples in a round, in each of the two directions.

    A method without two directions trains for the sum of both, so that all have the same number of optimisation steps.
    choices: option -> the values it can have; ranges: option -> (whether a value is allowed, in words what is).
    """

    backward_epochs: int = 1
    forward_epochs: int = 1

    added: ClassVar[
        tuple[str, ...]
    ] = ()  # options that came after results were stored, left out of a fingerprint where null

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    ranges: ClassVar[Mapping[str, Any]] = {"backward_epochs": COUNT, "forward_epochs": COUNT}

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"{name}={value}: one of {', '.join(allowed)}{closest(str(value), allowed)}")
        for name, (allows, words) in self.ranges.items():
            if not allows(value := getattr(self, name)):
                raise UserError(f"{name}={value}: {words}")
        if self.epochs == 0:
            raise UserError("backward_epochs=0 and forward_epochs=0: nothing would be learned")

    @property
    def epochs(self) -> int:
        """Of both directions together."""
        return self.backward_epochs + self.forward_epochs

    def label_epochs(self, round: int) -> int:
        """Passes of a private network over its own samples."""
        first = getattr(self, "first_epochs", None)
        return self.backward_epochs if round > 0 or first is None else first


@dataclass(frozen=True)
class LocalOptions(MethodOptions):
    """first_epochs: backward_epochs of round 0, in which nothing is taught yet; null: the same."""

    first_epochs: int | None = None

    added: ClassVar = ("first_epochs",)
    ranges: ClassVar = {**MethodOptions.ranges, "first_epochs": FIRST}


@dataclass(frozen=True)
class PublicOptions(MethodOptions):
    """public: the share of each client's training samples that is taken from it and given to everybody without labels."""

    public: float = 0.1

    ranges: ClassVar = {
        **MethodOptions.ranges,
        "public": (lambda share: 0 < share < 1, "a share of training above 0 and below 1"),
    }


@dataclass(frozen=True)
class ProxOptions(MethodOptions):
    """mu: weight of the proximal term, that is mu / 2 times the squared distance."""

    mu: float = 0.01

    ranges: ClassVar = {**MethodOptions.ranges, "mu": WEIGHT}


@dataclass(frozen=True)
class KDOptions(MethodOptions):
    """temperature of the distillation."""

    temperature: float = 1.0

    ranges: ClassVar = {**MethodOptions.ranges, "temperature": POSITIVE}


@dataclass(frozen=True)
class FusionOptions(KDOptions, PublicOptions):
    """distil_epochs: passes of the server over the public samples in a round."""

    distil_epochs: int = 1

    ranges: ClassVar = {
        **PublicOptions.ranges,
        **KDOptions.ranges,
        "distil_epochs": (lambda value: _is_whole(value, 1), "a whole number of at least 1"),
    }


@dataclass(frozen=True)
class GatedOptions(MethodOptions):
    """See strategies.energy_gated.EnergyGated, which has the same options, and energy.py."""

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

    choices: ClassVar = {
        "directions": ("both", "forward", "backward"),
        "order": ("backward_first", "forward_first"),
        "first_round": ("labels", "skip"),
        "energy": ("auto", *ENERGIES),
        "energy_norm": NORMS,
        "gate": GATES,
        "statistics": ("batch", "running"),
    }
    ranges: ClassVar = {
        **dict.fromkeys(("backward_epochs", "forward_epochs"), LEARNS),
        **dict.fromkeys(("beta", "backward_weight", "forward_weight"), WEIGHT),
        "temperature": POSITIVE,
    }


@dataclass(frozen=True)
class PredictionOptions(PublicOptions, LocalOptions):
    """Of methods in which nothing but predictions on public samples travels."""

    ranges: ClassVar = {**PublicOptions.ranges, **LocalOptions.ranges}


@dataclass(frozen=True)
class ClusterOptions(PredictionOptions):
    """clustering  how clients are divided, see clusters.cluster; threshold: of greedy; recluster: in every round, not once
    target      of a cluster: mean, median or most confident of its predictions, see methods.clusters.combined
    encoding    of predictions that travel, see predictions.encode; top_k: of that encoding
    """

    clustering: str = "gap"
    threshold: float | None = None
    recluster: bool = False
    target: str = "mean"
    encoding: str = "float32"
    top_k: int = 3

    choices: ClassVar = {"clustering": CLUSTERINGS, "target": ("mean", "median", "confident"), "encoding": ENCODINGS}
    ranges: ClassVar = {
        **PredictionOptions.ranges,
        "threshold": (
            lambda value: value is None or _is_number(value, above=False),
            "a distance of at least 0, or null",
        ),
        "top_k": (lambda value: _is_whole(value, 1), "a whole number of at least 1"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.clustering == "greedy") != (self.threshold is not None):
            raise UserError(
                f"threshold={self.threshold}: clustering=greedy needs one, and no other has any (it is {self.clustering})",
                "distances of clients are from 0 to sqrt(2); threshold=0.5 is one to begin with",
            )


@dataclass(frozen=True)
class CometOptions(ClusterOptions):
    """weight of the squared distance."""

    clustering: str = "kmeans"
    weight: float = 1.0

    ranges: ClassVar = {**ClusterOptions.ranges, "weight": POSITIVE}


@dataclass(frozen=True)
class ServerOptions(ClusterOptions):
    """See strategies.clustered.Clustered, which has the same options, and methods/clustered.py."""

    server_epochs: int = 1
    temperature: float = 1.0
    smooth: float = 5.0
    smooth_noise: float = 0.05
    smooth_grad: bool = True

    ranges: ClassVar = {
        **ClusterOptions.ranges,
        "server_epochs": (lambda value: _is_whole(value, 1), "a whole number of at least 1"),
        "smooth": WEIGHT,
        **dict.fromkeys(("temperature", "smooth_noise"), POSITIVE),
    }


METHODS: Mapping[str, tuple[str, type[MethodOptions]]] = MappingProxyType(
    {
        "energy_gated": ("energy_gated.EnergyGatedMethod", GatedOptions),
        "local": ("local.Local", LocalOptions),
        "fedavg": ("shared.FedAvg", MethodOptions),
        "fedprox": ("shared.FedProx", ProxOptions),
        "fedmd": ("fedmd.FedMD", PredictionOptions),
        "feddf": ("feddf.FedDF", FusionOptions),
        "fedkd": ("fedkd.FedKD", KDOptions),
        "fedct": ("fedct.FedCT", PredictionOptions),
        "comet": ("comet.Comet", CometOptions),
        "clustered": ("clustered.Clustered", ServerOptions),
    }
)
"""Name -> module and class below this package, and its options."""


WHOLE_BATCH = ("energy_gated", "fedkd")
"""Methods whose losses depend on the whole batch: it cannot be computed in parts."""

TEACHING = ("energy_gated", "feddf", "fedkd")
"""Methods in which one network teaches another by a loss that an objective may have in place of theirs."""


def options_of(method: str, given: Mapping[str, Any]) -> MethodOptions:
    """Raises UserError for an unknown method or option, or a value that an option cannot have."""
    if method not in METHODS:
        raise UserError(f"method={method}{closest(method, METHODS)}; all: {listed(METHODS)}")
    kind = METHODS[method][1]
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise UserError(f"options.{name}: {method} has no such option{closest(name, known)}; all: {listed(known)}")
    return kind(**given)
