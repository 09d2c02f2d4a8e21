"""The stage that measures how much a trained network's parameters matter for the task that it learned last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.defaults import canonical_objective
from kdrun.lab.fingerprint import device, domain_modules, identity, targets_in, versions
from kdrun.lab.stages.base import Execution, Look, Result, Stage

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext


@dataclass(frozen=True)
class Importance(Stage):
    """The diagonal of the Fisher information of `start` on training samples of `data`, added to that of the tasks before.

    A Fit is held near the weights of its start by it, as its `importance`.

    objective  the loss whose gradients are squared, by label
    samples    of how many training samples
    before     the Importance of the tasks before; None: there are none
    """

    role: str
    data: dict[str, Any]
    objective: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    start: Result | None = None
    samples: int = 200
    before: Result | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    trainer: ClassVar[None] = None
    told: ClassVar[tuple[str, ...]] = ("importance",)

    @property
    def learner(self) -> dict[str, Any]:
        return self.start.stage.learner

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        modules = ["kdrun.learning.importance", *domain_modules(self.data), *targets_in(self.learner, self.data)]
        return {
            "samples": self.samples,
            "objective": canonical_objective(self.objective, numbers=True),
            "start": self.start.fingerprint,
            "before": self.before and self.before.fingerprint,
            "data": identity(self.data, context),
            "code": context.sources.versions(modules),
            "versions": versions("torch"),
            "device": device(self.hardware, context),
        }

    def plan(self, look: Look) -> dict[str, Any]:
        samples = min(self.samples, look.module.spec.sizes["train"])
        about = f"Fisher information of {self.learner['name']} on {samples:,} training samples"
        return self.planned_without_training(look, samples, about)

    def run(self, execution: Execution) -> dict[str, Any]:
        from kdrun.learning.importance import ImportanceRequest, run_importance

        request = ImportanceRequest(
            self.label,
            execution.work,
            self.learner["network"],
            str(self.start.weights()),
            self.data,
            self.objective,
            self.samples,
            self.hardware,
            None if self.before is None else str(self.before.importance_file()),
            execution.energy,
        )
        return run_importance(request, execution.report, execution.workshop)
