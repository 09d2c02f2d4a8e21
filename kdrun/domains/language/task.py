"""Texts and chats: cross-entropy of the next token, told per token, per byte and as perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.data import randomness
from kdrun.data.host import moved
from kdrun.domains.language import written
from kdrun.domains.language.loader import LanguageSamples
from kdrun.domains.language.prompts import Prompt, answered, prompts
from kdrun.domains.language.scores import UNIT, LanguageScores, rounded
from kdrun.domains.task import Batch, Prediction, Tensors
from kdrun.domains.translation.task import TokenTask
from kdrun.problems import UserError

TYPICAL_TOKENS = 64
AT_ONCE = 1 << 24
"""Tokens that are counted together."""


class CausalLanguage(TokenTask, kind="causal_lm"):
    """The next token of documents, with a LanguageSpec; see loader.LanguageLoader for what a batch is.

    decoding  how targets are generated (targets_of): "prompt" (share of a text), "temperature" and, where that is above 0, "seed"
    """

    TYPICAL_TOKENS = TYPICAL_TOKENS
    PREFLIGHT = "loss"
    USABLE = "row"
    READ = "input_ids"

    def __init__(self, module: Any, decoding: dict[str, Any] | None = None):
        self.module, self.spec, self.decoding = module, module.spec, decoding or {}

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """targets int64 [B, L], mask bool [B, L], inside bool [B, L] (what is no padding), and `outputs`; of what the student wrote itself
        also written and documents (int64 [B, L]), mixture and, of texts that several steps are on, sampled_log_probs (float [B, L]), see
        objectives.minillm."""
        documents = batch["inputs"]["attention_mask"]
        found: Tensors = {
            "targets": batch["targets"],
            "mask": batch["mask"],
            "inside": documents > 0,
            **student.features,
        }
        if "mixture" in batch:
            found |= {"written": batch["targets"], "documents": documents.long(), "mixture": batch["mixture"]}
        if "drawn_log_probs" in batch:
            found["sampled_log_probs"] = batch["drawn_log_probs"]
        if "policy" in batch:  # see learning.policy
            found |= {**batch["policy"], "rewarded": batch["rewarded"]}
        return found | self.outputs(student, teacher)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"scores": LanguageScores()})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        mask = batch["mask"]
        losses, right = self._told(prediction, batch)
        metrics["scores"].update(losses[mask], right[mask], int(batch["bytes"][mask].sum()))

    def _told(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(nats float32 [B, L] of each next token, whether it is the likeliest)."""
        logits, targets = prediction.dense().detach().float(), batch["targets"]
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view_as(targets), logits.argmax(-1) == targets

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """{"id", "nats", "tokens", "right", "bytes"} of each row with anything to predict."""
        mask = batch["mask"]
        losses, right = self._told(prediction, batch)
        nats = torch.where(mask, rounded(losses.flatten()).view_as(losses), 0).sum(1).double() * UNIT
        columns = (batch["ids"], nats, mask.sum(1), (right & mask).sum(1), (batch["bytes"] * mask).sum(1))
        names = ("id", "nats", "tokens", "right", "bytes")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [made for row in rows if (made := dict(zip(names, row, strict=True)))["tokens"]]

    def rights(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """{"id", "right"} of each row of validation: what it adds to bits_per_byte, which is the mean of them."""
        counted = self.module.samples("val").bytes.flat
        size = int(counted[counted > 0].sum(dtype="int64")) / len(self.module.samples("val"))
        rows = self.rows(prediction, batch)
        return [{"id": row["id"], "right": row["nats"] / math.log(2) / size} for row in rows]

    def baselines(self) -> dict[str, dict[str, float]]:
        """{"token frequencies": {"bits_per_byte", "loss"}} on test, of a guess that knows how frequent tokens are in training."""
        train, test = (self._frequencies(self.module.samples(split)) for split in ("train", "test"))
        counted = self.module.samples("test").bytes.flat
        size, tokens = int(counted[counted > 0].sum(dtype=np.int64)), int(test.sum())
        if not tokens or not size:
            return {}
        total = float(test @ -np.log((train + 1) / (train + 1).sum()))
        return {"token frequencies": {"bits_per_byte": total / math.log(2) / size, "loss": total / tokens}}

    def _frequencies(self, samples: Any) -> np.ndarray:
        """float64 [V]: how often each token is predicted."""
        counts = np.zeros(self.spec.vocabulary)
        for first in range(0, len(samples.tokens.flat), AT_ONCE):
            counted = samples.bytes.flat[first : first + AT_ONCE] >= 0
            tokens = samples.tokens.flat[first : first + AT_ONCE][counted]
            counts += np.bincount(tokens, minlength=len(counts))
        return counts

    def continued(
        self, network: nn.Module, begun: list[list[int]], most: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """The text that the network writes behind each of these prompts (ids), in at most `most` tokens and up to what ends a text or an
        answer. temperature 0: the likeliest tokens; else drawn, by `seed`."""
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        made = self.write(network, begun, most, temperature, generator)
        return self.module.tokenizer.made.batch_decode(made, skip_special_tokens=True)

    def write(
        self,
        network: nn.Module,
        begun: list[list[int]],
        most: int,
        temperature: float,
        generator: torch.Generator,
        keep_end: bool = False,
        ends: Collection[int] | None = None,
        **options: Any,
    ) -> list[list[int]]:
        """The tokens that the network writes behind each of these (see `continued`); keep_end: with the one that ends them. ends: ids
        that end it, the tokenizer's where left out. options: of its `generate`."""
        device = next(network.parameters()).device
        width = max(map(len, begun))
        ids = torch.tensor([[self.spec.pad] * (width - len(row)) + row for row in begun], device=device)
        real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in begun], device=device)
        drawn = {"temperature": temperature, "generator": generator, "keep_end": keep_end, **moved(options, device)}
        return network.generate(ids, real, most, self.module.tokenizer.ends if ends is None else ends, **drawn)

    def own_samples(
        self,
        network: nn.Module,
        batch: Batch,
        generator: torch.Generator,
        prompt: float,
        temperature: float,
        beside: tuple[nn.Module, float] | None = None,
    ) -> dict[str, Any]:
        """A batch of the same rows, in which behind the prompt of each document (see prompts.prompts; prompt: share of a text) stands what
        the network writes: up to what ends it, and at most as many tokens as stood there. Nothing else is predicted.

        temperature: of the softmax that tokens are drawn from; 0: the likeliest. beside: another network, and its share in the mixture
        of both that tokens are drawn from. "size" and "ids" are those of this rank; "mixture" is that share, 0 where there is none; "rows"
        what `written_samples` makes the same batch of.
        """
        samples = self.module.samples("train")
        positions = self.module.trained(batch["ids"].cpu()).numpy()
        begun = prompts(samples, positions, prompt, self.spec.chats)
        options = {} if beside is None else {"beside": beside}
        written = self._answers(network, begun, temperature, generator, **options)
        rows = list(zip(positions.tolist(), written, strict=True))
        own = {**self.written_samples(rows, prompt), "mixture": 0.0 if beside is None else beside[1], "rows": rows}
        if not batch["mask"].any():  # of a rank without rows, which has one that counts nothing
            own["mask"].zero_()
            own["size"] = 0
        return own

    def written_samples(self, rows: Sequence[tuple[int, Sequence[list[int]]]], prompt: float) -> dict[str, Any]:
        """A batch of training rows, (its position, tokens behind the prompt of each of its documents), in which only these are predicted;
        see own_samples."""
        samples, positions = self.module.samples("train"), np.array([place for place, _ in rows], np.int64)
        begun = prompts(samples, positions, prompt, self.spec.chats)
        made = answered(samples, positions, begun, [answers for _, answers in rows])
        return made.batch(np.arange(len(made)))

    def policy_samples(
        self,
        network: nn.Module,
        batch: Batch,
        generator: torch.Generator,
        group: int,
        prompt: float,
        temperature: float,
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """A batch in which each row is the prompt of a document of these rows (see prompts.prompts; prompt: share of a text) with what the
        network writes behind it, in at most data.language.max_new tokens; `group` rows of each document, one after the other. Nothing else
        is predicted. And the columns that a reward is given (learning.policy.COLUMNS), in the order of the rows."""
        samples = self.module.samples("train")
        rows = self.module.trained(batch["ids"].cpu()).numpy()
        begun = prompts(samples, rows, prompt, self.spec.chats)
        places = np.repeat(np.repeat(rows, list(map(len, begun))), group)
        asked = [replace(each, room=self._room(each)) for row in begun for each in row for _ in range(group)]
        written = self._answers(network, [[each] for each in asked], temperature, generator)
        made = answered(samples, places, [[each] for each in asked], written).batch(np.arange(len(places)))
        if not batch["mask"].any():  # of a rank without rows, which has one that counts nothing
            made["mask"].zero_()
            made["size"] = 0
        columns = self._columns(asked, [one for one in self._numbers(samples, rows) for _ in range(group)])
        return made, {**columns, "texts": self._read([answer for (answer,) in written])}

    def references(self, count: int, prompt: float) -> dict[str, list[Any]]:
        """The columns that a reward is given of the first `count` training rows, with what stands in the data as texts."""
        samples, rows = self.module.samples("train"), np.arange(min(count, len(self.module.samples("train"))))
        begun = [each for row in prompts(samples, rows, prompt, self.spec.chats) for each in row]
        columns = self._columns(begun, self._numbers(samples, rows))
        return {**columns, "texts": columns["references"]}

    def _columns(self, begun: Sequence[Prompt], numbers: list[int]) -> dict[str, list[Any]]:
        source = self.module.source
        return {
            **source.columns_of(numbers),
            "prompts": self._read([each.ids for each in begun]),
            "references": self._read([each.follows for each in begun]),
            "samples": [source.told(number) for number in numbers],
        }

    def _numbers(self, samples: LanguageSamples, rows: np.ndarray) -> list[int]:
        """The id of each document of these rows."""
        return [number for row in rows.tolist() for number, _ in samples.origins.of(row)]

    def _room(self, prompt: Prompt) -> int:
        """Tokens that a network may write behind a prompt: as many as on test, where the longest row has room for them."""
        return max(min(self.module.written[1], self.spec.max_length - len(prompt.ids)), 1)

    def _read(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Tokens as text, without special ones."""
        return self.module.tokenizer.made.batch_decode(rows, skip_special_tokens=True)

    def generation_scores(self, network: nn.Module, split: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """See Task and written.scores: of data.language.prompts rows of the split."""
        tokenizer, (count, most) = self.module.tokenizer, self.module.written
        chosen = written.prompts(self.module.samples(split), count, most, tokenizer.ends)
        if not chosen or not hasattr(network, "generate"):
            return {}, []
        generator = torch.Generator(next(network.parameters()).device)
        seen = self.module.samples(split).seen(np.array([one.number for one in chosen], np.int64))
        made = self.write(network, [one.ids for one in chosen], most, 0.0, generator, **seen)
        decode = partial(tokenizer.made.decode, skip_special_tokens=True)
        rows = written.rows(chosen, [decode(ids) for ids in made], decode)
        texts, references = ([row[name] for row in rows] for name in ("text", "reference"))
        return written.scores(texts, references, list(map(len, made))), rows

    def targets_of(
        self, network: nn.Module, samples: Any, positions: np.ndarray, view: Any = None
    ) -> list[dict[str, Any]]:
        """What the network writes behind the prompts of the documents of these rows: {"id" of the row, "prompt": as of `prompts`, "tokens"
        and "text" of each document}. view: see Task; a prompted.OtherPrompt. UserError for a network with another tokenizer."""
        if view is not None and view.aligned:
            raise UserError(
                "what a teacher with another tokenizer writes are not the student's tokens (teacher.data)",
                "strategy=sequence_kd needs one tokenizer; strategy=vanilla objective=aligned_kd or uld works with two",
            )
        share, temperature = self.decoding["prompt"], self.decoding["temperature"]
        generator = torch.Generator(next(network.parameters()).device)
        ids = samples.ids[torch.from_numpy(positions)].tolist()
        generator.manual_seed(randomness.key("generated", self.decoding.get("seed", 0), *ids) >> 1)
        begun = prompts(samples, positions, share, self.spec.chats)
        begun = view.begun(positions, begun) if view is not None and view.displaced else begun
        decode = self.module.tokenizer.made.batch_decode
        return [
            {"id": number, "prompt": share, "text": decode(tokens, skip_special_tokens=True), "tokens": tokens}
            for number, tokens in zip(ids, self._answers(network, begun, temperature, generator), strict=True)
        ]

    def _answers(
        self,
        network: nn.Module,
        begun: list[list[Prompt]],
        temperature: float,
        generator: torch.Generator,
        **options: Any,
    ) -> list[list[list[int]]]:
        """What the network writes behind these prompts, each up to what ends it and at most as long as its room."""
        flat = [each for row in begun for each in row]
        options |= self.module.samples("train").seen(np.array([each.row for each in flat], np.int64))
        made = self.write(
            network,
            [each.ids for each in flat],
            max(each.room for each in flat),
            temperature,
            generator,
            keep_end=True,
            **options,
        )
        answers = iter([answer[: each.room] for answer, each in zip(made, flat, strict=True)])
        return [[next(answers) for _ in row] for row in begun]

    def generations(self, network: nn.Module, samples: Any, positions: Any) -> Iterator[Callable[[], int]]:
        """Each goes on from a row up to its last answer, or the first half of a text."""
        device = next(network.parameters()).device
        for place in positions:
            ids = torch.tensor(samples.tokens[place][: written.boundary(samples, place)], device=device).long()[None]
            real, ends = torch.ones_like(ids, dtype=torch.bool), self.module.tokenizer.ends
            seen = moved(samples.seen(samples.ids[[place]].numpy()), device)
            drawn = partial(network.generate, ids, real, TYPICAL_TOKENS, ends, **seen)
            yield lambda drawn=drawn: len(drawn()[0]) + 1

    def typical(self, network: nn.Module) -> object:
        """A row of TYPICAL_TOKENS. With a mask of documents, whose values transformers does not look at."""
        ids = torch.zeros((1, min(TYPICAL_TOKENS, self.spec.max_length)), dtype=torch.int64, device="meta")
        size = self.spec.image_size
        seen = {"picture": torch.empty((1, 3, size, size), device="meta")} if size else {}
        return network(input_ids=ids, attention_mask=torch.ones_like(ids), **seen)
