"""What a language model writes behind prompts of held-out documents, and how near that is to what stands there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdrun.domains.language.loader import LanguageSamples
from kdrun.networks.causal import until

ROUGE = ("rouge1", "rougeL")


@dataclass(frozen=True)
class Prompt:
    """number: of its row; ids: what is read; reference: ids of what stands behind it, without what ends it."""

    number: int
    ids: list[int]
    reference: list[int]


def prompts(samples: LanguageSamples, count: int, most: int, ends: frozenset[int]) -> list[Prompt]:
    """At most `count` rows of a split, evenly spread over it, each cut in two; references of at most `most` tokens.

    A text is cut in the middle; a chat before its last answer. What leaves no prompt or no reference is left out.
    """
    rows = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64))
    cut = []
    for row in rows.tolist():
        ids, place = samples.tokens[row].tolist(), boundary(samples, row)
        cut.append(Prompt(int(samples.ids[row]), ids[:place], until(ids[place : place + most], ends)))
    return [one for one in cut if one.ids and one.reference]


def boundary(samples: LanguageSamples, row: int) -> int:
    """The first token of a row that is not of its prompt."""
    counted = samples.bytes[row] >= 0
    begins = np.flatnonzero(counted & ~np.concatenate([[False], counted[:-1]]))
    answers = len(begins) > 1 or (len(begins) and begins[0] > 1)  # of a text all tokens but the first are predicted
    return int(begins[-1]) if answers else (len(counted) + 1) // 2


def scores(texts: Sequence[str], references: Sequence[str], lengths: Sequence[int]) -> dict[str, float]:
    """Of texts beside their references (means over them but distinct2); lengths: tokens of each text.

    exact_match  share that equal the reference, spaces and line breaks apart
    rouge1       F-score of words in common, their order aside; rougeL: of the longest common subsequence of words
                 (Lin 2004), of words in lower case in any script, by torchmetrics
    distinct2    different pairs of neighbouring words over all such pairs, of all texts together (Li et al. 2016,
                 arXiv 1510.03055); it falls where a network repeats itself. 0 without any pair
    generated_tokens  mean length
    """
    from torchmetrics.functional.text.rouge import rouge_score

    lists = [_words(text) for text in texts]
    pairs = [pair for words in lists for pair in itertools.pairwise(words)]
    told = rouge_score(list(texts), list(references), normalizer=str.lower, tokenizer=_words, rouge_keys=ROUGE)
    equal = [" ".join(one.split()) == " ".join(other.split()) for one, other in zip(texts, references, strict=True)]
    return {
        "exact_match": float(np.mean(equal)),
        **{name: float(told[f"{name}_fmeasure"]) for name in ROUGE},
        "distinct2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "generated_tokens": float(np.mean(lengths)),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def rows(chosen: Sequence[Prompt], texts: Sequence[str], decode: Any) -> list[dict[str, Any]]:
    """{"id", "prompt", "reference", "text"} of each, as people read them."""
    shown = zip(chosen, texts, strict=True)
    return [
        {"id": one.number, "prompt": decode(one.ids), "reference": decode(one.reference), "text": text}
        for one, text in shown
    ]
