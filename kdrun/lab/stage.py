"""A stage: everything that determines the result of fitting one learner, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

BEST, LAST = "best", "last"


@dataclass(frozen=True)
class Trained:
    """A stage that has been run (or, in a dry lab, would be): its fingerprint, its record and where its weights are."""

    fingerprint: str
    stage: Stage | Together | Federation
    record: dict[str, Any]
    path: Path | None = None

    def weights(self, which: str = BEST) -> Path:
        """The safetensors file of the selected (`best`, by validation) or the `last` epoch."""
        assert self.path is not None, "a planned stage has no weights yet"
        return self.path / f"{which}.safetensors"

    @property
    def metrics(self) -> dict[str, float]:
        """Validation metrics of the selected epoch: what a strategy may decide on. Never test."""
        return self.record.get("val", {}).get(BEST, {})


@dataclass(frozen=True)
class Stage:
    """Fit `learner` from `start`, taught by `teacher` under `objective` on `data`; plain JSON types throughout.

    role      what it is for, for people: "teacher", "alone", "student" ... (not part of the fingerprint)
    learner   {"name", "network": target node, "weights": path or None}
    objective term name -> {"weight", options...}
    trainer   the trainer group, already merged with the learner's own overrides; None = only evaluate `weights`
    teaching  how the teacher's knowledge is brought: {"source", "fill", "verify", "tolerance", ...}
    also      further teachers that teach at the same time; each term is a mean over all of them
    drop      probability of each of several teachers to be left out of a step (one at least stays)
    sees      keys of `data` in which the teacher sees the same samples otherwise: {"window": "bone"}
    stated    what the config says of the learner that decides no result: its "key", the "accuracy" and "tolerance" it is known
              for as a teacher, and "normalize" where it has a normalisation of its own (that is in `data` too)
    """

    role: str
    learner: dict[str, Any]
    objective: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any] | None
    hardware: dict[str, Any]
    seed: int
    start: Trained | None = None
    teacher: Trained | None = None
    teaching: dict[str, Any] = field(default_factory=dict)
    also: tuple[Trained, ...] = ()
    drop: float = 0.0
    sees: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> dict[str, Any]:
        """The data config as the teacher sees it."""
        return {**self.data, **self.sees}

    @property
    def taught(self) -> bool:
        """Whether somebody teaches."""
        return self.teacher is not None

    @property
    def teachers(self) -> tuple[Trained, ...]:
        return () if self.teacher is None else (self.teacher, *self.also)

    @property
    def label(self) -> str:
        """`student/seed=0`: the name of this stage in the record, the tracker and the bars."""
        return f"{self.role}/seed={self.seed}"


@dataclass(frozen=True)
class Together:
    """Finished stages of the same samples, looked at together: a mean of their scores, and one answer of them all.

    role     what it is for, as of a stage
    members  name (of a view, say) -> stage
    counted  whose scores the mean is over
    method   how their probabilities become one answer: "logistic" (a stack fitted on validation), "mean", or None
    teacher  who taught the counted members, or None
    """

    role: str
    members: dict[str, Trained]
    counted: tuple[str, ...]
    method: str | None
    seed: int
    teacher: Trained | None = None

    @property
    def label(self) -> str:
        return f"{self.role}/seed={self.seed}"

    @property
    def taught(self) -> bool:
        return self.teacher is not None


@dataclass(frozen=True)
class Federation:
    """Clients that learn together, each from samples of its own, over rounds: one stage, resumed after any client.

    role        what it is for, as of a stage
    learner     {"name", "network": node of what travels}, for labels
    federation  everything else that decides, in JSON types: see kdrun.federation.run.run_federation
    trainer     the settings TRAINER of a trainer: clients train in a plain loop at a constant rate
    """

    TRAINER: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "eval_batch_size",
        "optimizer",
        "clip",
        "monitor",
        "mode",
        "checkpoint_seconds",
    )

    role: str
    learner: dict[str, Any]
    federation: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    teacher: Trained | None = None
    start: Trained | None = None

    @property
    def label(self) -> str:
        return f"{self.role}/seed={self.seed}"

    @property
    def taught(self) -> bool:
        return self.federation["method"] != "local"
