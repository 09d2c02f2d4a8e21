"""strategy=federated: known methods of federated learning, on the clients of all federated strategies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdrun.strategies.cast import Cast
from kdrun.strategies.clients import Federated, checked

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class Baseline(Federated):
    """A known method as the result of a run, on the clients of the other federated strategies.

    method   local: nothing travels; fedavg (arXiv 1602.05629), fedprox (1812.06127), fedmd (1910.03581), feddf (2006.07242),
             fedkd (2108.13323), fedct (2310.05696), comet (2204.10965)
    backward_epochs, forward_epochs
             of a round; methods without two directions train for the sum of both
    options  of the method: {mu: 0.1} of fedprox, {public: 0.1} of fedmd, feddf, fedct and comet
    """

    method: str = "fedavg"
    backward_epochs: int = 1
    forward_epochs: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(self.method, {**self.budget(), **self.options})

    def run(self, lab: Lab, cast: Cast) -> Result:
        role = "alone" if self.method == "local" else "student"
        return self.fitted(lab, self.federate(cast, role, self.method, {**self.budget(), **self.options}))

    def label(self, cast: Cast) -> str:
        return self.arms.get(self.method, self.method.replace("_", "-"))

    def budget(self) -> dict[str, Any]:
        return {"backward_epochs": self.backward_epochs, "forward_epochs": self.forward_epochs}
