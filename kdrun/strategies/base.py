"""What every strategy is: a dataclass of options with `run`, and the arms that stand beside its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.problems import UserError, closest, listed
from kdrun.strategies.cast import Cast, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class Strategy:
    """Options are dataclass fields, so `strategy.controls=[alone]` is checked before anything is imported."""

    controls: list[str] = field(default_factory=list)

    arms: ClassVar[dict[str, str]] = {
        "alone": "student alone",
        "plain_kd": "student, plain KD",
        "equal_compute": "student alone, as many steps",
    }
    """Arms this strategy can be compared with: name -> what it is."""

    instead: ClassVar[dict[str, str]] = {}
    """Dotted key, or part of the config, that this strategy does not use -> what it has in its place. Which keys it does not
    use follows from the stages it asks for (see strategies.unused); this is for the message."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arm -> options in which it differs from the result; `run` then takes the arm's name as its third argument."""

    against: ClassVar[str] = "alone"
    """The arm that the result is held against: what would be there without a teacher. Where it has had fewer steps than the result,
    the result is held against equal_compute (see job.steps)."""

    teacher_options: ClassVar[tuple[str, ...]] = ()
    """Options that decide what a teacher is trained on: jobs of a table that differ in them have other teachers."""

    data_options: ClassVar[tuple[str, ...]] = ()
    """Options that may be lists of keys of data in which parts of the run differ from it; they are checked as `data` is."""

    choices: ClassVar[dict[str, Sequence[str]]] = {}
    """Option -> the values it can have."""

    ranges: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {}
    """Option -> (whether a value is allowed, in words what is); null is always."""

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"strategy.{name}={value}{closest(str(value), allowed)}; all: {listed(allowed)}")
        for name, (allows, words) in self.ranges.items():
            if (value := getattr(self, name)) is not None and not allows(value):
                raise UserError(f"strategy.{name}={value}: {words}")
        for name in self.controls:
            if name not in self.arms:
                raise UserError(f"no control {name!r}{closest(name, self.arms)}; all: {listed(self.arms)}")

    def check(self, cast: Cast) -> None:
        """Raises UserError for options that do not go with the rest of the config. Nothing is loaded or trained for it."""

    def run(self, lab: Lab, cast: Cast) -> Result:
        """Ask `lab` for stages; return the student."""
        raise NotImplementedError

    def label(self, cast: Cast) -> str:
        """What the result of `run` is, for people."""
        return f"student {cast.student.config['name']}, distilled"

    def student_epochs(self, cast: Cast) -> int:
        """Epochs that `run` spends on the student, all its stages together but the family's first phase."""
        return cast.student.trainer["epochs"]

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """One arm to compare with: the same student, seed and data in all of them.

        alone          on labels, with the run's trainer
        plain_kd       taught by the run's teacher from the first step (arXiv 1503.02531), with the run's trainer
        equal_compute  on labels, for as many optimisation steps as `run` spends on the student
        """
        if name in self.variants:
            variant: Any = replace(self, **self.variants[name])  # its `run` takes the role
            return variant.run(lab, cast, name)
        if name == "plain_kd":
            teacher = lab.get(supervised(cast.teacher))
            return lab.get(distil(cast.student, teacher, role=name))
        epochs: dict[str, Any] = {"equal_compute": {"epochs": self.student_epochs(cast)}, "alone": {}}[name]
        return lab.get(supervised(cast.student, role=name, **epochs))
