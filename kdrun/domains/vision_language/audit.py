"""Look at conversations on images before anything is trained on them: what was left out, what splits share."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np

from kdrun.data.audit import most_of, repeated
from kdrun.data.text_keys import COMPARED
from kdrun.domains.vision_language.files import UNREAD
from kdrun.domains.vision_language.splits import conversation_key

FEW = 20
"""Samples of val or test below which the summary says so: less than that chooses an epoch, or judges one, by chance."""


def audit(module: Any) -> dict[str, Any]:
    """What was found, in JSON types:

    samples      per split
    images       per split, how many different ones; text_only: samples without any
    types        per split, samples of each type of question
    dropped      what the source left out, as it says it
    too_long     training samples that were left out since they have more than max_length tokens
    cut          per other split, samples whose text was cut for that; no_room: left out since their images do not fit
    removed      per split, samples left out because another split has one of their images (or their text, if they have none)
    shared       per pair of splits ("train/test"), images of the second that are also in the first
    shared_text  likewise, samples without images whose text is also in the first
    compared     what is left out of account where texts are called equal
    duplicates   per split, samples that equal an earlier one of it (images and text)
    unknown      per split, share of text tokens that the tokenizer does not know; None for a tokenizer without such
    lengths      per split, mean tokens of a sample with its image slots, and mean answer tokens (end tokens included)
    notes        what else is known of the training split (samples without answers)
    summary      one line
    """
    splits = list(module.chosen)
    images = {name: {image for s in module.chosen[name] for image in s.images} for name in splits}
    distinct = {name: {(s.images, conversation_key(s)) for s in module.chosen[name]} for name in splits}
    text = {name: [conversation_key(s) for s in module.chosen[name] if not s.images] for name in splits}
    shared = {f"{a}/{b}": len(images[a] & images[b]) for a, b in combinations(splits, 2) if images[a] & images[b]}
    both = {f"{a}/{b}": sum(map(set(text[a]).__contains__, text[b])) for a, b in combinations(splits, 2)}
    found = {
        "samples": {name: len(module.chosen[name]) for name in splits},
        "images": {name: len(images[name]) for name in splits},
        "text_only": {name: sum(not s.images for s in module.chosen[name]) for name in splits},
        "types": {name: dict(sorted(Counter(s.type for s in module.chosen[name]).items())) for name in splits},
        **{name: module.found[name] for name in ("dropped", "too_long", "cut", "no_room", "removed")},
        "shared": shared,
        "shared_text": {pair: count for pair, count in both.items() if count},
        "compared": COMPARED,
        "duplicates": {name: len(module.chosen[name]) - len(distinct[name]) for name in splits},
        "unknown": {name: _unknown(module, name) for name in splits},
        "lengths": {name: _lengths(module, name) for name in splits},
        "notes": list(module.found["notes"]),
    }
    return {**found, "summary": summary(found)}


def summary(found: dict[str, Any]) -> str:
    """`no image is in two splits; 12 removed from train for their images or text; left out: 3 too long`"""
    parts = [
        f"{count} images of {pair.partition('/')[2]} are also in {pair.partition('/')[0]}"
        for pair, count in found["shared"].items()
    ] or ["no image is in two splits"]
    for pair, count in found["shared_text"].items():
        parts.append(f"{count} samples of text in {pair.partition('/')[2]} are also in {pair.partition('/')[0]}")
    parts += [f"{count} removed from {name} for their images or text" for name, count in found["removed"].items()]
    if found["text_only"]["train"] == found["samples"]["train"] > 0:
        parts.append("no sample of train has an image")
    few = [f"{count} in {name}" for name in ("val", "test") if 0 < (count := found["samples"].get(name, 0)) < FEW]
    if few:
        parts.append(f"few samples: {', '.join(few)}")
    parts += repeated(found["duplicates"])
    left_out = [(name, value) for name, value in found["dropped"].items() if isinstance(value, int) and value]
    left_out += [("too long", found["too_long"])] if found["too_long"] else []
    if left_out:
        parts.append(f"left out: {most_of(left_out)}")
    if unread := found["dropped"].get(UNREAD):
        parts.append(f"{UNREAD}: {most_of(sorted(unread.items()), '{name} ({count})')}")
    parts += [f"{count} of {name} were cut" for name, count in found["cut"].items()]
    parts += [f"{count} of {name} have more images than fit" for name, count in found["no_room"].items()]
    unknown = {name: share for name, share in found["unknown"].items() if share and share >= 0.001}
    if unknown:
        parts.append("unknown words: " + ", ".join(f"{share:.1%} of {name}" for name, share in unknown.items()))
    return "; ".join([*parts, *found["notes"]])


def _unknown(module: Any, split: str) -> float | None:
    unk, tokens = module.encoder.tokenizer.unk, module.samples(split).tokens.flat
    return float((tokens == unk).mean()) if unk is not None and len(tokens) else None


def _lengths(module: Any, split: str) -> dict[str, float | None]:
    samples = module.samples(split)
    if not len(samples):
        return {"tokens": None, "answer": None}
    return {"tokens": float(np.mean(samples.lengths)), "answer": float(np.mean(samples.responses))}
