"""strategy=grpo: the student learns from rewards of what it writes (GRPO, arXiv 2402.03300)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import ALONE, Cast, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


def paced(epochs: int | None, lr: float | None) -> dict[str, Any]:
    """What a stage has in the place of the trainer's epochs and learning rate."""
    return {**({} if epochs is None else {"epochs": epochs}), **({} if lr is None else {"optimizer": {"lr": lr}})}


@dataclass(frozen=True)
class GRPO(Strategy):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, algorithm 1 with outcome rewards): behind each prompt of a
    batch the student writes several texts, the reward function of the config (`reward`) says what each is worth, and a text counts by how
    much more it is worth than the others of its group, over their deviation. No network learns what texts are worth.

    start        where the policy begins: alone, the student trained on labels (the arm of that name); taught, by the teacher as
                 strategy=vanilla does; own, the weights that it comes with (student.weights)
    group        texts for each prompt (the paper: 64; TRL: 8). A batch of the data has trainer.batch_size rows, times this
    clip         how far the probability of a token may go from that with which it was drawn
    kl           weight of the divergence from the policy that it began as (the paper: 0.04; TRL: 0); 0: it is not computed
    updates      steps of the optimizer on the same texts (the paper's mu). Batches of the data in between are left out
    average      samples: each text counts the same (the paper); tokens: each token does (DAPO, arXiv 2503.14476)
    temperature  at which texts are drawn, and of the probabilities that are compared
    prompt       share of a text that is its prompt. Of a chat, all before its last answer is
    epochs       of the policy; null: those of the trainer, as of the start
    lr           learning rate of the policy, in general far below that of labels; null: that of the trainer

    A text ends with its end token, or after data.language.max_new tokens. A group whose texts are all worth the same teaches nothing.
    """

    start: str = "alone"
    group: int = 8
    clip: float = 0.2
    kl: float = 0.0
    updates: int = 1
    average: str = "samples"
    temperature: float = 1.0
    prompt: float = 0.5
    epochs: int | None = None
    lr: float | None = None

    arms: ClassVar[dict[str, str]] = {**Strategy.arms, "untaught": "student, the same steps on labels"}
    against: ClassVar[str] = "untaught"
    choices: ClassVar = {"start": ("alone", "taught", "own"), "average": ("samples", "tokens")}
    ranges: ClassVar = {
        "group": (lambda size: size >= 2, "2 or more: a text is compared with others of its group"),
        "clip": (lambda clip: 0 < clip < 1, "above 0 and below 1"),
        "kl": (lambda weight: weight >= 0, "a weight, 0 or more"),
        "updates": (lambda steps: steps >= 1, "1 or more"),
        "temperature": (
            lambda temperature: temperature > 0,
            "above 0: texts of the likeliest tokens alone are all the same",
        ),
        "prompt": (lambda share: 0 <= share < 1, "a share from 0 to below 1"),
        "epochs": (lambda epochs: epochs >= 1, "1 or more"),
        "lr": (lambda rate: rate > 0, "above 0"),
    }
    instead: ClassVar[dict[str, str]] = {
        "objective": "rewards stand in its place: strategy.clip, strategy.kl; strategy.start=taught has it in the stage before",
        "teacher": "strategy.start=taught has a teacher in the stage before",
        "assistants": "strategy=takd, evolving and cascaded have assistants",
    }

    def check(self, cast: Cast) -> None:
        if not cast.domain.continues:
            raise UserError(
                f"strategy=grpo: a student that writes text; data.task={cast.domain.name} has none",
                "strategy=vanilla distils the outputs of any task",
            )
        if not cast.config.get("reward"):
            raise UserError(
                "strategy=grpo needs a reward: what a text that the student writes is worth",
                "reward=exact_match (kdrun ls reward), or a function of yours: reward._target_=mine.reward targets.mine=true",
            )
        if self.start == "own" and cast.student.config["weights"] is None:
            raise UserError(
                "strategy.start=own: the student has random weights, and what it writes is worth nothing",
                "give student.weights, or strategy.start=alone",
            )
        if cast.student.trainer.get("sharding", "none") != "none":
            raise UserError(
                f"strategy=grpo does not go with trainer.sharding={cast.student.trainer['sharding']}",
                "ranks that write texts of several lengths would wait for each other: trainer.sharding=none",
            )

    def run(self, lab: Lab, cast: Cast) -> Result:
        return self.improved(lab, cast, self._begun(lab, cast))

    def improved(self, lab: Lab, cast: Cast, start: Result, role: str | None = None) -> Result:
        """The policy that begins as `start`, and is held near it where `kl` says so."""
        sampling = {"temperature": self.temperature}
        objective: dict[str, Any] = {"grpo": {"weight": 1.0, "clip": self.clip, **sampling}}
        trainer = paced(self.epochs, self.lr)
        if self.kl:
            objective["policy_kl"] = {"weight": self.kl, **sampling}
            teaching = {
                **cast.config["teacher"],
                "source": "online",
                "unchecked": True,
            }  # where it began, however good that is
            stage = distil(cast.student, start, start=start, role=role, teaching=teaching, sees={}, **trainer)
        else:
            stage = supervised(cast.student, start=start, role=role, **trainer)
        names = ("group", "updates", "average", "prompt")
        rollout = {"reward": cast.config.get("reward"), **{name: getattr(self, name) for name in names}, **sampling}
        return lab.get(replace(stage, objective=objective, rollout=rollout))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """As of every strategy, and untaught: from where the policy begins, on labels, for its epochs at its learning rate."""
        if name != "untaught":
            return super().control(name, lab, cast)
        begun = self._begun(lab, cast)
        return lab.get(supervised(cast.student, start=begun, role=name, **paced(self.epochs, self.lr)))

    def _begun(self, lab: Lab, cast: Cast) -> Result:
        if self.start == "own":
            return lab.get(replace(supervised(cast.student, role="begun"), trainer=None))
        return self.control({"taught": "plain_kd"}.get(self.start, ALONE), lab, cast)

    def student_epochs(self, cast: Cast) -> int:
        epochs = cast.student.trainer["epochs"]
        return (self.epochs or epochs) + (0 if self.start == "own" else epochs)

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, by rewards of what it writes"
