"""Loaded documents: split, tokenizer, rows of tokens."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun import kinds
from kdrun.data.keeping import KEPT_AS, keep
from kdrun.data.module import TOP, BatchView, TokenModule
from kdrun.data.source import SPLITS, TEST, TRAIN, parts_hash
from kdrun.data.splits import assign
from kdrun.data.stored import Chosen
from kdrun.data.transfer import Training, chosen, with_unlabelled
from kdrun.domains.language import general, kept_rows
from kdrun.domains.language import rows as rows_of
from kdrun.domains.language import tokens as tokenizers
from kdrun.domains.language.loader import LanguageLoader, LanguageSamples
from kdrun.domains.language.prompts import answered, prompts
from kdrun.domains.language.source import Documents, Pictures
from kdrun.domains.language.spec import LanguageSpec
from kdrun.domains.language.templates import Templates, prompted
from kdrun.domains.text.module import without_duplicates
from kdrun.problems import UserError

DOMAIN = kinds.find("causal_lm")
MASK = 1 << 34
"""Bytes of what says which tokens of a packed row see each other (a byte for each pair), above which it is refused."""
STUDENT_PROMPT = "student_prompt"
"""Of a module with prompts of its own: the further test set of test behind the prompts that students read."""


class LanguageDataModule(TokenModule):
    """Documents with a split and a tokenizer.

    source     their documents; documents: split -> their ids
    tokenizer  see tokens
    samples    split -> its rows
    notes      what was found in making them
    written    prompts of each test set that networks go on with, and how many tokens at most
    templates  what prompts of its documents were written by, where they are not those of the source
    """

    preflight_batch = 32
    cached_by = TOP
    aligned_by = "teacher_spans"
    DOMAIN, SPEC = DOMAIN, LanguageSpec
    LOADER = LanguageLoader

    def __init__(
        self,
        source: Documents,
        tokenizer: Any,
        spec: LanguageSpec,
        samples: dict[str, LanguageSamples],
        notes: list[str],
        documents: Mapping[str, np.ndarray],
        written: tuple[int, int] = (0, 1),
        templates: Templates | None = None,
    ):
        super().__init__(self.DOMAIN, spec, samples, tokenizer, batch_size=32, eval_batch_size=32)
        self.source, self.tokenizer, self.found, self.documents = source, tokenizer, notes, documents
        self.written, self.templates = written, templates

    def inputs(self, ids: Tensor, view: int = 0) -> dict[str, Any]:
        """The batch of these training rows, in this order."""
        return self.samples("train").batch(self.trained(ids).numpy())

    def relabelled(self, rows: list[dict[str, Any]]) -> LanguageDataModule:
        """Training rows in which behind the prompts of documents stand these tokens; documents and rows without any are left out."""
        train, tokens = self.samples("train"), {row["id"]: row["tokens"] for row in rows}
        kept = np.array([place for place, number in enumerate(train.ids.tolist()) if number in tokens], np.int64)
        begun = prompts(train, kept, rows[0]["prompt"], self.spec.chats)
        answers = [tokens[int(train.ids[place])] for place in kept]
        samples = answered(train, kept, begun, answers, learn_prompts=True)
        spec = replace(self.spec, sizes={**self.spec.sizes, "train": len(samples)})
        split = {**self._samples, "train": samples}
        return type(self)(self.source, self.tokenizer, spec, split, self.found, self.documents, self.written)

    @property
    def extra_tests(self) -> tuple[str, ...]:
        return (*self.source.further, *(() if self.templates is None else (STUDENT_PROMPT,)), *self.before)

    @property
    def before(self) -> tuple[str, ...]:
        return (general.NAME,) if general.NAME in self._samples else ()

    def lengths(self, ids: Tensor) -> Tensor:
        """int64 [b]: positions of training rows by id."""
        return torch.from_numpy(self.samples("train").lengths[self.trained(ids).numpy()] - 1)

    def identified(self, split: str) -> tuple[Tensor, Tensor]:
        """(ids of documents, zeros): how they are cut is not the same for all tokenizers."""
        ids = self.identities(split)
        return ids, torch.zeros_like(ids)

    def identities(self, split: str) -> Tensor:
        return torch.from_numpy(self.documents[split])

    def view_of(self, learned: LanguageDataModule) -> BatchView:
        """See DataModule; of the same tokenizer, the rows of `learned` as they are."""
        from kdrun.domains.language.prompted import OtherPrompt
        from kdrun.domains.language.retokenized import Retokenized, SameTokens

        if not self.tokenizer.alike(learned.tokenizer):
            return Retokenized(self, learned)
        return OtherPrompt(self, learned) if self.templates != learned.templates else SameTokens(self)

    def files_beside(self) -> dict[str, bytes]:
        """The tokenizer with its chat template, as transformers reads it."""
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.made.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}

    def audit(self) -> dict[str, Any]:
        notes = [*self.source.notes, *self.found]
        return {"samples": dict(self.spec.sizes), "notes": notes, "summary": "; ".join(notes)}


def _with_pool(training: Training, other: Documents | None) -> Training:
    """With the documents of data.unlabelled. UserError where these are chats and those of the data texts, or the other way round."""
    if other is not None and other.chats != training.source.chats:
        forms = ("chats" if one.chats else "texts" for one in (other, training.source))
        raise UserError(f"data.unlabelled={other.name}: it has {next(forms)}, {training.source.name} has {next(forms)}")
    return with_unlabelled(training, other)


def _rows(
    source: Documents,
    places: np.ndarray,
    tokenizer: Any,
    config: Mapping[str, Any],
    told: tuple[str, list[str]],
    cache: Path,
) -> LanguageSamples:
    """The rows of the documents at these places. told: (split, notes on what was cut, which are added to). cache: folder in which rows of
    large splits are kept (see kept_rows)."""
    (split, notes), most = told, config["max_length"]
    documents, numbers = Chosen(source.documents, places), source.ids[places]
    pack = bool(config["pack"]) and split == "train"

    def make(folder: Path | None) -> tuple[LanguageSamples, list[str]]:
        found, counts = rows_of.pieces(map(int, numbers), documents, tokenizer, most)
        made = (
            rows_of.packed(found, most, tokenizer.pad, folder)
            if pack
            else rows_of.separate(found, tokenizer.pad, folder)
        )
        cut = [f"{counts[what]} {what} ({most} tokens)" for what in rows_of.COUNTED if counts[what]]
        if not pack:
            return made, cut
        longest = int(made.lengths.max(initial=0))
        if longest**2 > MASK:
            raise UserError(
                f"data.language.max_length={most}: a packed row of {longest:,} tokens is too long: which of them see each other takes "
                f"{longest**2 / 1e9:.0f} GB",
                f"data.language.max_length={math.isqrt(MASK)} at most, or data.language.pack=false",
            )
        share, count = made.lengths.sum() / max(len(made) * most, 1), len(made.origins.document)
        if len(made) == 1 < count:
            whole = (
                f"data.language.max_length={most} is more than all documents together ({int(made.lengths[0]):,} tokens)"
            )
            cut.append(
                f"{whole}: they are one row, which a step learns from as a whole; give the length of one document"
            )
        return made, [*cut, f"{count:,} pieces in {len(made):,} rows, {share:.0%} full"]

    key = [parts_hash(numbers), tokenizer.content, most, pack]
    made, said = kept_rows.kept(cache, documents, key, make)
    notes += [f"{split}: {note}" for note in said]
    return made


def language_module(
    source: Documents, config: Mapping[str, Any], cache: str | Path, kind: type[LanguageDataModule] = LanguageDataModule
) -> LanguageDataModule:
    """The data module of documents. config: the keys that every data config has, and those of domain.LanguageConfig; kind: its class.

    Validation and test are never packed: each of their rows is of one document, and scores do not depend on `pack`.
    Raises UserError where nothing would be left to train on.
    """
    given = None if config["tokenizer"] is None else tokenizers.existing(config["tokenizer"])
    templates, key = Templates.of(config), config.get(KEPT_AS)
    made = keep(
        cache,
        "rows",
        None if config.get("texts") else key and [*key, given and given.content],
        lambda: _made(source, config, Path(cache), given),
    )
    tokenizer, samples = given or made["tokenizer"], made["samples"]
    spec = kind.SPEC(
        name=config["name"] or source.name,
        vocabulary=tokenizer.size,
        pad=tokenizer.pad,
        bos=tokenizer.start,
        eos=tokenizer.eos,
        sizes={name: len(rows) for name, rows in samples.items()},
        max_length=config["max_length"],
        tokenizer=tokenizer.sha256,
        chats=source.chats,
        image_size=source.pictures and source.pictures.size,
    )
    if source.pictures is not None:
        check_pictures(source, config)
        for name in samples.keys() - {general.NAME}:
            samples[name].pictures = partial(beside, source.pictures)
    written = config["prompts"], config["max_new"]
    return kind(made["source"], tokenizer, spec, samples, made["notes"], made["ids"], written, templates)


def check_pictures(source: Documents, config: Mapping[str, Any]) -> None:
    """UserError for what documents with pictures cannot be: several in a row, or beside others without."""
    if config["pack"]:
        raise UserError(
            f"data.language.pack=true: documents of {source.name} have a picture each, and a row has one",
            "data.language.pack=false",
        )
    if config["unlabelled"]:
        raise UserError(f"data.unlabelled: its documents have no pictures, those of {source.name} have")


def beside(pictures: Pictures, ids: np.ndarray) -> Tensor:
    """float32 [n, 3, size, size], -1 to 1: what rows with these ids (int64 [n]) have beside them."""
    return torch.from_numpy(pictures.pixels(ids // rows_of.PIECES)).float() / 127.5 - 1


def _made(
    source: Documents, config: Mapping[str, Any], cache: Path, given: tokenizers.LanguageTokenizer | None
) -> dict[str, Any]:
    """What takes passes over all documents: "source" as it is used, "tokenizer" (None where it is given), "samples" of each split, "ids" of
    its documents, "notes"."""
    split, notes = assign(source, dict(config)), []
    if config["duplicates"] == "remove":
        split, notes = without_duplicates(source, split)
    if not (split == TRAIN).any():
        raise UserError(
            f"{source.name}: no document is left for training", "data.language.duplicates=keep leaves all in"
        )
    training = chosen(source, split, config)
    tokenizer = given
    if tokenizer is None:  # of the data set itself, as its teachers have it
        read = Chosen(source.documents, np.flatnonzero(training.split == TRAIN))
        tokenizer = tokenizers.trained(read, config["vocabulary"], cache)
    training = _with_pool(training, config["unlabelled"])
    source = prompted(training.source, Templates.of(config))
    samples: dict[str, LanguageSamples] = {}
    for name, part in SPLITS.items():
        places = np.flatnonzero(training.split == part)
        known = None if training.labelled is None or name != "train" else training.labelled[places]
        kinds_of = [places] if known is None else [places[known], places[~known]]
        rows = [_rows(source, some, tokenizer, config, (name, notes), cache) for some in kinds_of]
        samples[name] = rows[0] if len(rows) == 1 else LanguageSamples.of_kinds(*rows)
    for name, places in source.further.items():
        samples[name] = _rows(source, places, tokenizer, config, (name, notes), cache)
    if not len(samples["train"]):
        raise UserError(f"{source.name}: no training row has anything to predict", *notes[:2])
    ids = {name: source.ids[training.split == part] for name, part in SPLITS.items()}
    ids |= {name: source.ids[places] for name, places in source.further.items()}
    if Templates.of(config) is not None:
        places = np.flatnonzero(training.split == TEST)
        samples[STUDENT_PROMPT] = _rows(training.source, places, tokenizer, config, (STUDENT_PROMPT, notes), cache)
        ids[STUDENT_PROMPT] = source.ids[places]
    if config.get("texts"):
        texts = general.general_texts(config["texts"], cache)
        samples[general.NAME] = _rows(texts, np.arange(len(texts)), tokenizer, config, (general.NAME, notes), cache)
        ids[general.NAME] = texts.ids
    made = {"source": source, "samples": samples, "ids": ids, "notes": notes}
    return {**made, "tokenizer": None if given else tokenizer}
