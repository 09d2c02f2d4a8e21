"""What the lab asks the learning room to do: one stage, with everything that it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TaughtBy:
    """A trained teacher of a stage.

    name      of its learner, for messages
    network   node that builds it
    weights   path of its weights file
    converts  whether the config normalises its inputs otherwise than those of the stage
    stated    what its own record says of it on validation by the task's PREFLIGHT metric; None where that says nothing of
              these data
    """

    fingerprint: str
    name: str
    network: dict[str, Any]
    weights: str
    converts: bool = False
    stated: float | None = None


@dataclass(frozen=True)
class StartsFrom:
    """The stage whose weights a stage begins with, and the path of its weights file."""

    fingerprint: str
    weights: str


@dataclass(frozen=True)
class FitRequest:
    """One stage to fit; without a trainer, weights that were brought are evaluated.

    fingerprint     of the stage
    label           for rows and messages
    work            folder for its checkpoints and results
    learner         {"name", "network", "weights"} of the student
    objective, data, trainer, hardware, energy, teaching, metrics
                    nodes of the config, with `hardware` resolved
    data_identity   what the data are (see lab.fingerprint)
    sees            keys of `data` in which the teachers' view differs; seen_identity: what the data are that they see
    teachers        in the order in which they are asked; drop: share of steps in which each of several is left out
    start           whose weights it begins with
    averaged        the moving average of its own weights teaches it
    peers           networks that are trained beside it and teach it, as it teaches them: {"name", "learner", "trainer", "seed"} of each
    rollout         how batches of the student's own samples are made (see rollouts.Rollouts); {}: there are none
    importance      path of what an Importance stage left of `start`, for terms that ask for it
    rank            of several processes that fit it together
    """

    fingerprint: str
    label: str
    work: Path
    learner: dict[str, Any]
    objective: dict[str, Any]
    data: dict[str, Any]
    data_identity: Any
    hardware: dict[str, Any]
    seed: int
    trainer: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    sees: dict[str, Any] | None = None
    seen_identity: Any = None
    teaching: dict[str, Any] | None = None
    teachers: tuple[TaughtBy, ...] = ()
    drop: float = 0.0
    start: StartsFrom | None = None
    rank: int = 0
    metrics: dict[str, Any] | None = None
    averaged: bool = False
    peers: tuple[dict[str, Any], ...] = ()
    rollout: dict[str, Any] = field(default_factory=dict)
    importance: str | None = None

    @property
    def teacher(self) -> TaughtBy | None:
        """The first teacher."""
        return self.teachers[0] if self.teachers else None

    @property
    def alike(self) -> bool:
        """Whether the student starts as a copy of its teacher, or of what a term holds it near to."""
        same = bool(self.start and self.teacher) and self.start.fingerprint == self.teacher.fingerprint
        return self.averaged or same or self.importance is not None

    @property
    def teacher_networks(self) -> list[dict[str, Any]]:
        """Nodes that build what teaches it."""
        if self.averaged:
            return [self.learner["network"]]
        return [*(teacher.network for teacher in self.teachers), *(peer["learner"]["network"] for peer in self.peers)]

    @property
    def teachers_view(self) -> dict[str, Any]:
        """The data as the teachers see them."""
        return {**self.data, **(self.sees or {})}

    def to_json(self) -> dict[str, Any]:
        """JSON types, for another process."""
        return {**asdict(self), "work": str(self.work)}

    @classmethod
    def from_json(cls, node: dict[str, Any]) -> FitRequest:
        values = {item.name: node[item.name] for item in fields(cls)}
        return cls(
            **values
            | {
                "work": Path(node["work"]),
                "teachers": tuple(TaughtBy(**teacher) for teacher in node["teachers"]),
                "start": node["start"] and StartsFrom(**node["start"]),
                "peers": tuple(node["peers"]),
            }
        )
