"""A loaded set of texts with classes: split, tokenizer of its training texts, ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kdrun import kinds
from kdrun.data.array_module import ArrayModule
from kdrun.data.keeping import KEPT_AS, keep
from kdrun.data.ragged import Ragged
from kdrun.data.source import TEST, TRAIN, UNUSED, VAL
from kdrun.data.splits import assign, sizes_of
from kdrun.data.stored import Chosen, Followed
from kdrun.data.transfer import chosen, with_unlabelled
from kdrun.domains.text import tokens as tokenizers
from kdrun.domains.text.loader import TextLoader, TextSamples
from kdrun.domains.text.rows import spooled
from kdrun.domains.text.source import Texts
from kdrun.domains.text.spec import ClassifiedTextSpec, TextSpec
from kdrun.problems import UserError

NAMED = 5
"""Samples that a note names."""
DOMAIN = kinds.find("text_classification")


class TextDataModule(ArrayModule):
    """Texts with a split and a tokenizer.

    tokens, types  Ragged: ids of all texts of the source, and of pairs which text each is of
    tokenizer      see tokens.TextTokenizer
    """

    source: Texts
    spec: TextSpec
    domain = DOMAIN

    def __init__(
        self,
        source: Texts,
        split: np.ndarray,
        spec: TextSpec,
        tokenizer: tokenizers.TextTokenizer,
        tokens: Ragged,
        types: Ragged | None,
        labelled: np.ndarray | None = None,
    ):
        super().__init__(type(self).domain, source, split, spec, None, labelled)
        self.tokenizer, self.tokens, self.types = tokenizer, tokens, types

    def samples(self, split: str) -> TextSamples:
        """Ids, tokens and targets of a split; made when first asked for."""
        if split not in self._samples:
            rows, hidden = self.rows(split), split == "train" and self.labelled is not None
            self._samples[split] = TextSamples(
                self.source.ids[rows],
                self.tokens,
                self.types,
                self.targets[rows],
                self.spec.pad,
                self.labelled[rows] if hidden else None,
                rows,
            )
        return self._samples[split]

    def files_beside(self) -> dict[str, bytes]:
        """The tokenizer, which cuts texts and pads batches as the network was trained."""
        return {"tokenizer.json": self.tokenizer.content(self.spec.max_length)}

    def inputs(self, ids: Tensor, view: int = 0) -> dict[str, Tensor]:
        """Training texts by id (int64 [b]), in this order, padded to their longest. KeyError for an id that is not in training."""
        return self.samples("train").inputs(self.trained(ids).numpy())

    def _loader(self, batch_size: int, seed: int, rank: int, world: int) -> TextLoader:
        return TextLoader(self.samples("train"), batch_size, seed=seed, rank=rank, world=world)

    def eval_loader(self, split: str, batch_size: int, rank: int = 0, world: int = 1) -> TextLoader:
        """As of TokenModule."""
        return TextLoader(self.samples(self.with_targets(split)), batch_size, rank=rank, world=world)

    @classmethod
    def spec_of(cls, source: Texts, known: np.ndarray, **common: Any) -> TextSpec:
        """What networks know of the data. known: bool [N], the training samples with a label; common: fields that every spec of texts
        has."""
        return ClassifiedTextSpec(classes=source.classes, **common)


def text_module(
    texts: Texts, config: Mapping[str, Any], cache: str | Path, kind: type[TextDataModule] = TextDataModule
) -> TextDataModule:
    """The data module of texts. config: the keys that every data config has, and those of domain.Tokens.

    Raises UserError where nothing would be left to train on.
    """
    given = None if config["tokenizer"] is None else tokenizers.existing(config["tokenizer"])
    key = config.get(KEPT_AS)
    made = keep(
        cache, "rows", key and [*key, given and given.sha256], lambda: _made(texts, config, Path(cache), kind, given)
    )
    return kind(**{"tokenizer": given, **made})


def _made(
    texts: Texts,
    config: Mapping[str, Any],
    cache: Path,
    kind: type[TextDataModule],
    given: tokenizers.TextTokenizer | None,
) -> dict[str, Any]:
    """What takes passes over all texts: arguments of the module, "tokenizer" where it is not given."""
    split, notes = assign(texts, config), []
    if config["duplicates"] == "remove":
        split, notes = without_duplicates(texts, split)
        if not (split == TRAIN).any():
            raise UserError(
                f"{texts.name}: all training texts are also in val or test",
                "data.tokens.duplicates=keep leaves them in",
            )
    training = chosen(texts, split, config)
    # Of the data set itself, as its teachers have it.
    tokenizer = given or _trained(texts, training.split, config, cache)
    known = training.split == TRAIN if training.labelled is None else (training.split == TRAIN) & training.labelled
    labelled = training.source, known
    training = with_unlabelled(training, config["unlabelled"])
    source, split = training.source, training.split
    tokens, types, cut = tokenizer.encode(source.texts, source.seconds, config["max_length"], spooled(cache))
    if cut:
        where = _named(source, cut)
        notes.append(f"{len(cut)} of {len(source)} texts are cut to {config['max_length']} tokens{where}")
    source = replace(source, notes=(*source.notes, *notes))
    spec = kind.spec_of(
        *labelled,
        name=config["name"] or texts.name,
        vocabulary=tokenizer.size,
        pad=tokenizer.pad,
        sizes=sizes_of(source, split),
        max_length=config["max_length"],
        tokenizer=tokenizer.sha256,
        pairs=texts.pairs,
    )
    made = {"source": source, "split": split, "spec": spec, "tokens": tokens, "types": types}
    return {**made, "labelled": training.labelled, **({} if given else {"tokenizer": tokenizer})}


def without_duplicates(texts: Texts, split: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(split without training texts that are also in val or test, and without val texts that are in test; what was left out)."""
    split, notes = split.copy(), []
    for part, name, others in ((VAL, "val", (TEST,)), (TRAIN, "training", (VAL, TEST))):
        held_out = {row.tobytes() for row in texts.x[np.isin(split, others)]}
        rows = np.flatnonzero(split == part)
        twice = rows[np.fromiter((texts.x[row].tobytes() in held_out for row in rows), bool, len(rows))]
        split[twice] = UNUSED
        if len(twice):
            notes.append(
                f"{len(twice)} {name} texts left out: they are also in {'val or test' if part == TRAIN else 'test'}"
            )
    return split, notes


def _named(source: Texts, positions: list[int]) -> str:
    """Where the first of these samples are, for sources that say it."""
    if source.places is None:
        return ""
    known = [source.places[position] for position in positions[:NAMED] if source.places[position]]
    return f": {', '.join(known)}{' ...' if len(positions) > len(known) else ''}" if known else ""


def _trained(texts: Texts, split: np.ndarray, config: Mapping[str, Any], cache: Path) -> tokenizers.TextTokenizer:
    rows = np.flatnonzero(split == TRAIN)
    read = Followed(*(Chosen(column, rows) for column in (texts.texts, texts.seconds) if column is not None))
    return tokenizers.trained(read, config["vocabulary"], cache)
