"""Sentences in one language in, sentences in another out: teacher-forced losses per token, BLEU of what is generated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric, MetricCollection

from kdrun.decoding.beam import BeamSearch, decode
from kdrun.domains.guess import Guess, symmetric
from kdrun.domains.task import Batch, Prediction, Task, Tensors
from kdrun.domains.translation.scores import TextScores, corpus_scores, sentence_statistics, signatures, tokenize_for
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

UNIT, LARGEST_LOSS = 2.0**-20, 1e4
HIDDEN = frozenset({"student_hidden", "teacher_hidden"})
TYPICAL_TOKENS = 16
"""Length of source and target for which FLOPs of a sentence are counted."""


class TokenTask(Task):
    """What tasks share whose networks have an output for every token of a sequence (see TokenSpec).

    READ  the input of a network, int64 [B, L], for whose positions it gives logits [B, L, V]
    """

    READ: str
    hidden: bool = False
    """Whether `predict` gives hidden states and output layer in place of logits."""

    def prepare(self, wanted: frozenset[str]) -> None:
        self.hidden = bool(wanted & HIDDEN) and "student_logits" not in wanted

    def predict(self, network: nn.Module, inputs: dict[str, torch.Tensor]) -> Prediction:
        """See `_predict`."""
        return self._predict(network, inputs, self.hidden, not self.hidden)

    def _predict(self, network: nn.Module, inputs: dict[str, torch.Tensor], hidden: bool, logits: bool) -> Prediction:
        """One teacher-forced pass that gives hidden states and output layer, logits, or both.

        Raises ValueError where the output does not have the data's V tokens; UserError where a network has no `hidden`.
        """
        if hidden:
            if not hasattr(network, "hidden"):
                name = type(network).__name__
                raise UserError(f"{name} has no hidden(): use objective=word_kd, with all logits at once")
            states, weight, bias = network.hidden(**inputs)
            found = Prediction(None, hidden=states, head=weight if bias is None else (weight, bias))
            if logits:
                found.logits = found.dense()
            shape = (*states.shape[:2], len(weight))
        else:
            found = Prediction(logits_of(network(**inputs)))
            shape = tuple(found.logits.shape)
        expected = (*inputs[self.READ].shape, self.spec.vocabulary)
        if shape != expected:
            raise ValueError(
                f"{type(network).__name__} returned logits of shape {shape}, expected {expected}: "
                f"{self.spec.name} has {self.spec.vocabulary} tokens"
            )
        return found

    def outputs(self, student: Prediction, teacher: Prediction | None) -> Tensors:
        """student_ and teacher_ logits [B, L, V], hidden [B, L, D], head [V, D] and bias [V], None for what is not there; and what a teacher
        says beside them (teacher_top_ids)."""
        found: Tensors = {f"teacher_{name}": value for name, value in (teacher.features if teacher else {}).items()}
        for who, prediction in (("student", student), ("teacher", teacher or Prediction(None))):
            weight, bias = prediction.head if isinstance(prediction.head, tuple) else (prediction.head, None)
            found |= {f"{who}_logits": prediction.logits, f"{who}_hidden": prediction.hidden}
            found |= {f"{who}_head": weight, f"{who}_bias": bias}
        return found

    def count(self, batch: Batch) -> int:
        """Target tokens in the batch, end tokens included."""
        return int(batch["mask"].sum())

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """Loss of the tokens' own frequencies: nats per token of a guess that looks at nothing."""
        counts = torch.bincount(torch.cat(targets)).double()
        shares = counts[counts > 0] / counts.sum()
        loss = -(shares * shares.log()).sum()
        variance = (shares * (shares.log() + loss) ** 2).sum() / counts.sum()
        return symmetric(float(loss), math.sqrt(float(variance)), -1)


