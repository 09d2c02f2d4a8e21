"""strategy=alone: the student on labels, no teacher. The row that every distillation result has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, learn

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stage import Trained


@dataclass(frozen=True)
class Alone(Strategy):
    """Supervised training of the student. Shares its stage with the `alone` control of every other strategy."""

    def run(self, lab: Lab, cast: Cast) -> Trained:
        return learn(lab, cast.student, role="alone")
