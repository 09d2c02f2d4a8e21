"""From sentence pairs to a data module: split, tokenizer of the training split, ids. torch only where tensors are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun.data import tokenizer as tokenizers
from kdrun.data.keeping import KEPT_AS, keep
from kdrun.data.ragged import Ragged
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.spec import TextSpec
from kdrun.domains.translation.splits import assign
from kdrun.domains.translation.transfer import known_text, transferred
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.domains.translation.loader import TextSamples
    from kdrun.domains.translation.module import TextDataModule

BLOCK = 100_000
"""Sentences that are encoded at a time: lists of ids take far more memory than arrays."""


def text_module(pairs: Pairs, common: dict[str, Any], cache: str | Path) -> TextDataModule:
    """The data module of sentence pairs.

    common: the keys of domain.Text (which says what they are for) and of load.COMMON, all present. Pairs of more than `max_length`
    tokens, eos included, are left out of training, and elsewhere cut.
    Raises UserError where nothing would be left to train on.
    """
    from kdrun.domains.translation.module import TextDataModule

    if common["duplicates"] not in ("remove", "keep"):
        raise UserError(f"data.text.duplicates={common['duplicates']}: remove or keep")
    if common["max_length"] < 2:
        raise UserError(
            f"data.text.max_length={common['max_length']}: at least 2, since every sentence has an end token"
        )
    given = None if common["tokenizer"] is None else tokenizers.existing(common["tokenizer"])
    key = common.get(KEPT_AS)
    made = keep(cache, "rows", key and [*key, given and given.sha256], lambda: _made(pairs, common, Path(cache), given))
    pairs, tokenizer, samples, rows = made["pairs"], given or made["tokenizer"], made["samples"], made["rows"]
    spec = TextSpec(
        name=common["name"] or pairs.name,
        languages=pairs.languages,
        # of one that is trained here as wide as matrix units like; the pieces beyond are never used
        vocabulary=tokenizer.size if given else -(-tokenizer.size // 8) * 8,
        pad=tokenizer.pad,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        unk=tokenizer.unk,
        sizes={name: len(chosen) for name, chosen in rows.items()},
        max_length=common["max_length"],
        tokenizer=tokenizer.sha256,
        bleu=common["bleu"],
    )
    return TextDataModule(pairs, rows, tokenizer, spec, samples, made["found"])


def _made(pairs: Pairs, common: dict[str, Any], cache: Path, given: tokenizers.Tokenizer | None) -> dict[str, Any]:
    """What takes passes over all pairs: "pairs" as they are used, "tokenizer" (None where it is given), "rows" and "samples" of each split,
    "found"."""
    split, removed = assign(pairs, common)
    known, split = transferred(pairs, split, common)
    pairs = known.pairs
    rows = {name: np.flatnonzero(split == number) for name, number in pairs.splits.items()}
    if not len(rows["train"]):
        gone = f": {removed['train']} are in val or test as well, or share a sentence with them" if removed else ""
        raise UserError(
            f"{pairs.name}: no pair is left for training{gone}",
            *(["data.text.duplicates=keep leaves them in training, and counts them"] if removed else []),
        )
    tokenizer = given
    if tokenizer is None:
        texts = known_text(pairs, rows["train"].tolist(), known.hidden)
        tokenizer = tokenizers.trained(texts, common["vocabulary"], cache)
    samples, too_long, cut = {}, 0, {}
    for name, chosen in rows.items():
        samples[name], rows[name], over = _encoded(pairs, chosen, tokenizer, common["max_length"], name == "train")
        if name == "train":
            too_long = over["pairs"]
            samples[name].labelled = known.labelled(rows[name])
        elif over["pairs"]:
            cut[name] = over
    if not len(rows["train"]):
        raise UserError(
            f"{pairs.name}: no pair is left for training"
            + (f"; {too_long} are longer than data.text.max_length={common['max_length']} tokens" if too_long else "")
        )
    found = {
        "dropped": {**pairs.dropped, **({"too long": too_long} if too_long else {})},
        "removed": removed,
        "cut": cut,
        "notes": known.notes,
    }
    made = {"pairs": pairs, "rows": rows, "samples": samples, "found": found}
    return {**made, "tokenizer": None if given else tokenizer}


def _encoded(
    pairs: Pairs, rows: np.ndarray, tokenizer: tokenizers.Tokenizer, most: int, leave_out: bool
) -> tuple[TextSamples, np.ndarray, dict[str, int]]:
    """(ids of tokens, the rows that are left, how many pairs, sources and targets were longer than `most`)."""
    from kdrun.domains.translation.loader import TextSamples

    source = _ids(tokenizer, pairs.source, rows, "source")
    target = _ids(tokenizer, pairs.target, rows, "target")
    long = {"source": source.lengths() > most, "target": target.lengths() > most}
    either = long["source"] | long["target"]
    over = {"pairs": int(either.sum()), **{side: int(found.sum()) for side, found in long.items()}}
    if either.any():
        kept = np.flatnonzero(~either) if leave_out else np.arange(len(rows))
        source, target = (side.cut(kept, most, tokenizer.eos) for side in (source, target))
        rows = rows[kept]
    return TextSamples(pairs.ids[rows], source, target, tokenizer.pad, tokenizer.bos), rows, over


def _ids(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], rows: np.ndarray, side: str) -> Ragged:
    return Ragged.joined(
        [
            Ragged.of(tokenizer.encode([texts[row] for row in rows[first : first + BLOCK].tolist()], side))
            for first in range(0, max(len(rows), 1), BLOCK)
        ]
    )
