"""Look at a parallel corpus before anything is trained on it: what was left out, what splits share, how it is covered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from kdrun.data.audit import most_of, repeated
from kdrun.data.languages import UNSPACED, language_of, units, unspaced_share
from kdrun.data.text_keys import COMPARED, near_key, pair_key

MOST_WORDS = 2_000_000
"""Target words of training above which near-duplicates are not looked for."""

_WORDS = re.compile(r"[^\W\d_]+|\d+")


def audit(module: Any) -> dict[str, Any]:
    """What was found, in JSON types:

    samples     pairs per split
    dropped     pairs that are in no split, by reason ("too long": more tokens than max_length, in training)
    removed     per split, pairs left out because another split has them (see text_splits)
    compared    what is left out of account where pairs are called equal
    duplicates  per split, pairs that equal an earlier one of it
    shared      per pair of splits ("train/test"), pairs of the second that are also in the first
    spelled     of those, how many are spelled otherwise there (only where there are any)
    cut         per split, pairs, sources and targets that were cut to max_length
    copied      per split, share of pairs whose target is the source
    near        per test set and val, share of targets that a training target equals without case, digits and
                punctuation ("normalised"), or from which it differs in a single word ("one_word"); None for large sets
    unknown     per split and side, share of tokens that are unk
    bytes       per split and side, share of tokens that are single bytes of what the vocabulary lacks
    lengths     per split and side, mean words and tokens (eos included); of a side whose script puts no blanks between
                words its mean characters are called words here, too
    notes       what else is known of the training split (sentences without translation)
    summary     one line
    """
    texts = {name: list(zip(module.sources(name), module.references(name), strict=True)) for name in module.rows_of}
    keys = {name: list(map(pair_key, pairs)) for name, pairs in texts.items()}
    counted = {name: set(found) for name, found in keys.items()}
    shared, spelled = {}, {}
    for first, second in combinations(texts, 2):
        there = [pair for key, pair in zip(keys[second], texts[second], strict=True) if key in counted[first]]
        if there:
            alike = set(texts[first])
            shared[f"{first}/{second}"] = len(there)
            spelled[f"{first}/{second}"] = sum(pair not in alike for pair in there)
    found = {
        "samples": {name: len(pairs) for name, pairs in texts.items()},
        "dropped": dict(module.found["dropped"]),
        "removed": dict(module.found["removed"]),
        "duplicates": {name: len(texts[name]) - len(counted[name]) for name in texts},
        "shared": shared,
        "compared": COMPARED,
        "spelled": {pair: count for pair, count in spelled.items() if count},
        "cut": dict(module.found["cut"]),
        "copied": {name: _share(source == target for source, target in pairs) for name, pairs in texts.items()},
        "near": _near(module),
        "unknown": {name: _tokens(module, name, {module.spec.unk}) for name in texts},
        "bytes": {name: _tokens(module, name, module.tokenizer.byte_ids) for name in texts},
        "lengths": {name: _lengths(module, name) for name in texts},
        "notes": list(module.found["notes"]),
    }
    return {**found, "summary": summary(found)}


def summary(found: dict[str, Any]) -> str:
    """`no pair is in two splits; 12 removed from train that val or test have; left out: 3 empty, 5 too long`"""
    parts = []
    for pair, count in found["shared"].items():
        first, _, second = pair.partition("/")
        otherwise = found["spelled"].get(pair)
        told = f" ({otherwise} of them spelled otherwise)" if otherwise else ""
        parts.append(f"{count} pairs of {second} are also in {first}{told}")
    parts = parts or ["no pair is in two splits"]
    for name, count in found["removed"].items():
        parts.append(f"{count} removed from {name} that {'val or test have' if name == 'train' else 'test has'}")
    near = (found["near"] or {}).get("test")
    if near and near["one_word"] is not None:
        parts.append(f"{near['one_word']:.0%} of test are one word away from training")
    parts += repeated(found["duplicates"])
    if found["dropped"]:
        parts.append(f"left out: {most_of(found['dropped'].items())}")
    for name, cut in found["cut"].items():
        parts.append(f"{cut['source']} sources and {cut['target']} targets of {name} were cut")
    parts += found["notes"]
    return "; ".join(parts)


def _share(values: Iterator[bool]) -> float | None:
    flags = list(values)
    return sum(flags) / len(flags) if flags else None


def _tokens(module: Any, split: str, ids: set[int] | frozenset[int]) -> dict[str, float | None]:
    """Share of tokens, per side, that are among `ids`."""
    samples = module.samples(split)
    return {
        side: float(np.isin(tokens.flat, list(ids)).mean()) if len(tokens.flat) else None
        for side, tokens in (("source", samples.source), ("target", samples.target))
    }


def _unspaced(module: Any, side: str) -> bool:
    """Whether a side is in a script that puts no blanks between words, so that characters are counted."""
    language = module.spec.languages[0 if side == "source" else 1]
    texts = module.sources("val") if side == "source" else module.references("val")
    return language_of(language) in UNSPACED or unspaced_share(texts) > 0.5


def _lengths(module: Any, split: str) -> dict[str, float | None]:
    samples, found = module.samples(split), {}
    sides = (("source", samples.source, module.sources(split)), ("target", samples.target, module.references(split)))
    for side, tokens, texts in sides:
        count, unspaced = len(texts), _unspaced(module, side)
        words = (units(text, True) if unspaced else len(text.split()) for text in texts)
        found[f"{side}_words"] = sum(words) / count if count else None
        found[f"{side}_tokens"] = float(tokens.lengths().mean()) if count else None
    return found


def _near(module: Any) -> dict[str, dict[str, float | None]] | None:
    """See `audit`. Only what the small splits have is held in memory; training goes by once."""
    training, unspaced = module.references("train"), _unspaced(module, "target")
    if sum(units(text, unspaced) for text in training) > MOST_WORDS:
        return None
    normal = {near_key(text) for text in training}
    words = {tuple(_words(text, unspaced)) for text in training}
    masked = {key for sentence in words for key in _one_left_out(sentence)}
    found = {}
    for name in ("val", "test", *module.extra_tests):
        texts = module.references(name)
        found[name] = {
            "normalised": _share(near_key(text) in normal for text in texts),
            "one_word": _share(not masked.isdisjoint(_one_left_out(tuple(_words(text, unspaced)))) for text in texts),
        }
    return found


def _words(text: str, unspaced: bool) -> list[str]:
    words = [word.lower() for word in _WORDS.findall(text)]
    return list("".join(words)) if unspaced else words


def _one_left_out(words: tuple[str, ...]) -> Iterator[int]:
    """Hashes of the sentence with each word masked in turn: two sentences share one if at most one word differs.

    Sentences of fewer than three words say nothing.
    """
    if len(words) >= 3:
        for place in range(len(words)):
            yield hash((words[:place], words[place + 1 :]))