class Translation(TokenTask, kind="translation"):
    """Translation with the vocabulary of a TextSpec; see data.text_module for what a batch is.

    module    the data module: it turns tokens into text, and knows the references
    decoding  `trainer.decoding`; on validation the search has `val_beam` hypotheses, on test `beam`

    BLEU and chrF are shares in 0..1 like all other scores here; people are shown them times 100.
    """

    TYPICAL_TOKENS = TYPICAL_TOKENS
    PREFLIGHT = "loss"
    READ = "target"

    def __init__(self, module: Any, decoding: dict[str, Any] | None = None):
        self.module, self.spec = module, module.spec
        settings = dict(decoding or {})
        beams = {True: settings.pop("beam", 5), False: settings.pop("val_beam", 1)}
        self.search = {final: BeamSearch(beam=beam, **settings) for final, beam in beams.items()}

    @cached_property
    def tokenize(self) -> str:
        """sacreBLEU's tokeniser for the target language. UserError where it cannot be had."""
        return tokenize_for(self.spec.bleu, self.spec.languages[1], self.module.references("val"))

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """targets [B, T], mask [B, T], features of both, and `outputs`."""
        found: Tensors = {"targets": batch["targets"], "mask": batch["mask"], **student.features}
        return found | self.outputs(student, teacher)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"tokens": TokenScores(), "text": TextShares(self.tokenize)})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        metrics["tokens"].update(prediction.dense().detach().float(), batch["targets"], batch["mask"])

    def evaluate(
        self, metrics: MetricCollection, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """Adds loss and token accuracy, then BLEU and chrF of what the network generates.

        On test it returns each sentence's translation and its counts (see text_scores.FIELDS).
        """
        inputs = batch["inputs"]
        prediction = self.predict(network, inputs)
        self.update(metrics, prediction, batch)
        self.update_added(metrics, prediction, batch)
        rows = batch["mask"].any(dim=1).nonzero().flatten()  # a rank without a pair has one that counts nothing
        if not len(rows):
            return None
        sources = [inputs["source"][row][inputs["source_mask"][row]].tolist() for row in rows]
        hypotheses = self.translate(network, sources, final)
        references = self.module.references_of(batch["ids"][rows])
        counts = sentence_statistics(hypotheses, references, self.tokenize)
        metrics["text"].update(hypotheses, references, counts)
        if not final:
            return None
        ids = batch["ids"][rows].tolist()
        return [
            {"id": number, "text": text, "counts": row}
            for number, text, row in zip(ids, hypotheses, counts.tolist(), strict=True)
        ]

    def translate(self, network: nn.Module, sources: list[list[int]], final: bool = True) -> list[str]:
        """Text of the best hypothesis for each source (token ids with the end token)."""
        spec = self.spec
        found = decode(network, sources, bos=spec.bos, eos=spec.eos, pad=spec.pad, search=self.search[final])
        return self.module.decode([hypotheses[0].tokens for hypotheses in found])

    def targets_of(
        self, network: nn.Module, samples: Any, positions: np.ndarray, view: Any = None
    ) -> list[dict[str, Any]]:
        """Translations as on test (`beam`) of the sources at these positions."""
        sources = [
            samples.source.flat[slice(*samples.source.starts[place : place + 2])].tolist() for place in positions
        ]
        texts = self.translate(network, sources)
        return [{"id": int(samples.ids[place]), "text": text} for place, text in zip(positions, texts, strict=True)]

    def generations(self, network: nn.Module, samples: Any, positions: Any) -> Iterator[Callable[[], int]]:
        spec, search = self.spec, BeamSearch(beam=1)
        for place in positions:
            (source,) = samples.batch(np.array([place]))["inputs"]["source"].tolist()

            def translate(source: list[int] = source) -> int:
                (found,) = decode(network, [source], bos=spec.bos, eos=spec.eos, pad=spec.pad, search=search)
                return len(found[0].tokens) + 1

            yield translate

    def baselines(self) -> dict[str, dict[str, float]]:
        """What takes no network: {"copying the source": {"bleu", "chrf"}} on test, and likewise on further test sets."""
        found = {}
        for split in ("test", *self.module.extra_tests):
            scores = corpus_scores(self.module.sources(split), self.module.references(split), self.tokenize)
            name = "copying the source" + ("" if split == "test" else f", on {split}")
            found[name] = {metric: value / 100 for metric, value in scores.items()}
        return found

    def notes(self) -> dict[str, str]:
        return signatures(self.tokenize)

    def typical(self, network: nn.Module) -> object:
        tokens = torch.zeros((1, TYPICAL_TOKENS), dtype=torch.int64, device="meta")
        inputs = {"source": tokens, "source_mask": torch.ones_like(tokens, dtype=torch.bool), "target": tokens}
        return network(**inputs)


class TextShares(TextScores):
    """The same as shares in 0..1, as all scores are kept here."""

    def compute(self) -> dict[str, torch.Tensor]:
        return {name: value / 100 for name, value in super().compute().items()}


class TokenScores(Metric):
    """Mean cross-entropy in nats, and share of right tokens, over valid positions; sums over batches and ranks.

    update(logits float32 [B, T, V], targets int64 [B, T], mask bool [B, T]); NaN before any token, and a NaN loss as soon
    as one token's is not finite. Losses are summed as whole multiples of 2^-20 (see ClassificationScores).
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("losses", "broken", "right", "seen"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> None:
        logits, targets = logits[mask], targets[mask]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        finite = losses.isfinite()
        self.losses += (torch.where(finite, losses, 0.0).clamp(max=LARGEST_LOSS) / UNIT).round().long().sum()
        self.broken += (~finite).sum()
        self.right += (logits.argmax(-1) == targets).sum()
        self.seen += len(targets)

    def compute(self) -> dict[str, torch.Tensor]:
        seen = torch.where(self.seen > 0, self.seen.float(), math.nan)
        loss = torch.where(self.broken > 0, math.nan, self.losses.float() * UNIT / seen)
        return {"loss": loss, "token_accuracy": self.right.float() / seen}
