"""What all federated strategies share: clients, their data, rounds, faults, and the methods that stand beside the result."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun import losses
from kdrun.federation.methods.options import METHODS, TEACHING, WHOLE_BATCH, options_of
from kdrun.lab.stages.federate import Federate
from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner
from kdrun.targets import signature

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

COUNT = (lambda number: number >= 1, "at least 1")
PLAIN = {
    "ema": None,
    "balance": None,
    "parts": None,
    "sharding": "none",
    "gather": None,
    "compile": None,
    "activation_checkpointing": False,
    "sync_batch_norm": False,
}
"""Settings of a trainer that clients, who train in a plain loop, do not have."""


@dataclass(frozen=True)
class Federated(Strategy):
    """Clients that learn together from samples that stay where they are.

    Their private networks are the cast's student and its assistants, dealt out one after another; what travels is the cast's
    teacher, a small network of one make for all. Every client is tested on its own test samples.

    clients            how many
    partition, alpha   who has which samples: label (of each class, shares from Dirichlet(alpha)), quantity, iid; groups: clients and
                       classes are cut into groups, within which samples are dealt out as by label
    groups, mixing     of partition=groups: how many, and the share of each client's samples that is dealt out among all clients
    minimum            training samples of each client at least
    shift              strength of a change of appearance, one for each client; 0: none
    rounds             of communication
    participation      share of the clients that is called in each round
    aggregation, trim  fedavg (weights by samples), median, trimmed_mean (with trim of both ends left out)
    clip_norm          how far a client's weights may be from those that it was sent, as a norm; the server clips a longer step
                       before it aggregates. null: any
    faults             clients that go wrong on purpose: drop {client: [rounds]}, nan [clients], shapes [clients], scale
                       {client: factor}, flip {client: share of labels}; on_bad: leave_out or stop
    losses             method: those of the method; objective: the terms of the run's objective in their place: those without a
                       teacher for labels, the others where one network teaches another
    rate               constant: trainer.optimizer.lr; schedule: by trainer.schedule, over the passes of all rounds
    rates              learning rates in place of trainer.optimizer.lr, all of which the result and each arm are run with, at the same samples
                       and passes; of each that with the best validation, a mean over clients, is shown. []: none
    eval_every         rounds between evaluations
    engine             in_process: one client after another, here; flower: clients as processes of Flower
    superlink          of flower, null: its simulation on this machine; HOST:PORT of a SuperLink that was started without
                       certificates; or the name of a connection in Flower's own config
    timeout            of flower: seconds that the server waits for answers in a round
    """

    clients: int = 10
    partition: str = "label"
    alpha: float = 0.3
    groups: int = 5
    mixing: float = 0.1
    minimum: int = 8
    shift: float = 0.0
    rounds: int = 20
    participation: float = 1.0
    aggregation: str = "fedavg"
    trim: float = 0.1
    clip_norm: float | None = None
    faults: dict[str, Any] = field(default_factory=dict)
    losses: str = "method"
    rate: str = "constant"
    rates: list[float] = field(default_factory=list)
    eval_every: int = 1
    engine: str = "in_process"
    superlink: str | None = None
    timeout: float = 3600.0

    arms: ClassVar[dict[str, str]] = {
        "alone": "clients alone",
        "equal_compute": "clients alone, as many steps",
        "fedavg": "FedAvg, one shared network",
        "fedprox": "FedProx, one shared network",
        "fedmd": "FedMD, predictions on public samples",
        "feddf": "FedDF, ensemble on public samples",
        "fedkd": "FedKD, weighted by losses",
        "fedct": "FedCT, votes on public samples",
        "comet": "COMET, clustered predictions",
    }
    instead: ClassVar[dict[str, str]] = {
        "objective": "clients learn by their method, whose losses strategy.losses=objective replaces as far as it has them",
        "trainer.epochs": "a round has strategy.backward_epochs and strategy.forward_epochs, and there are strategy.rounds",
        "strategy.timeout": "it is for strategy.engine=flower",
        **dict.fromkeys(("strategy.groups", "strategy.mixing"), "it is for strategy.partition=groups"),
        "trainer.optimizer.lr": "strategy.rates says with which learning rates clients are tried",
        "trainer.schedule": "clients train at a constant rate, trainer.optimizer.lr, or with strategy.rate=schedule",
        "teacher": "its network is what travels where clients have networks of several makes and weights travel (controls=[fedavg], say); clients train by "
        "student.trainer, or trainer",
        "assistants": "their networks are those of clients, who train by student.trainer, or trainer",
        "pretrain": "clients have no first phase",
    }

    choices: ClassVar = {
        "partition": ("label", "quantity", "iid", "groups"),
        "aggregation": ("fedavg", "median", "trimmed_mean"),
        "engine": ("in_process", "flower"),
        "losses": ("method", "objective"),
        "rate": ("constant", "schedule"),
    }
    ranges: ClassVar = {
        "clients": (lambda number: number >= 2, "a federation has at least two"),
        **dict.fromkeys(("minimum", "rounds", "eval_every", "groups"), COUNT),
        "mixing": (lambda share: 0 <= share <= 1, "a share of samples in [0, 1]"),
        "alpha": (lambda alpha: alpha > 0, "above 0; small is uneven"),
        "participation": (lambda share: 0 < share <= 1, "a share above 0 and at most 1"),
        "trim": (lambda share: 0 <= share < 0.5, "a share of each end in [0, 0.5)"),
        "clip_norm": (lambda norm: 0 < norm < float("inf"), "a finite norm above 0, or null"),
        "rates": (
            lambda rates: (
                all(isinstance(rate, int | float) and 0 < rate < float("inf") for rate in rates)
                and len(set(rates)) == len(rates)
            ),
            "different learning rates above 0; []: trainer.optimizer.lr",
        ),
        "timeout": (lambda seconds: seconds > 0, "seconds above 0"),
        "shift": (lambda strength: strength >= 0, "0 or more"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partition == "groups" and self.groups > self.clients:
            raise UserError(
                f"strategy.groups={self.groups}: each needs a client, and there are strategy.clients={self.clients}"
            )
        if self.superlink is not None and self.engine != "flower":
            raise UserError(f"strategy.superlink={self.superlink} is of strategy.engine=flower, not of {self.engine}")
        if self.faults:
            from kdrun.federation.faults import Faults

            try:
                Faults.of(self.faults, self.clients)
            except UserError as error:
                raise UserError(f"strategy.{error.lines[0]}", *error.lines[1:]) from None

    def check(self, cast: Cast) -> None:
        for key in ("labelled", "unlabelled"):
            if (value := cast.config["data"].get(key)) is not None:
                said = f"={value:g}" if key == "labelled" else ""
                raise UserError(
                    f"data.{key}{said}: clients of a federation learn from labels alone, and the partition is made by labels",
                    "strategies that distil from a teacher use samples without labels: strategy=vanilla",
                )
        if self.engine == "flower":
            from kdrun.federation.flower.start import require

            require(self.superlink)
        for learner in (cast.teacher, cast.student, *cast.assistants):
            if learner.config["weights"] is not None:
                raise UserError(
                    f"{learner.role}.weights: networks of clients begin with random weights",
                    "leave the weights out",
                )
        for key, value in PLAIN.items():
            if cast.student.trainer[key] != value:
                raise UserError(
                    f"trainer.{key}={cast.student.trainer[key]}: clients train in a plain loop",
                    f"leave it at {'null' if value is None else value}",
                )

    def private(self, cast: Cast) -> list[Learner]:
        """Those whose networks are dealt out to clients."""
        return [cast.student, *cast.assistants]

    def federate(self, cast: Cast, role: str, method: str, options: dict[str, Any]) -> Federate:
        """One federation under a method of kdrun.federation.methods, on the clients and faults of this strategy."""
        divided = {"groups": self.groups, "mixing": self.mixing} if self.partition == "groups" else {}
        settings = {
            "clients": self.clients,
            "partition": {"kind": self.partition, "alpha": self.alpha, "minimum": self.minimum, **divided},
            "shift": {"strength": self.shift},
            "private": [learner.identity["network"] for learner in self.private(cast)],
            "proxy": cast.teacher.identity["network"],
            "method": method,
            "options": options,
            "rounds": self.rounds,
            "participation": self.participation,
            "aggregation": {"how": self.aggregation, "trim": self.trim},
            "faults": self.faults,
            "eval_every": self.eval_every,
        }
        if self.clip_norm is not None:
            settings["aggregation"]["clip_norm"] = self.clip_norm
        if self.losses == "objective":
            settings["objective"] = objective_of(method, cast.config["objective"])
        if self.engine != "in_process":
            paths = cast.config["paths"]
            settings["engine"] = {
                "name": self.engine,
                "superlink": self.superlink,
                "timeout": self.timeout,
                "paths": {"cache": paths["cache"]},
            }
        return Federate(
            role,
            {"name": method, "network": cast.teacher.identity["network"]},
            settings,
            cast.config["data"],
            self._trainer(cast.student.trainer, method),
            cast.config["hardware"],
            cast.config["seed"],
            cast.config.get("metrics") or {},
        )

    def fitted(self, lab: Lab, stage: Federate) -> Result:
        """The result of a federation: where it is tried with several learning rates, the one that validation chooses."""
        if not self.rates:
            return lab.get(stage)
        tried = {}
        for rate in self.rates:
            optimizer = {**stage.trainer["optimizer"], "lr": rate}
            tried[f"{rate:g}"] = lab.get(replace(stage, trainer={**stage.trainer, "optimizer": optimizer}))
        return tried[lab.choose(f"learning rate of {stage.role}", tried)]

    def _trainer(self, trainer: dict[str, Any], method: str) -> dict[str, Any]:
        """What clients use of a trainer; what came later is left out where it is as it was."""
        used = {key: trainer[key] for key in Federate.TRAINER}
        if trainer["accumulate"] != 1:
            if method in WHOLE_BATCH:
                raise UserError(
                    f"trainer.accumulate={trainer['accumulate']}: losses of {method} depend on whole batches",
                    "leave it at 1",
                )
            used["accumulate"] = trainer["accumulate"]
        if trainer.get("groups"):
            used["groups"] = trainer["groups"]
        return {**used, "schedule": trainer["schedule"]} if self.rate == "schedule" else used

    def budget(self) -> dict[str, Any]:
        """Options that say how much clients train in a round, the same in all methods."""
        return {"backward_epochs": 1, "forward_epochs": 1}

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """One arm: the same clients, samples, networks, faults and optimisation steps per round under another method.

        alone   every client with its private network and its own samples, trained as often as it is in `run`; nothing travels
        equal_compute
                the same, for as many optimisation steps as private network and proxy have together in `run`
        fedavg, fedprox
                one shared network (that of all clients where they have the same, else the proxy), tested on every client
        fedmd, feddf, fedct, comet
                need public samples: a tenth of each client's training samples becomes public, without labels
        fedkd   private and proxy teach each other, weighted by their losses
        """
        if name in self.variants:
            return super().control(name, lab, cast)
        if name == "alone":
            options = {**taken("local", self.budget()), "forward_epochs": 0}
            return self.fitted(lab, self.federate(cast, name, "local", options))
        method = {"equal_compute": "local"}.get(name, name)
        return self.fitted(lab, self.federate(cast, name, method, taken(method, self.budget())))


def objective_of(method: str, objective: dict[str, Any]) -> dict[str, Any]:
    """The terms of an objective that clients use under a method: all, or those that need no teacher."""
    if method in TEACHING:
        return objective
    targets = {name: losses.resolve(name, term)[0] for name, term in objective.items()}
    known = {name: signature(target) for name, target in targets.items()}
    taught = [name for name, it in known.items() if it and any(key.startswith("teacher_") for key in it.parameters)]
    return {name: term for name, term in objective.items() if name not in taught}


def taken(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a method has."""
    known = {field.name for field in fields(METHODS[method][1])}
    return {name: value for name, value in options.items() if name in known}


def checked(method: str, options: dict[str, Any]) -> None:
    """Raises UserError, by the name of the strategy's option, for what the method does not take."""
    try:
        options_of(method, options)
    except UserError as error:
        raise UserError(f"strategy.{error.lines[0]}", *error.lines[1:]) from None
