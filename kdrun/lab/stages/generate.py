"""The stage whose result is data: targets that a trained network generates for the training samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.data.filters import TextFilter
from kdrun.defaults import canonical
from kdrun.lab.fingerprint import device, domain_modules, identity, targets_in, versions
from kdrun.lab.stages.base import Execution, Look, Result, Stage
from kdrun.learning.request import TaughtBy

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext


@dataclass(frozen=True)
class Generate(Stage):
    """`teacher` generates a target for each training sample of `data`; a Fit learns from them as its `generated`.

    decoding  how it generates, as `trainer.decoding`
    teaching  what the config states of the teacher, which is checked on every use
    filters   which texts are learned from (data.filters.TextFilter); {}: all
    sees      keys of `data` in which the teacher sees the same samples otherwise (another prompt)
    """

    role: str
    data: dict[str, Any]
    decoding: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    teacher: Result | None = None
    teaching: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    sees: dict[str, Any] = field(default_factory=dict)
    trainer: ClassVar[None] = None
    objective: ClassVar[None] = None
    metrics: ClassVar[None] = None
    told: ClassVar[tuple[str, ...]] = ("generated",)

    @property
    def seen(self) -> dict[str, Any]:
        """The data config as the teacher sees it."""
        return {**self.data, **self.sees}

    @property
    def learner(self) -> dict[str, Any]:
        return self.teacher.stage.learner

    def check(self, result: Result | None = None) -> list[str]:
        from kdrun.lab import teachers

        teachers.check_accuracy(self)
        return []

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        modules = ["kdrun.learning.generate", *domain_modules(self.data), *targets_in(self.learner, self.data)]
        return {
            "generate": canonical(self.decoding, numbers=True),
            **({"filters": canonical(self.filters, numbers=True)} if self.filters else {}),
            "teacher": {
                "fingerprint": self.teacher.fingerprint,
                **({"sees": identity(self.seen, context)} if self.sees else {}),
            },
            "data": identity(self.data, context),
            "code": context.sources.versions(modules),
            "versions": versions("torch"),
            "device": device(self.hardware, context),
        }

    def plan(self, look: Look) -> dict[str, Any]:
        samples = look.module.spec.sizes["train"]
        decoding = ", ".join(f"{name} {value}" for name, value in self.decoding.items())
        about = f"{self.learner['name']} generates targets for {samples:,} training samples ({decoding})"
        return self.planned_without_training(look, samples, about)

    def run(self, execution: Execution) -> dict[str, Any]:
        from kdrun.learning.generate import GenerateRequest, run_generation

        network, weights = self.learner["network"], str(self.teacher.weights())
        teacher = TaughtBy(self.teacher.fingerprint, self.learner["name"], network, weights)
        request = GenerateRequest(
            self.label,
            execution.work,
            teacher,
            self.data,
            self.decoding,
            self.hardware,
            execution.energy,
            TextFilter(**self.filters),
            self.sees,
        )
        return run_generation(request, execution.report, execution.workshop)
