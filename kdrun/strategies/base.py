"""What every strategy is: a dataclass of options with `run`, and the arms that stand beside its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.cast import Cast, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stage import Trained


@dataclass(frozen=True)
class Strategy:
    """Options are dataclass fields, so `strategy.controls=[alone]` is checked before anything is imported."""

    controls: list[str] = field(default_factory=list)

    arms: ClassVar[dict[str, str]] = {"alone": "student alone"}
    """Arms this strategy can be compared with: name -> what it is."""

    def run(self, lab: Lab, cast: Cast) -> Trained:
        """Ask `lab` for stages; return the student."""
        raise NotImplementedError

    def control(self, name: str, lab: Lab, cast: Cast) -> Trained:
        """One arm to compare with. `alone`: the same student, seed, trainer and data, without a teacher."""
        assert name == "alone", name
        return lab.fit(supervised(cast.student, role="alone"))
