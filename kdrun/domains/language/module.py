"""Loaded documents: split, tokenizer, rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun import kinds
from kdrun.data.module import TOP, BatchView, TokenModule
from kdrun.data.source import SPLITS
from kdrun.data.splits import assign
from kdrun.domains.language import rows as rows_of
from kdrun.domains.language import tokens as tokenizers
from kdrun.domains.language.loader import LanguageLoader, LanguageSamples
from kdrun.domains.language.source import Documents, written
from kdrun.domains.language.spec import LanguageSpec
from kdrun.domains.text.module import without_duplicates
from kdrun.problems import UserError

DOMAIN = kinds.find("causal_lm")


class LanguageDataModule(TokenModule):
    """Documents with a split and a tokenizer.

    source     their documents; documents: split -> their ids
    tokenizer  see tokens
    samples    split -> its rows
    notes      what was found in making them
    """

    preflight_batch = 32
    cached_by = TOP
    aligned_by = "teacher_spans"
    LOADER = LanguageLoader

    def __init__(
        self,
        source: Documents,
        tokenizer: Any,
        spec: LanguageSpec,
        samples: dict[str, LanguageSamples],
        notes: list[str],
        documents: Mapping[str, np.ndarray],
    ):
        super().__init__(DOMAIN, spec, samples, tokenizer, batch_size=32, eval_batch_size=32)
        self.source, self.tokenizer, self.found, self.documents = source, tokenizer, notes, documents

    def inputs(self, ids: Tensor, view: int = 0) -> dict[str, Any]:
        """The batch of these training rows, in this order."""
        return self.samples("train").batch(self.trained(ids).numpy())

    def lengths(self, ids: Tensor) -> Tensor:
        """int64 [b]: positions of training rows by id."""
        return torch.from_numpy(self.samples("train").lengths[self.trained(ids).numpy()] - 1)

    def identified(self, split: str) -> tuple[Tensor, Tensor]:
        """(ids of documents, zeros): how they are cut is not the same for all tokenizers."""
        ids = torch.from_numpy(self.documents[split])
        return ids, torch.zeros_like(ids)

    def view_of(self, learned: LanguageDataModule) -> BatchView:
        """See DataModule; of the same tokenizer, the rows of `learned` as they are."""
        from kdrun.domains.language.retokenized import Retokenized, SameTokens

        return SameTokens(self) if self.tokenizer.alike(learned.tokenizer) else Retokenized(self, learned)

    def audit(self) -> dict[str, Any]:
        notes = [*self.source.notes, *self.found]
        return {"samples": dict(self.spec.sizes), "notes": notes, "summary": "; ".join(notes)}


def language_module(source: Documents, config: Mapping[str, Any], cache: str | Path) -> LanguageDataModule:
    """The data module of documents. config: the keys that every data config has, and those of domain.LanguageConfig.

    Validation and test are never packed: each of their rows is of one document, and scores do not depend on `pack`.
    Raises UserError where nothing would be left to train on.
    """
    split, notes = assign(source, dict(config)), []
    if config["duplicates"] == "remove":
        split, notes = without_duplicates(source, split)
    chosen = {name: np.flatnonzero(split == part) for name, part in SPLITS.items()}
    if not len(chosen["train"]):
        raise UserError(
            f"{source.name}: no document is left for training", "data.language.duplicates=keep leaves all in"
        )
    if config["tokenizer"] is not None:
        tokenizer = tokenizers.existing(config["tokenizer"])
    else:
        read = [written(source.documents[row]) for row in chosen["train"].tolist()]
        tokenizer = tokenizers.trained(read, config["vocabulary"], Path(cache))
    samples: dict[str, LanguageSamples] = {}
    for name, places in chosen.items():
        documents = [source.documents[place] for place in places.tolist()]
        found, counts = rows_of.pieces(source.ids[places].tolist(), documents, tokenizer, config["max_length"])
        notes += [f"{name}: {count} {what} ({config['max_length']} tokens)" for what, count in counts.items()]
        pack = config["pack"] and name == "train"
        samples[name] = (
            rows_of.packed(found, config["max_length"], tokenizer.pad)
            if pack
            else rows_of.separate(found, tokenizer.pad)
        )
        if pack:
            share = samples[name].lengths.sum() / (len(samples[name]) * config["max_length"])
            notes.append(f"{len(found):,} pieces in {len(samples[name]):,} training rows, {share:.0%} full")
    if not len(samples["train"]):
        raise UserError(f"{source.name}: no training row has anything to predict", *notes[:2])
    spec = LanguageSpec(
        name=config["name"] or source.name,
        vocabulary=tokenizer.size,
        pad=tokenizer.pad,
        bos=tokenizer.start,
        eos=tokenizer.eos,
        sizes={name: len(rows) for name, rows in samples.items()},
        max_length=config["max_length"],
        tokenizer=tokenizer.sha256,
        chats=source.chats,
    )
    ids = {name: source.ids[places] for name, places in chosen.items()}
    return LanguageDataModule(source, tokenizer, spec, samples, notes, ids)
