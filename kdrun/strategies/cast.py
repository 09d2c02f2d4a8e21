"""The cast of a run: who teaches, who learns, on what; and the two kinds of stage that strategies are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrun.lab.stage import Stage, Trained

# What a teacher's config says of how it teaches, as opposed to what it is.
TEACHING = ("source", "fill", "verify", "cache_limit_gb", "accuracy", "tolerance", "normalize")


@dataclass(frozen=True)
class Learner:
    """One network of the cast with its seed and its trainer (the run's, with the learner's own overrides on top)."""

    role: str
    config: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    cast: Cast

    @property
    def identity(self) -> dict[str, Any]:
        return {key: self.config[key] for key in ("name", "network", "weights")}


@dataclass(frozen=True)
class Cast:
    """All learners of one cell, made from its frozen config."""

    config: dict[str, Any]

    def _learner(self, role: str, config: dict[str, Any], seed: int) -> Learner:
        return Learner(role, config, merged(self.config["trainer"], config["trainer"]), seed, self)

    @property
    def teacher(self) -> Learner:
        return self._learner("teacher", self.config["teacher"], self.config["teacher"]["seed"])

    @property
    def assistants(self) -> list[Learner]:
        return [self._learner(name, node, node["seed"]) for name, node in self.config["assistants"].items()]

    @property
    def student(self) -> Learner:
        return self._learner("student", self.config["student"], self.config["seed"])

    @property
    def supervision(self) -> dict[str, Any]:
        """The objective without a teacher: the run's cross-entropy term at weight 1, its options kept."""
        return {"ce": {**self.config["objective"].get("ce", {}), "weight": 1.0}}


def supervised(learner: Learner, role: str | None = None, **trainer: Any) -> Stage:
    """Fit on labels alone; keyword arguments override the trainer. A teacher that brings `weights` is only evaluated."""
    cast = learner.cast
    pretrained = learner.role != "student" and learner.config["weights"] is not None
    return Stage(
        role=role or learner.role,
        learner=learner.identity,
        objective=cast.supervision,
        data=cast.config["data"],
        trainer=None if pretrained else merged(learner.trainer, trainer),
        hardware=cast.config["hardware"],
        seed=learner.seed,
    )


def distil(
    learner: Learner,
    teacher: Trained,
    *,
    start: Trained | None = None,
    role: str | None = None,
    teaching: dict[str, Any] | None = None,
    **trainer: Any,
) -> Stage:
    """Fit under the run's objective, taught by `teacher`; keyword arguments override the trainer (`epochs=20`)."""
    cast = learner.cast
    settings = teaching if teaching is not None else cast.config["teacher"]
    return Stage(
        role=role or learner.role,
        learner=learner.identity,
        objective=cast.config["objective"],
        data=cast.config["data"],
        trainer=merged(learner.trainer, trainer),
        hardware=cast.config["hardware"],
        seed=learner.seed,
        start=start,
        teacher=teacher,
        teaching={key: settings[key] for key in TEACHING},
    )


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` put in its place, mapping by mapping; a new optimizer target replaces the old."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        same = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("_target_") in (None, old.get("_target_"))
        )
        result[key] = merged(old, value) if same else value
    return result
