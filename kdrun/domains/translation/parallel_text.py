"""Your own translations: two files of lines, or a TSV, TMX or PO file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrun.data.languages import UNSPACED, language_of, units, unspaced_share
from kdrun.data.source import SPLITS
from kdrun.data.text_keys import blank
from kdrun.domains.translation.files import read_pair
from kdrun.domains.translation.source import Pairs
from kdrun.problems import UserError

TARGETS = ("parallel_text",)


def parallel_text(
    source: str | Path,
    target: str | Path | None = None,
    source_language: str = "de",
    target_language: str = "en",
    val_source: str | Path | None = None,
    val_target: str | Path | None = None,
    test_source: str | Path | None = None,
    test_target: str | Path | None = None,
    lowercase: bool = False,
    min_words: int = 1,
    max_words: int | None = None,
    max_ratio: float | None = None,
    columns: list | None = None,
    msgstr_language: str | None = None,
) -> Pairs:
    """Pairs of lines (or of entries of a TMX or PO file) with an id that is their position in the files.

    source, target      two files of lines, one sentence each; or one file that ends with .tsv, .tmx or .po as source
    val_*, test_*       likewise; without them validation and test are taken from the pairs, in whole groups of those
                        whose target differs only in case, digits or punctuation
    lowercase           small letters on both sides
    min_words, max_words, max_ratio
                        training pairs with a side of fewer or more words, or with more than so many times the words of
                        the other side, are left out. A side whose script puts no blank between words is counted in
                        characters, and for the ratio in so many as a word of the other side has on average
    columns             source and target of TSV files, as numbers from 1 or as names in the first line; None: those
                        that the first line calls by their languages, else the first two
    msgstr_language     of PO files that do not say it

    A pair with an empty side is left out of every split. What is left out is counted.
    """
    files = {
        "train": (source, target),
        "val": (val_source, val_target),
        "test": (test_source, test_target),
    }
    languages = (source_language, target_language)
    parts = {}
    for part, (first, second) in files.items():
        if first is None and second is not None:
            raise UserError(f"data.{part}_target={second} has no data.{part}_source")
        if first is not None:
            parts[part] = read_pair(first, second, languages, columns, msgstr_language)
    clean = Cleaning(min_words, max_words, max_ratio, lowercase)
    return assembled("parallel_text", languages, parts, clean)


parallel_text.reads = tuple(f"{part}{side}" for part in ("", "val_", "test_") for side in ("source", "target"))


class Cleaning:
    """What is done to lines: the steps that fairseq's preparation takes from Moses' clean-corpus-n."""

    def __init__(self, min_words: int, max_words: int | None, max_ratio: float | None, lowercase: bool):
        if max_words is not None and max_words < min_words:
            raise UserError(f"data.max_words={max_words} is less than data.min_words={min_words}")
        if max_ratio is not None and max_ratio < 1:
            raise UserError(f"data.max_ratio={max_ratio}: 1 or more")
        self.min_words, self.max_words, self.max_ratio, self.lowercase = min_words, max_words, max_ratio, lowercase

    def line(self, text: str) -> str:
        """One space between words, no control characters at the ends."""
        text = " ".join(text.split())
        return text.lower() if self.lowercase else text

    def refusal(self, source: str, target: str, lengths: Lengths | None = None) -> str | None:
        """Why a pair is not for training, in a word; None where it is."""
        lengths = lengths or Lengths()
        counts = [units(source, lengths.unspaced[0]), units(target, lengths.unspaced[1])]
        if min(counts) < self.min_words:
            return "short"
        if self.max_words is not None and max(counts) > self.max_words:
            return "long"
        fewer, more = sorted(count / mean for count, mean in zip(counts, lengths.mean, strict=True))
        if self.max_ratio is not None and more > self.max_ratio * fewer:
            return "ratio"
        return None


@dataclass(frozen=True)
class Lengths:
    """How the two sides of a corpus are counted (see languages.units).

    unspaced  whether a side is counted in characters
    mean      what lengths are divided by before they are compared: of words nothing; where a side is in characters, the
              mean length of each, so that a ratio of 1 is the usual one
    """

    unspaced: tuple[bool, bool] = (False, False)
    mean: tuple[float, float] = (1, 1)

    @classmethod
    def of(cls, languages: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> Lengths:
        unspaced = tuple(
            language_of(language) in UNSPACED or unspaced_share(pair[side] for pair in pairs) > 0.5
            for side, language in enumerate(languages)
        )
        if not any(unspaced):
            return cls()
        totals, count = [0, 0], 0
        for pair in pairs:
            texts = [" ".join(text.split()) for text in pair]
            if all(texts):
                count += 1
                for side, text in enumerate(texts):
                    totals[side] += units(text, unspaced[side])
        return cls(unspaced, (totals[0] / count, totals[1] / count) if count else (1, 1))


def assembled(
    name: str,
    languages: tuple[str, str],
    parts: dict[str, tuple[Sequence[tuple[str, str]], dict[str, int]]],
    clean: Cleaning,
) -> Pairs:
    """The splits of `parts` (train, val, test) in one. Ids go on from one split to the next, left-out pairs included."""
    source: list[str] = []
    target: list[str] = []
    split: list[int] = []
    ids: list[int] = []
    dropped: Counter[str] = Counter()
    lengths = Lengths.of(languages, parts["train"][0])
    first = 0
    for part, (pairs, left_out) in parts.items():
        dropped.update(left_out)
        for position, pair in enumerate(pairs, first):
            its_source, its_target = map(clean.line, pair)
            reason = None
            if blank(its_source) or blank(its_target):
                reason = "empty"
            elif part == "train":
                reason = clean.refusal(its_source, its_target, lengths)
            if reason:
                dropped[reason] += 1
                continue
            source.append(its_source)
            target.append(its_target)
            split.append(SPLITS[part])
            ids.append(position)
        first += len(pairs)
        if SPLITS[part] not in split[-1:]:
            raise UserError(f"{name}: no pair is left for {part} of {len(pairs)}; left out: {dict(dropped)}")
    return Pairs(
        name=name,
        languages=languages,
        source=source,
        target=target,
        split=np.array(split, np.int8),
        ids=np.array(ids, np.int64),
        dropped=dict(dropped),
        lowercase=clean.lowercase,
    )
