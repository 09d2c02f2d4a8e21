"""The stage that measures the networks of a sequence of tasks on the test sets of all of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.lab.fingerprint import device, domain_modules, identity, targets_in, versions
from kdrun.lab.stages.base import BEST, LAST, Execution, Result, Stage

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext


@dataclass(frozen=True)
class Evaluate(Stage):
    """A network that learned tasks one after another, measured before the first and after each of them on the test set of every task.

    Its weights are those of the last network, its parts the tasks.

    role     what it is for, as of every stage
    after    name of a task -> the stage that learned it, in the order in which they were learned
    tasks    name of a task -> its data config; the test set of each is read, no training sample
    start    the last of `after`: what it took to come here
    """

    role: str
    after: dict[str, Result]
    tasks: dict[str, dict[str, Any]]
    start: Result
    trainer: ClassVar[None] = None
    objective: ClassVar[None] = None
    listed: ClassVar[bool] = False
    told: ClassVar[tuple[str, ...]] = ("tasks", "matrix")

    @property
    def taught(self) -> bool:
        """Whatever stood beside labels: it is the result of a strategy, and never its own control."""
        return True

    @property
    def _last(self) -> Any:
        return self.start.stage

    @property
    def learner(self) -> dict[str, Any]:
        return self._last.learner

    @property
    def data(self) -> dict[str, Any]:
        return next(reversed(self.tasks.values()))

    @property
    def hardware(self) -> dict[str, Any]:
        return self._last.hardware

    @property
    def seed(self) -> int:
        return self._last.seed

    @property
    def metrics(self) -> dict[str, Any]:
        return self._last.metrics

    @property
    def networks(self) -> list[dict[str, Any]]:
        return []

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        modules = ["kdrun.learning.evaluation", *domain_modules(self.data)]
        return {
            "members": {name: result.fingerprint for name, result in self.after.items()},
            "order": list(self.after),
            "tasks": {name: identity(data, context) for name, data in self.tasks.items()},
            "code": context.sources.versions([*modules, *targets_in(self.learner, self.data, self.metrics)]),
            "versions": versions("torch"),
            "device": device(self.hardware, context),
        }

    def run(self, execution: Execution) -> dict[str, Any]:
        from kdrun.learning.evaluation import EvaluationRequest, run_evaluation

        request = EvaluationRequest(
            self.label,
            execution.work,
            self.learner,
            self.seed,
            {name: str(result.weights()) for name, result in self.after.items()},
            self.tasks,
            self.hardware,
            self._last.trainer,
            self.metrics,
            execution.energy,
        )
        outcome = run_evaluation(request, execution.report, execution.workshop)
        for which in (BEST, LAST):
            shutil.copyfile(self.start.weights(), execution.work / f"{which}.safetensors")
        return {**outcome, "teacher": None}
