"""strategy=sequence_kd: the student learns from what the teacher translates (Kim and Rush 2016, arXiv 1606.07947)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, generate, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class SequenceKD(Strategy):
    """Sequence-level distillation: the mode of the teacher's distribution over whole sequences, as beam search finds it, stands
    for the distribution, so that the student is trained on the teacher's output for each training source as if it were the label.

    beam            hypotheses of the search (the paper: 5)
    length_penalty  of the search; null: that of trainer.decoding
    """

    beam: int = 5
    length_penalty: float | None = None

    ranges: ClassVar = {
        "beam": (lambda beam: beam >= 1, "at least 1, which is greedy search"),
        "length_penalty": (lambda penalty: penalty >= 0, "0 or more"),
    }
    instead: ClassVar[dict[str, str]] = {
        "assistants": "strategy=takd, evolving and cascaded have assistants",
        "objective": "the teacher's outputs are the labels, at weight 1; strategy=vanilla compares distributions",
        "teacher.source": "the teacher's outputs are generated once and lie in the store",
    }

    def check(self, cast: Cast) -> None:
        if not cast.domain.generates:
            raise UserError(
                f"strategy=sequence_kd: a teacher that generates sequences; data.task={cast.domain.name} has none",
                "strategy=vanilla distils the outputs of any task",
            )

    def run(self, lab: Lab, cast: Cast) -> Result:
        teacher = lab.get(supervised(cast.teacher))
        search = {"beam": self.beam}
        search |= {} if self.length_penalty is None else {"length_penalty": self.length_penalty}
        decodes = lab.get(generate(cast, teacher, **search))
        return lab.get(replace(supervised(cast.student), generated=decodes))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, on the teacher's translations"
