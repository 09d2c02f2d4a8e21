"""A loaded parallel corpus: its splits, their loaders, single pairs by id, and text to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun import kinds
from kdrun.data.keeping import once
from kdrun.data.module import TOP, TokenModule
from kdrun.data.ragged import Ragged
from kdrun.data.tokenizer import Tokenizer
from kdrun.domains.translation.loader import TextSamples, TokenLoader
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.spec import TextSpec

DOMAIN = kinds.find("translation")


class TextDataModule(TokenModule):
    """Sentence pairs with a split and a tokenizer.

    pairs      from a source
    rows       split name -> int64 [n]: which pairs belong to it, in the order of the source
    tokenizer  see tokenizer
    spec       what networks and tasks know of it
    samples    split name -> the ids of its tokens
    found      what was left out on the way (see text_audit)

    Batch sizes are tokens (see TokenLoader).
    """

    preflight_batch = 8192
    cached_by = TOP
    LOADER = TokenLoader

    def __init__(
        self,
        pairs: Pairs,
        rows: dict[str, np.ndarray],
        tokenizer: Tokenizer,
        spec: TextSpec,
        samples: dict[str, TextSamples],
        found: dict[str, Any],
    ):
        super().__init__(DOMAIN, spec, samples, tokenizer, batch_size=4096, eval_batch_size=8192)
        self.pairs, self.rows_of, self.tokenizer, self.found = pairs, rows, tokenizer, found

    @property
    def extra_tests(self) -> tuple[str, ...]:
        return tuple(name for name in self.pairs.extra if self.spec.sizes[name])

    def relabelled(self, rows: list[dict[str, Any]]) -> TextDataModule:
        """Training pairs with these texts, cut to `max_length`, as targets; a pair without one is left out."""
        texts, train = {row["id"]: row["text"] for row in rows}, self.samples("train")
        kept = np.array([place for place, number in enumerate(train.ids.tolist()) if number in texts], np.int64)
        target = Ragged.of(self.tokenizer.encode([texts[number] for number in train.ids[kept].tolist()], "target"))
        target = target.cut(np.arange(len(kept)), self.spec.max_length, self.spec.eos)
        source = train.source.cut(kept, self.spec.max_length, self.spec.eos)
        samples = TextSamples(train.ids[kept].numpy(), source, target, train.pad, train.bos)
        spec = replace(self.spec, sizes={**self.spec.sizes, "train": len(kept)})
        chosen = {**self.rows_of, "train": self.rows_of["train"][kept]}
        return TextDataModule(self.pairs, chosen, self.tokenizer, spec, {**self._samples, "train": samples}, self.found)

    # Single pairs, for outputs that are stored.

    def inputs(self, ids: Tensor, view: int = 0) -> dict[str, Any]:
        """The batch of these training pairs, in this order: the tokens that the loader gives, padded to their longest."""
        return self.samples("train").batch(self.trained(ids).numpy())

    def lengths(self, ids: Tensor) -> Tensor:
        """int64 [b]: target positions (end included) of training pairs by id."""
        return torch.from_numpy(self.samples("train").target.lengths(self.trained(ids).numpy()))

    # Text.

    def sources(self, split: str) -> list[str]:
        """The text to be translated, in the order of `samples(split).ids`; never cut."""
        return [self.pairs.source[row] for row in self.rows_of[split].tolist()]

    def references(self, split: str) -> list[str]:
        """Its translations, likewise."""
        return [self.pairs.target[row] for row in self.rows_of[split].tolist()]

    def references_of(self, ids: Tensor) -> list[str]:
        """The translations of pairs by id, whatever split they are in."""
        return [self.pairs.target[self._row[number]] for number in ids.tolist()]

    @cached_property
    def _row(self) -> dict[int, int]:
        return {number: row for row, number in enumerate(self.pairs.ids.tolist())}

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"source": int64 [b, S], "source_mask": bool [b, S]} of text in the source language, cut to `max_length`."""
        if self.pairs.lowercase:
            texts = [text.lower() for text in texts]
        made = Ragged.of(self.tokenizer.encode(texts, "source"))
        every = np.arange(len(made))
        made = made.cut(every, self.spec.max_length, self.spec.eos)
        source, mask = map(torch.from_numpy, made.padded(every, self.spec.pad))
        return {"source": source, "source_mask": mask}

    def audit(self) -> dict[str, Any]:
        from kdrun.domains.translation.audit import audit

        return once(self.cache, "audit", self.audit_key, lambda: audit(self))
