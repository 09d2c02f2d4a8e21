"""What a stage is, and what its result is. No torch here: strategies ask for stages in processes that compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.checksums import checksum_of
from kdrun.parts import Part, parts_of

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext
    from kdrun.learning.report import Report
    from kdrun.learning.teaching import Workshop

BEST, LAST, DATA, IMPORTANCE = "best", "last", "data.jsonl", "importance.safetensors"


@dataclass(frozen=True)
class Result:
    """A stage that has been run (or, in a dry lab, would be): its fingerprint, its record and the folder of its files."""

    fingerprint: str
    stage: Stage
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

    def data_file(self) -> dict[str, str]:
        """{"path", "sha256"} of the rows that a Generate stage left; data are loaded with them."""
        assert self.path is not None, "a planned stage has no data yet"
        return {"path": str(self.path / DATA), "sha256": checksum_of(self.path / DATA)}

    def importance_file(self) -> Path:
        """The safetensors file that an Importance stage left: a number for each parameter."""
        assert self.path is not None, "a planned stage has measured nothing yet"
        return self.path / IMPORTANCE

    @property
    def parts(self) -> dict[str, Part]:
        """Name -> network of the result: one, or one for each view, client ..."""
        members = getattr(self.stage, "members", {}).values()
        entries = [{"fingerprint": member.fingerprint, **member.record} for member in members]
        return parts_of({"fingerprint": self.fingerprint, **self.record}, entries)


@dataclass(frozen=True)
class Execution:
    """What a lab gives to a stage that it runs.

    work        a folder for state and results; state that an earlier try left is in it
    tree        the stage's parts, `fingerprint` their hash; context: hashes that they were made of
    workshop    data, caches and meters of the learning room
    energy      the config's `energy`; None: nothing is measured
    paths       the config's paths, and `locks` the folder of locks, for processes that a stage starts
    resumes     whether there is such state
    """

    fingerprint: str
    tree: dict[str, Any]
    context: FingerprintContext
    work: Path
    workshop: Workshop
    report: Report
    energy: dict[str, Any] | None
    paths: dict[str, str]
    locks: Path
    resumes: bool = False


@dataclass(frozen=True)
class Look:
    """What a stage may look at to plan itself: its data, and what earlier stages of the plan found out (`known`)."""

    module: Any
    workshop: Workshop
    known: dict[str, Any]


class Stage:
    """One stage as plain data, in JSON types but for the results that it builds upon. Kinds are frozen dataclasses.

    role      what it is for, for people: "teacher", "alone", "student" ... (not part of the fingerprint)
    learner   {"name", "network": target node, "weights": path or None} of the network that it is about
    data      the data config
    hardware  where it runs
    trainer   how it is trained; objective: by which terms; metrics: those beside the task's. None where nothing is, and where it has a way of its own
    start     the result that its weights come from, or the stage that has it; teacher: the first that teaches. None where there
              is none
    listed    whether plans show it and its fit counts as one
    told      what runs repeat of its record, beside what all stages have
    """

    role: str
    learner: dict[str, Any]
    data: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    start: Result | Stage | None = None
    teacher: Result | None = None
    trainer: dict[str, Any] | None
    objective: dict[str, Any] | None
    metrics: dict[str, Any] | None
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    listed: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """`student/seed=0`: the name of this stage in the record, the tracker and the bars."""
        return f"{self.role}/seed={self.seed}"

    @property
    def taught(self) -> bool:
        """Whether somebody teaches."""
        return self.teacher is not None

    @property
    def source(self) -> Result | None:
        """The teacher whose knowledge it is about, whichever way it comes."""
        return self.teacher

    @property
    def behind(self) -> Result | None:
        """The teacher that its result is shown beside."""
        return self.source

    @property
    def teachers(self) -> tuple[Result, ...]:
        return () if self.teacher is None else (self.teacher,)

    @property
    def teacher_networks(self) -> list[dict[str, Any]]:
        """Target nodes of what teaches while it is trained."""
        return [teacher.stage.learner["network"] for teacher in self.teachers]

    @property
    def networks(self) -> list[dict[str, Any]]:
        """Target nodes of the networks that it builds."""
        return [self.learner["network"]]

    def started(self, get: Callable[[Stage], Result]) -> Stage:
        """The stage with the result to start from; get: of a lab."""
        return replace(self, start=get(self.start)) if isinstance(self.start, Stage) else self

    def settled(self, workshop: Workshop) -> Stage:
        """The stage with everything decided that a config may leave open."""
        return self

    def check(self, result: Result | None = None) -> list[str]:
        """What to tell of the stage, and of its result where it has one. Raises UnfitTeacher for a teacher that is not fit."""
        return []

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        """The tree of everything that determines the result; JSON types only, safe to store and to compare."""
        raise NotImplementedError

    def parts_after(self, tree: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
        """The tree of the result that came out: `tree`, unless something happened that cannot be repeated."""
        return tree

    def plan(self, look: Look) -> dict[str, Any]:
        """The entry of `kdrun plan`, without label, status and fingerprint. Nothing is trained for it."""
        raise NotImplementedError

    def planned_without_training(self, look: Look, samples: int, about: str) -> dict[str, Any]:
        """That entry of a stage that trains nothing. samples: that it looks at; about: what it does, for people."""
        return {
            "learner": self.learner["name"],
            "network": self.learner["network"]["_target_"],
            "weights": None,
            "teacher": None,
            "start": getattr(self.start, "fingerprint", None),
            "objective": {},
            "terms": {},
            "untrained": [],
            "epochs": 0,
            "parameters": look.workshop.parameters(self.learner["network"], self.data),
            "trainable": 0,
            "flops": None,
            "about": [about],
            "estimate": {"seconds": None, "steps": 0, "samples": samples, "flops": None, "method": "not estimated"},
        }

    def run(self, execution: Execution) -> dict[str, Any]:
        """What the record says of the result; files lie in the work folder. It goes on from the state that is there."""
        raise NotImplementedError
