"""What every strategy is: a dataclass of options with `run`, and the arms that stand beside its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.cast import Cast, learn, teach

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stage import Trained


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

    def __post_init__(self) -> None:
        for name in self.controls:
            if name not in self.arms:
                from kdrun.problems import UserError, closest, listed

                raise UserError(f"no control {name!r}{closest(name, self.arms)}; all: {listed(self.arms)}")

    def check(self, cast: Cast) -> None:
        """Raises UserError for options that do not go with the rest of the config. Nothing is loaded or trained for it."""

    def run(self, lab: Lab, cast: Cast) -> Trained:
        """Ask `lab` for stages; return the student."""
        raise NotImplementedError

    def label(self, cast: Cast) -> str:
        """What the result of `run` is, for people."""
        return f"student {cast.student.config['name']}, distilled"

    def student_epochs(self, cast: Cast) -> int:
        """Epochs that `run` spends on the student, all its stages together but the family's first phase."""
        return cast.student.trainer["epochs"]

    def control(self, name: str, lab: Lab, cast: Cast) -> Trained:
        """One arm to compare with: the same student, seed and data in all of them.

        alone          on labels, with the run's trainer
        plain_kd       taught by the run's teacher from the first step (arXiv 1503.02531), with the run's trainer
        equal_compute  on labels, for as many optimisation steps as `run` spends on the student
        """
        if name == "plain_kd":
            return teach(lab, cast.student, learn(lab, cast.teacher), role=name)
        epochs = {"equal_compute": {"epochs": self.student_epochs(cast)}, "alone": {}}[name]
        return learn(lab, cast.student, role=name, **epochs)
