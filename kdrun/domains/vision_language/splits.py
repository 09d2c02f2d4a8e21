"""Which conversation is used for what: by image, so that no image is in two splits; text alone by its text. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.text_keys import pair_key
from kdrun.domains.vision_language.source import Conversations, Sample
from kdrun.problems import UserError

LARGE = 0.1
"""Share of all samples up to which images that belong together are taken out of training in one piece."""


def assign(conversations: Conversations, config: dict[str, Any]) -> tuple[dict[str, list[Sample]], dict[str, int]]:
    """(split -> its samples in the order of the source, how many were removed from which split for their images).

    config: val_fraction, test_fraction, split_seed, limit.
    Splits that the source brings stay as they are. Where it has training samples but none for test or for val, they are
    taken from those for training: an image, and with it all images that share a sample with it, belongs to a split by a
    random number of its own. So it belongs to the same one whatever other samples there are, and fractions are about met.
    Removed is from training what shares an image with val or a test set, and from val what does with a test set; of samples
    without images, what is the same conversation but for its spelling (text_keys.COMPARED).
    A source without training samples is for evaluation.
    """
    chosen = {name: list(samples) for name, samples in conversations.samples.items()}
    if not chosen["train"] and not any(chosen.values()):
        raise UserError(f"{conversations.name} has no samples")
    if chosen["train"]:
        for part in ("test", "val"):
            if not chosen[part]:
                option = f"{part}_fraction"
                chosen["train"], chosen[part] = _divided(
                    chosen["train"],
                    len(conversations.images),
                    config[option],
                    randomness.key(option, config["split_seed"]),
                )
                if not chosen["train"] or not chosen[part]:
                    raise UserError(
                        f"data.{option}={config[option]}: the {len(conversations.images)} images of "
                        f"{conversations.name} cannot be split",
                        "more images are needed, or a file of their own for val and test",
                    )
    removed = _remove(chosen, conversations.further)
    limits = {**config["limit"], **{name: config["limit"]["test"] for name in conversations.further}}
    for name, limit in limits.items():
        samples = chosen[name]
        if limit is not None and limit < len(samples):
            ids = np.array([sample.id for sample in samples], np.int64)
            order = randomness.order(randomness.key(f"limit.{name}", config["split_seed"]), ids)
            chosen[name] = [samples[position] for position in sorted(order[:limit].tolist())]
    return chosen, removed


def _divided(samples: list[Sample], images: int, fraction: float, key: int) -> tuple[list[Sample], list[Sample]]:
    """(the rest, the samples of about `fraction` of the groups; at least one).

    Samples of several images can connect nearly all there are. A group far larger than the fraction is not taken, unless
    all are: by one draw it would leave next to nothing for training.
    """
    groups = _groups(samples, images)
    # Text without images is on its own, or with the same text: negative numbers, which no image has.
    first: dict[tuple[str, ...], int] = {}
    for s in samples:
        if not s.images:
            first.setdefault(conversation_key(s), s.id)
    numbers = np.array(
        [groups[s.images[0]] if s.images else -1 - first[conversation_key(s)] for s in samples], np.int64
    )
    drawn = randomness.bits(key, numbers)
    _, member, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    small = sizes[member] <= max(2 * fraction, LARGE) * len(samples)
    small |= not small.any()
    taken = small & (drawn < np.uint64(int(fraction * 2.0**64)))
    if not taken.any():
        taken = drawn == drawn[small].min()
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, is_taken in zip(samples, taken.tolist(), strict=True):
        parts[is_taken].append(sample)
    return parts


def _groups(samples: Sequence[Sample], images: int) -> list[int]:
    """For every image the smallest number of those that it is connected with by samples of several."""
    parent = list(range(images))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for sample in samples:
        for other in sample.images[1:]:
            first, second = sorted((root(sample.images[0]), root(other)))
            parent[second] = first
    return [root(image) for image in range(images)]


def _remove(chosen: dict[str, list[Sample]], further: tuple[str, ...]) -> dict[str, int]:
    """Take out what shares an image, or is the same text, with a split that comes first: test sets, val, train."""
    taken: set[Any] = set()
    removed = {}
    for names in (("test", *further), ("val",), ("train",)):
        for name in names:
            kept = [sample for sample in chosen[name] if taken.isdisjoint(_owned(sample))]
            if name in ("val", "train") and len(kept) < len(chosen[name]):
                removed[name] = len(chosen[name]) - len(kept)
                chosen[name] = kept
        for name in names:
            taken.update(one for sample in chosen[name] for one in _owned(sample))
    return removed


def _owned(sample: Sample) -> Iterable[Any]:
    """What no other split may have: images, or where there are none the text."""
    return sample.images or (conversation_key(sample),)


def conversation_key(sample: Sample) -> tuple[str, ...]:
    """What conversations have in common that say the same."""
    return pair_key(text for turn in sample.turns for text in (turn.prompt, turn.answer))
