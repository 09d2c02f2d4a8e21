"""strategy=compress: pruning, distillation and 8-bit rounding of one student, in an order of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.problems import UserError, closest, listed
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, distil, merged, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

PRUNE, DISTIL, QUANTIZE = STEPS = ("prune", "distill", "quantize")
COMPRESSED = "kdrun.networks.compressed.Compressed"


@dataclass(frozen=True)
class Compress(Strategy):
    """Compressors as one pipeline, whose order matters (deployment-oriented compression, arXiv 2304.10891).

    order         of the steps, each at most once: `[prune,distill,quantize]`. Where the first is not `distill`, the student is trained
                  on labels before it: there must be something to prune or to round
    ratio         prune: share of the channels of every layer but the last that is taken out (networks.compressed)
    importance    prune: which norm says that a channel matters
    tune_epochs   epochs of training after channels were taken out, and with 8-bit rounding in the forward pass; None: a fifth of
                  trainer.epochs
    tune_rate     learning rate of these epochs, as a share of the trainer's

    Every step ends under the teacher: taking out channels and rounding are followed by `tune_epochs` of distillation.
    """

    order: list[str] = field(default_factory=lambda: ["prune", "distill", "quantize"])
    ratio: float = 0.5
    importance: str = "l2"
    tune_epochs: int | None = None
    tune_rate: float = 0.1

    arms: ClassVar[dict[str, str]] = {
        **Strategy.arms,
        "untaught": "student, the same steps on labels",
    }
    against: ClassVar[str] = "untaught"
    instead: ClassVar[dict[str, str]] = {"assistants": "strategy=takd, evolving and cascaded have assistants"}

    choices: ClassVar = {"importance": ("l2", "l1")}
    ranges: ClassVar = {
        "ratio": (lambda ratio: 0 < ratio < 1, "a share of channels, above 0 and below 1"),
        "tune_epochs": (lambda epochs: epochs >= 1, "at least 1, or null"),
        "tune_rate": (lambda rate: rate > 0, "above 0"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for step in self.order:
            if step not in STEPS:
                raise UserError(f"strategy.order: no step {step!r}{closest(step, STEPS)}; steps: {listed(STEPS)}")
        if not self.order or len(set(self.order)) < len(self.order):
            raise UserError(f"strategy.order={self.order}: one to three different steps of {listed(STEPS)}")

    def check(self, cast: Cast) -> None:
        if cast.domain.per_position:
            raise UserError(
                f"strategy=compress: takes apart networks of images and tables, data.task={cast.domain.name} is neither",
                "8 bits of any network: hardware.deploy.precision=int8 when it is exported (kdrun export)",
            )

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, {', then '.join(self.order)}"

    def student_epochs(self, cast: Cast) -> int:
        whole = cast.student.trainer["epochs"]
        tuned = sum(step != DISTIL for step in self.order) * self._tuned(cast)
        return tuned + whole * ((DISTIL in self.order) + (self.order[0] != DISTIL))

    def run(self, lab: Lab, cast: Cast) -> Result:
        return self._steps(lab, cast, lab.get(supervised(cast.teacher)), "student")

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """untaught: the same steps, epochs and learning rates on labels alone; the others as everywhere, not compressed."""
        return self._steps(lab, cast, None, name) if name == "untaught" else super().control(name, lab, cast)

    def _steps(self, lab: Lab, cast: Cast, teacher: Result | None, role: str) -> Result:
        learner, trained, done = cast.student, None, []
        if self.order[0] != DISTIL:
            trained = lab.get(supervised(learner, role="alone"))
        for step in self.order:
            done.append(step)
            learner = self._compressed(cast.student, done)
            settings = {} if step == DISTIL else self._tuning(cast)
            # The last stage is what is compared, the others are on the way to it.
            stage = role if step == self.order[-1] else f"{role}_{step}"
            if teacher is None:
                trained = lab.get(supervised(learner, start=trained, role=stage, **settings))
            else:
                trained = lab.get(distil(learner, teacher, start=trained, role=stage, **settings))
        return trained

    def _compressed(self, student: Learner, done: list[str]) -> Learner:
        """The student as it is after these steps."""
        prune, quantize = PRUNE in done, QUANTIZE in done
        if not prune and not quantize:
            return student
        network = {
            "_target_": COMPRESSED,
            "base": {**student.config["network"], "_partial_": True},
            "prune": self.ratio if prune else 0.0,
            "quantize": quantize,
            "importance": self.importance,
        }
        return replace(student, config={**student.config, "network": network, "weights": None})

    def _tuned(self, cast: Cast) -> int:
        return self.tune_epochs or max(1, cast.student.trainer["epochs"] // 5)

    def _tuning(self, cast: Cast) -> dict[str, Any]:
        optimizer = cast.student.trainer["optimizer"]
        rate = {"lr": optimizer["lr"] * self.tune_rate} if "lr" in optimizer else {}
        return {"epochs": self._tuned(cast), "optimizer": merged(optimizer, rate)}
