"""strategy=sequence_kd: the student learns from what the teacher writes (Kim and Rush 2016, arXiv 1606.07947)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun.data.filters import TextFilter
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, generate, supervised
from kdrun.strategies.vanilla import Vanilla

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class SequenceKD(Vanilla):
    """Sequence-level distillation: the mode of the teacher's distribution over whole sequences stands for the distribution, so that the
    student is trained on the teacher's output for each training sample as if it were the label. Translations are found by beam search.
    Language models go on from a prompt, with the likeliest token at each place or with drawn ones, for at most as many tokens as stood
    there; of plain texts the prompt is learned too.

    start           see strategy=vanilla
    beam            translations: hypotheses of the search (the paper: 5)
    length_penalty  translations: of the search; null: that of trainer.decoding
    temperature     language models: at which tokens are drawn, by the teacher's seed; 0: the likeliest ones
    prompt          language models: share of a text that is its prompt. Of a chat, all before its last answer is
    shortest        texts of fewer words are left out; 1: empty ones
    longest         texts of more words are left out; null: none is
    repeated        texts are left out in which more than this share of all four words in a row stood before; null: none is
    """

    beam: int = 5
    length_penalty: float | None = None
    temperature: float = 0.0
    prompt: float = 0.5
    shortest: int = 0
    longest: int | None = None
    repeated: float | None = None

    ranges: ClassVar = {
        "beam": (lambda beam: beam >= 1, "at least 1, which is greedy search"),
        "length_penalty": (lambda penalty: penalty >= 0, "0 or more"),
        "temperature": (lambda temperature: temperature >= 0, "0 (the likeliest token) or more"),
        "prompt": (lambda share: 0 <= share < 1, "a share from 0 to below 1"),
        "shortest": (lambda words: words >= 0, "a number of words, 0 or more"),
        "longest": (lambda words: words >= 1, "a number of words, 1 or more"),
        "repeated": (lambda share: 0 <= share < 1, "a share from 0 to below 1"),
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
        options = {name: getattr(self, name) for name in sorted(cast.domain.generates)}
        search = {name: value for name, value in options.items() if value is not None}
        if search.get("temperature"):
            search["seed"] = cast.teacher.seed
        texts = TextFilter(self.shortest, self.longest, self.repeated)
        filters = {} if texts == TextFilter() else asdict(texts)
        decodes = lab.get(generate(cast, teacher, filters=filters, **search))
        return lab.get(replace(supervised(cast.student, start=self._start(teacher)), generated=decodes))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, on what its teacher wrote"
