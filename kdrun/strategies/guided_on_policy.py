"""strategy=guided_on_policy: the teacher reads a hint that its student does not (LiteGUI, arXiv 2605.07505)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import ALONE, Cast, distil, supervised
from kdrun.strategies.grpo import GRPO, paced

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

COLUMNS = {"single": "valid_one", "all": "valid_all", "matched": "valid_matched"}
"""Guidance -> the column of a row that the teacher reads."""


@dataclass(frozen=True)
class GuidedOnPolicy(Strategy):
    """Guided on-policy distillation, then rewards (Wu et al. 2026, arXiv 2605.07505, section 3.2). Stage 1: the student writes an answer,
    and at each of its tokens the reverse divergence to a teacher is lowered that reads a hint behind the prompt: of the actions that are
    valid here one (single), all, or the one that is nearest to what the student just did (matched). The student never reads it. Stage 2,
    where `rewards` says so: GRPO with the reward of the config, from there.

    A student and a teacher with random weights learn from labels first, the teacher with the hint in its prompts.

    guidance     none, single, all or matched
    hint         how it is put behind a prompt; {guidance} is the column of the row
    temperature  at which answers are drawn in stage 1, and of the divergence
    rewards      whether stage 2 follows
    epochs, lr   of stage 1; null: those of the trainer
    group, clip, kl, updates, reward_epochs, reward_lr  of stage 2: group, clip, kl, updates, epochs and lr of strategy=grpo
    """

    guidance: str = "matched"
    hint: str = "{prompt}\nhint: {guidance}"
    temperature: float = 1.0
    rewards: bool = False
    epochs: int | None = None
    lr: float | None = None
    group: int = 8
    clip: float = 0.2
    kl: float = 0.0
    updates: int = 1
    reward_epochs: int | None = None
    reward_lr: float | None = None

    teacher_options: ClassVar = ("guidance", "hint")
    arms: ClassVar[dict[str, str]] = {**Strategy.arms, "untaught": "student, the same steps on labels"}
    against: ClassVar[str] = "untaught"
    choices: ClassVar = {"guidance": ("none", *COLUMNS)}
    ranges: ClassVar = {
        **{name: GRPO.ranges[name] for name in ("temperature", "epochs", "lr", "group", "clip", "kl", "updates")},
        "reward_epochs": GRPO.ranges["epochs"],
        "reward_lr": GRPO.ranges["lr"],
    }
    instead: ClassVar[dict[str, str]] = {
        "objective": "stage 1 lowers the reverse divergence (strategy.temperature), stage 2 has the reward",
        "assistants": "strategy=takd, evolving and cascaded have assistants",
        "teacher.prompt": "strategy.guidance and strategy.hint say what the teacher reads",
        "reward": "strategy.rewards=true has a stage with rewards",
    }

    def check(self, cast: Cast) -> None:
        if not cast.domain.continues:
            raise UserError(
                f"strategy=guided_on_policy: a student that writes text; data.task={cast.domain.name} has none",
                "strategy=vanilla distils the outputs of any task",
            )
        if cast.config["teacher"]["source"] == "cached":
            raise UserError(
                "teacher.source=cached: what the student will write is not known before",
                "leave teacher.source out: the teacher is asked in every step",
            )
        if cast.config["teacher"].get("prompt") is not None:
            raise UserError(
                "teacher.prompt: strategy.guidance and strategy.hint say what the teacher reads", "leave it out"
            )
        if self.guidance != "none" and "{guidance}" not in self.hint:
            raise UserError(f"strategy.hint={self.hint!r}: it has no {{guidance}}", "as in '{prompt} hint: {guidance}'")
        if self.rewards:
            self._grpo.check(cast)

    @property
    def _grpo(self) -> GRPO:
        alike = {name: getattr(self, name) for name in ("group", "clip", "kl", "updates", "temperature")}
        return GRPO(epochs=self.reward_epochs, lr=self.reward_lr, **alike)

    def guided(self, cast: Cast) -> Cast:
        """The cast with what its teacher reads."""
        if self.guidance == "none":
            return cast
        hint = self.hint.replace("{guidance}", f"{{{COLUMNS[self.guidance]}}}")
        return Cast({**cast.config, "teacher": {**cast.config["teacher"], "prompt": hint}})

    def run(self, lab: Lab, cast: Cast) -> Result:
        guided = self.guided(cast)
        begun = self.control(ALONE, lab, cast)
        teacher = lab.get(supervised(guided.teacher))
        stage = distil(
            guided.student,
            teacher,
            start=begun,
            teaching={**guided.teaching_of(teacher), "source": "online"},
            objective={"kl_reverse": {"weight": 1.0, "temperature": self.temperature}},
            **paced(self.epochs, self.lr),
        )
        rollout = {"share": 1.0, "temperature": self.temperature, "prompt": 0.5}
        taught = lab.get(replace(stage, rollout=rollout))
        return self._grpo.improved(lab, cast, taught) if self.rewards else taught

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """As of every strategy, and untaught: from the student on labels where stage 1 begins, on labels, for the epochs of each stage at its
        learning rate."""
        if name != "untaught":
            return super().control(name, lab, cast)
        result = self.control(ALONE, lab, cast)
        for pace in (
            paced(self.epochs, self.lr),
            *([paced(self.reward_epochs, self.reward_lr)] if self.rewards else ()),
        ):
            result = lab.get(supervised(cast.student, start=result, role=name, **pace))
        return result

    def student_epochs(self, cast: Cast) -> int:
        epochs = cast.student.trainer["epochs"]
        return epochs + (self.epochs or epochs) + ((self.reward_epochs or epochs) if self.rewards else 0)

    def label(self, cast: Cast) -> str:
        rest = ", then rewards" if self.rewards else ""
        return f"student {cast.student.config['name']}, guided by {self.guidance} valid action{rest}"
