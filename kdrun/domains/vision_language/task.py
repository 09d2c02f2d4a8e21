"""Questions about pictures: teacher-forced losses per response token, accuracy of the answers that are generated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric, MetricCollection

from kdrun.domains.guess import Guess, largest_share
from kdrun.domains.task import Batch, Prediction, Tensors
from kdrun.domains.translation.task import HIDDEN, TYPICAL_TOKENS, TokenScores, TokenTask
from kdrun.domains.vision_language.descriptions import Cider
from kdrun.domains.vision_language.encoded import encoded
from kdrun.domains.vision_language.questions import GROUPS
from kdrun.domains.vision_language.scores import QuestionOnly, rightness, type_table
from kdrun.networks.output import logits_of

if TYPE_CHECKING:
    from kdrun.domains.vision_language.source import Sample


LOGITS = frozenset({"student_logits", "teacher_logits"})
UNIT = 2520
"""Shares of right answers are summed as whole multiples of 1 / UNIT: exact for the tenths of ten answers."""
NEW_TOKENS = 10
LONG_TYPES = ("caption",)
"""Types whose answers are sentences: on validation nothing is generated for them (see `evaluate`)."""


class VisionLanguage(TokenTask, kind="vision_language"):
    """Answers to questions about pictures, with a VisionSpec; see data.vision_module for what a batch is.

    module    the data module: it turns tokens into text, and knows the samples
    decoding  `trainer.decoding`: answers are generated greedily, with at most `max_extra` tokens; nothing else of it is used
    """

    USABLE = "question with a picture"
    TYPICAL_TOKENS = TYPICAL_TOKENS
    PREFLIGHT = "token_accuracy"
    READ = "input_ids"

    def __init__(self, module: Any, decoding: dict[str, Any] | None = None):
        self.module, self.spec = module, module.spec
        self.hidden, self.logits = False, True
        self._ciders: dict[str, Cider] = {}
        self.most = int((decoding or {}).get("max_extra", NEW_TOKENS))

    def prepare(self, wanted: frozenset[str]) -> None:
        self.hidden = bool(wanted & HIDDEN)
        self.logits = not self.hidden or bool(wanted & LOGITS)

    def predict(self, network: nn.Module, inputs: dict[str, torch.Tensor]) -> Prediction:
        """See TokenTask."""
        return self._predict(network, inputs, self.hidden, self.logits)

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """targets int64 [B, L], mask, visual_mask and what a batch has of GROUPS, bool [B, L], and `outputs`."""
        names = ("targets", "mask", "visual_mask", *(name for name in GROUPS if name in batch))
        return {name: batch[name] for name in names} | self.outputs(student, teacher)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"tokens": TokenScores(), "answers": AnswerScores()})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        mask = batch["mask"]
        self._add_tokens(metrics, logits_at(prediction, mask).detach(), batch["targets"][mask])
        metrics["answers"].update(())  # none, which torchmetrics takes for a mistake unless it is said

    @torch.no_grad()
    def evaluate(
        self, metrics: MetricCollection, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """Adds loss and token accuracy, then the accuracy of greedy answers to the last question of each sample.

        Nothing is generated where the pass over the reference shows that the reference is what greedy decoding gives:
        where each of its tokens is the likeliest one. Nor, on validation, for LONG_TYPES: they count as wrong then.
        It returns {"id", "right": share in 0..1} of each sample, on test with "text" and "type".
        """
        mask, targets = batch["mask"], batch["targets"]
        prediction = self._predict(network, batch["inputs"], hidden=hasattr(network, "hidden"), logits=False)
        logits = logits_at(prediction, mask)
        self._add_tokens(metrics, logits, targets[mask])
        self.update_added(metrics, prediction, batch)
        # A rank without a sample of its own has one that counts nothing.
        rows = mask.any(dim=1).nonzero().flatten().tolist()
        if not rows:
            metrics["answers"].update(())
            return None
        samples = self.module.samples_of(batch["ids"][rows])
        owner = mask.nonzero()[:, 0]
        missed = torch.bincount(owner[logits.argmax(-1) != targets[mask]], minlength=len(mask)).tolist()
        tokens: dict[int, list[int]] = {}
        for row, sample in zip(rows, samples, strict=True):
            if not missed[row]:
                tokens[row] = last_answer(targets[row], mask[row])
            elif sample.type in LONG_TYPES and not final:
                tokens[row] = []
        open_rows = [row for row in rows if row not in tokens]
        if open_rows:
            inputs = self.module.prompts(batch["ids"][open_rows].cpu())
            tokens |= zip(open_rows, self.generate(network, inputs, targets.device), strict=True)
        texts = self.module.decode([tokens[row] for row in rows])
        right = [self.rightness(sample, text) for sample, text in zip(samples, texts, strict=True)]
        metrics["answers"].update(right)
        if not final:
            return [{"id": sample.id, "right": share} for sample, share in zip(samples, right, strict=True)]
        return [
            {"id": sample.id, "text": text, "right": share, "type": sample.type}
            for sample, text, share in zip(samples, texts, right, strict=True)
        ]

    @torch.no_grad()
    def generate(
        self, network: nn.Module, inputs: Mapping[str, torch.Tensor], device: torch.device | None = None
    ) -> list[list[int]]:
        """Greedy answers to prompts padded on the left (`module.prompts`), without their end token."""
        moved = {name: value.to(device) for name, value in inputs.items()} if device is not None else dict(inputs)
        return network.generate(**moved, max_new=self.most, eos=self.spec.eos)

    def answer(self, network: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[str]:
        """The text of greedy answers."""
        return self.module.decode(self.generate(network, inputs))

    @torch.no_grad()
    def targets_of(
        self, network: nn.Module, samples: Any, positions: np.ndarray, view: Any = None
    ) -> list[dict[str, Any]]:
        """Greedy answers to these samples: {"id", "text", "type"}, and of those about an input "score", the mean log-probability that the
        network gives the tokens of its answer, end token included."""
        device = next(network.parameters()).device
        texts = self.module.decode(self.generate(network, samples.prompts(positions), device))
        ids = samples.ids[torch.from_numpy(positions)]
        asked = self.module.samples_of(ids)
        said = [
            replace(sample, turns=(*sample.turns[:-1], replace(sample.turns[-1], answer=text)))
            for sample, text in zip(asked, texts, strict=True)
        ]
        spec, rows = self.spec, []
        made, kept, _ = encoded(said, self.module.encoder, spec.max_length, spec.pad, self.module.pictures)
        batch = made.batch(np.arange(len(kept)))
        inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
        logs = torch.log_softmax(logits_of(network(**inputs)).float(), -1).cpu()
        told = logs.gather(-1, batch["targets"][..., None])[..., 0] * batch["mask"]
        scores = dict(zip(kept, (told.sum(1) / batch["mask"].sum(1)).tolist(), strict=True))
        for place, (sample, text) in enumerate(zip(asked, texts, strict=True)):
            scored = {"score": scores[place]} if sample.images and place in scores else {}
            rows.append({"id": sample.id, "text": text, "type": sample.type, **scored})
        return rows

    def rightness(self, sample: Sample, text: str) -> float:
        """Share in 0..1 that a text is right: of descriptions their CIDEr, of anything else scores.rightness."""
        if not sample.described:
            return rightness(sample, text)
        return self._cider(sample.type)(text, sample.turns[-1].answer)

    def _cider(self, kind: str) -> Cider:
        """n-grams are weighed by the training descriptions of a type, or, where there are none, by those of its test set."""
        if kind not in self._ciders:
            chosen = self.module.chosen
            of_kind = {
                split: [one.turns[-1].answer for one in chosen[split] if one.described and one.type == kind]
                for split in ("train", "test")
            }
            self._ciders[kind] = Cider(of_kind["train"] or of_kind["test"])
        return self._ciders[kind]

    def details(self, rows: Iterable[Mapping[str, Any]], samples: Iterable[Sample] | None = None) -> dict[str, Any]:
        """What the rows of a test set say by type of question: {"types": {type: scores}} (see vision_scores.type_table).

        samples: those of the rows; taken from the module where left out.
        """
        rows = list(rows)
        if samples is None:
            samples = self.module.samples_of(torch.tensor([row["id"] for row in rows], dtype=torch.int64))
        return {"types": type_table(rows, samples, self.question_only, self.rightness)}

    def row_scores(self, rows: list[dict[str, Any]], val_rows: list[dict[str, Any]]) -> dict[str, float]:
        """`accuracy/colour`, and `f1/exist` where a type has one: scores of single types of questions beside those of all."""
        return {
            f"{score}/{name}": float(values[score])
            for name, values in self.details(rows)["types"].items()
            for score in ("accuracy", "f1")
            if values.get(score) is not None
        }

    def judged(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(float32 logits [N, V], int64 tokens [N]) at the N answer positions."""
        mask = batch["mask"]
        return logits_at(prediction, mask).detach().float(), batch["targets"][mask]

    def usable(self, samples: Any) -> np.ndarray:
        """Questions with a picture, where the network takes any."""
        return np.flatnonzero(samples.images.lengths() > 0) if self.spec.image_tokens else super().usable(samples)

    def generations(self, network: nn.Module, samples: Any, positions: Any) -> Iterator[Callable[[], int]]:
        for place in positions:
            prompt = samples.prompts(np.array([place]))
            yield lambda prompt=prompt: len(self.generate(network, prompt)[0]) + 1

    def baselines(self) -> dict[str, dict[str, float]]:
        """{"accuracy"} of answers that look at no picture, on test and likewise on further test sets.

        "question only": the commonest training answer to the same question, else to its type; "majority answer": always
        the commonest one.
        """
        found = {}
        for split in ("test", *self.module.extra_tests):
            samples = self.module.chosen[split]
            ending = "" if split == "test" else f", on {split}"
            for name, guess in (
                ("question only", self.question_only),
                ("majority answer", lambda sample: self.question_only.majority),
            ):
                shares = [self.rightness(sample, guess(sample)) for sample in samples]
                if shares:
                    found[name + ending] = {"accuracy": sum(shares) / len(shares)}
        return found

    @cached_property
    def question_only(self) -> QuestionOnly:
        """The guesser that knows the questions and answers of training and sees nothing."""
        return QuestionOnly(
            sample for sample in self.module.chosen["train"] if any(turn.answer for turn in sample.turns)
        )

    def notes(self) -> dict[str, str]:
        described = any(sample.described for sample in self.module.chosen["test"])
        return {
            "accuracy": f"greedy answers of at most {self.most} tokens, compared as in VQA; yes or no as in POPE; "
            f"choices by letter or text{'; descriptions by n-grams in common (CIDEr, 0 to 1)' if described else ''}"
        }

    def typical(self, network: nn.Module) -> object:
        """One sample: an image and TYPICAL_TOKENS of text, teacher-forced.

        Where the data bring the tower's features the tower is not run and not counted.
        """
        spec = self.spec
        ids = torch.zeros((1, spec.image_tokens + TYPICAL_TOKENS), dtype=torch.int64, device="meta")
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
        if spec.feature_width is not None:
            inputs["image_features"] = torch.empty((1, spec.image_tokens, spec.feature_width), device="meta")
        elif spec.image_tokens:
            inputs["pixel_values"] = torch.empty((1, 3, spec.image_size, spec.image_size), device="meta")
        if spec.modalities:
            inputs["modality"] = torch.zeros(1, dtype=torch.int64, device="meta")
        return network(**inputs)

    def right(self, prediction: Prediction, batch: Batch) -> torch.Tensor:
        mask = batch["mask"]
        return logits_at(prediction, mask).argmax(-1) == batch["targets"][mask]

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """Token accuracy of always the commonest token."""
        return largest_share(targets, "always the commonest token", right)

    @staticmethod
    def _add_tokens(metrics: MetricCollection, logits: torch.Tensor, targets: torch.Tensor) -> None:
        metrics["tokens"].update(logits.float(), targets, torch.ones_like(targets, dtype=torch.bool))


def logits_at(prediction: Prediction, mask: torch.Tensor) -> torch.Tensor:
    """[N, V] at the N positions of mask; no others are computed where they are not there yet."""
    if prediction.logits is not None:
        return prediction.logits[mask]
    return replace(prediction, hidden=prediction.hidden[mask]).dense()


def last_answer(targets: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """The tokens of the last answer of one sample, from targets int64 [L] and mask bool [L]."""
    positions = mask.nonzero().flatten()
    breaks = (positions.diff() > 1).nonzero().flatten()
    return targets[positions[int(breaks[-1]) + 1 if len(breaks) else 0 :]].tolist()


class AnswerScores(Metric):
    """Mean share of right answers over all samples of all batches and ranks; NaN before any.

    update(shares in 0..1). They are summed as whole multiples of 1 / UNIT, so the order of the sum changes no digit.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "seen"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, shares: Sequence[float]) -> None:
        self.right += sum(round(share * UNIT) for share in shares)
        self.seen += len(shares)

    def compute(self) -> dict[str, torch.Tensor]:
        seen = torch.where(self.seen > 0, self.seen.float(), math.nan)
        return {"accuracy": self.right.float() / UNIT / seen}
