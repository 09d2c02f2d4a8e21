"""strategy=on_policy: the student is taught on what it writes itself (GKD, arXiv 2306.13649)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun import losses
from kdrun.config.trees import at
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised
from kdrun.strategies.vanilla import Vanilla
from kdrun.targets import signature

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class OnPolicy(Vanilla):
    """Generalised knowledge distillation (Agarwal et al. 2024, arXiv 2306.13649), algorithm 1: a share of the batches is what the student
    writes itself, as it is at that step, behind the prompts of their samples. There the objective compares it with the teacher at every
    token that it wrote; no gradient goes through the drawing of tokens. The divergence is the objective's: `objective=jsd`, `reverse_kl`,
    `skewed` ... and each has its own temperature.

    start          see strategy=vanilla
    student_share  of batches (the paper's lambda); 0 is strategy=vanilla. What is drawn is a function of the seed and the step
    raised_by      what is added to student_share after each epoch whose validation loss is not below that of the epoch before (DistiLLM,
                   arXiv 2402.03898, section 3.2, which begins at 0 and adds 0.1); 0: it stays
    replay         none, constant, increasing or decreasing: whether own batches are, once the student has written `capacity` rows, drawn from
                   the last ones (DistiLLM, section 3.2, whose schedule is decreasing). Of the own batches half, a share that grows from 0 to 1
                   over training, or one that falls from 1 to 0 is written anew
    capacity       rows of that store (the paper: 1000)
    updates        steps on the same texts; `objective=minillm` then has the probabilities that they were drawn with (MiniLLM's code takes 4
                   passes over what was written, with objective.minillm.clip=0.2)
    teacher_mix    tokens are drawn from a mixture of student and teacher, of which the teacher has this share (MiniLLM, arXiv 2306.08543,
                   section 2.2: 0.2), against texts that please the teacher and say nothing
    temperature    at which tokens are drawn (the paper: 1); 0: the likeliest ones
    prompt         share of a text that is its prompt. Of a chat, all before its last answer is

    What the student writes ends with its end token, and is at most as long as the text it replaces, so that batches keep their size
    (the paper has one length for all). Prompts are not learned, and terms of labels (ce) have no part in such a batch.
    """

    student_share: float = 0.5
    raised_by: float = 0.0
    replay: str = "none"
    capacity: int = 1_000
    updates: int = 1
    teacher_mix: float = 0.0
    temperature: float = 1.0
    prompt: float = 0.5

    choices: ClassVar = {"replay": ("none", "constant", "increasing", "decreasing")}
    ranges: ClassVar = {
        "capacity": (lambda texts: texts >= 1, "at least 1"),
        "updates": (lambda steps: steps >= 1, "at least 1"),
        "student_share": (lambda share: 0 <= share <= 1, "a share from 0 to 1"),
        "raised_by": (lambda share: 0 <= share <= 1, "a share from 0 to 1"),
        "teacher_mix": (lambda share: 0 <= share < 1, "a share from 0 to below 1"),
        "temperature": (lambda temperature: temperature >= 0, "0 (the likeliest token) or more"),
        "prompt": (lambda share: 0 <= share < 1, "a share from 0 to below 1"),
    }

    def check(self, cast: Cast) -> None:
        if not cast.domain.continues:
            raise UserError(
                f"strategy=on_policy: a student that writes text; data.task={cast.domain.name} has none",
                "strategy=vanilla distils the outputs of any task",
            )
        if not self.own:
            return
        self._check_mix(cast)
        if self.replay != "none" and self.updates > 1:
            raise UserError(
                f"strategy.updates={self.updates}: with strategy.replay={self.replay} texts come again from the store",
                "leave one of them out",
            )
        if cast.config["teacher"]["source"] == "cached":
            raise UserError(
                "teacher.source=cached: what the student will write is not known before",
                "leave teacher.source out: the teacher is asked in every step",
            )
        if cast.student.trainer.get("sharding", "none") != "none":
            raise UserError(
                f"strategy=on_policy does not go with trainer.sharding={cast.student.trainer['sharding']}",
                "ranks that write texts of several lengths would wait for each other: trainer.sharding=none",
            )
        for name, term in cast.config["objective"].items():
            if term.get("weight") != 0:
                self._check_term(name, losses.resolve(name, term)[0])

    @property
    def own(self) -> bool:
        """Whether the student ever writes."""
        return bool(self.student_share or self.raised_by)

    def _check_mix(self, cast: Cast) -> None:
        if not self.teacher_mix:
            return
        if self.temperature != 1:
            raise UserError(
                f"strategy.temperature={self.temperature:g}: with strategy.teacher_mix tokens are drawn at 1"
            )
        teacher = cast.config["teacher"]
        if teacher.get("prompt") is not None or teacher.get("system") is not None:
            raise UserError(
                "strategy.teacher_mix: teacher and student would go on from two prompts (teacher.prompt, teacher.system)",
                "leave one of them out",
            )
        for key, plain in (("device", None), ("sharding", "none")):
            if teacher.get(key, plain) != plain:
                raise UserError(f"strategy.teacher_mix: both networks write together: leave teacher.{key} out")
        if (teacher["network"].get("_target_") or "").endswith(".ServedLanguageModel"):
            raise UserError(
                "strategy.teacher_mix: a teacher on a server would be asked for each token by itself", "leave it out"
            )

    def _check_term(self, name: str, loss: str) -> None:
        """Raises UserError for a term that would do nothing, or not what it should, on texts without labels."""
        known = signature(loss)
        wanted = known.parameters if known else ()
        if "written" in wanted and self.temperature != 1:
            raise UserError(
                f"strategy.temperature={self.temperature:g}: objective.{name} is for texts that are drawn at 1",
                "leave strategy.temperature out",
            )
        if "written" in wanted and self.replay != "none":
            raise UserError(
                f"strategy.replay={self.replay}: objective.{name} is for texts of the student as it is, or was some steps ago",
                "strategy.updates takes several steps on each text; replayed texts are for distributions: objective=skewed, jsd",
            )
        if "targets" not in wanted:
            return
        if any(parameter.startswith("teacher_") for parameter in wanted):
            raise UserError(
                f"objective.{name} compares with the teacher and with labels, and what the student writes has no labels",
                "an objective that has them as two terms, as objective=word_kd, reverse_kl, jsd, skewed",
            )
        if self.student_share == 1:
            raise UserError(
                f"strategy.student_share=1: no batch has labels, so objective.{name} would do nothing",
                f"objective.{name}.weight=0, or a strategy.student_share below 1",
            )

    def run(self, lab: Lab, cast: Cast) -> Result:
        if not self.own:
            return super().run(lab, cast)
        teacher = lab.get(supervised(cast.teacher))
        teaching = {**cast.teaching_of(teacher), "source": "online"}
        own = {"share": self.student_share, "temperature": self.temperature, "prompt": self.prompt}
        own |= {name: value for name in ("raised_by", "teacher_mix") if (value := getattr(self, name))}
        own |= {"updates": self.updates} if self.updates > 1 else {}
        own |= {"replay": self.replay, "capacity": self.capacity} if self.replay != "none" else {}
        stage = distil(cast.student, teacher, start=self._start(teacher), teaching=teaching)
        run, keys = cast.config["data"], cast.domain.view_keys(cast.config["data"])
        if other := [key for key in keys if at({**run, **stage.sees}, key) != at(run, key)]:
            raise UserError(
                f"strategy=on_policy: the teacher reads other rows than the student ({', '.join(f'data.{key}' for key in other)})",
                "it cannot be asked about what the student writes: give both the same tokenizer and view of the data",
            )
        return lab.get(replace(stage, rollout=own))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, taught on what it writes"
