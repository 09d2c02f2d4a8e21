"""Questions without answers: hidden ones (`data.labelled`) and further pictures and questions (`data.unlabelled`)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data import folders, randomness
from kdrun.data.pictures import SUFFIXES
from kdrun.data.transfer import FURTHER_IDS, keep_labels_of_texts
from kdrun.domains.vision_language.files import look_at
from kdrun.domains.vision_language.source import Conversations, ImageStore, JoinedImages, Sample, Turn
from kdrun.domains.vision_language.splits import conversation_key
from kdrun.problems import UserError

TARGETS = ("unlabelled_pictures",)

FURTHER = FURTHER_IDS << 10
"""Added to ids of `data.unlabelled`: ids of conversations are the number of their file, below 2^10, times 2^40 (files.SHIFT)."""
BLOCK = 256
"""Pictures that are looked at together."""


def hidden(sample: Sample) -> Sample:
    """The sample as far as its first question: no answer is left, neither its own nor one that a later question follows."""
    return replace(sample, turns=(replace(sample.turns[0], answer=""),), answers=())


def transferred(
    chosen: dict[str, list[Sample]], conversations: Conversations, config: dict[str, Any]
) -> tuple[dict[str, list[Sample]], frozenset[int] | None, list[str]]:
    """(split -> samples, of which training has no answers that are hidden and `data.unlabelled` behind it; ids of training samples with
    an answer, None where all have one; notes). Pictures of `data.unlabelled` are those behind conversations.images (see `joined`)."""
    train, notes = chosen["train"], []
    ids = np.array([sample.id for sample in train], np.int64)
    kept = keep_labels_of_texts(ids, [sample.type for sample in train], config, conversations.name)
    other = config["unlabelled"]
    if kept is None and other is None:
        return chosen, None, []
    known = frozenset(ids.tolist() if kept is None else ids[kept].tolist())
    if kept is not None:
        notes.append(f"{len(known)} of {len(train)} training samples have answers")
        train = [sample if sample.id in known else hidden(sample) for sample in train]
    if other is not None:
        held_out = [sample for name, samples in chosen.items() if name != "train" for sample in samples]
        more, dropped = _further(conversations, held_out, other)
        notes.append(f"{len(more)} samples without answers from {other.name}")
        notes += (
            [f"{dropped} of {other.name} left out: their pictures or texts are also in validation or test"]
            if dropped
            else []
        )
        train = [*train, *more]
    return {**chosen, "train": train}, known, notes


def labelled_of(ids: Any, known: frozenset[int] | None) -> Any:
    """bool [n], a tensor: whether samples (ids int64 [n]) have answers; None where all have. known: ids of those that do."""
    import torch

    return None if known is None else torch.tensor([number in known for number in ids.tolist()], dtype=torch.bool)


def joined(images: ImageStore, other: Conversations | None) -> ImageStore:
    """The pictures of both. UserError where they are of two sizes."""
    if other is None:
        return images
    if other.images.size != images.size:
        raise UserError(
            f"data.unlabelled={other.name}: its pictures are of {other.images.size} pixels, those of the data of {images.size}",
            f"data.unlabelled.size={images.size}, where it has such a key",
        )
    return JoinedImages([images, other.images])


def _further(
    conversations: Conversations, held_out: Sequence[Sample], other: Conversations
) -> tuple[list[Sample], int]:
    """(training samples of `other` without answers, how many were left out for what is also held out)."""
    digests = set(_digests(conversations.images, {image for sample in held_out for image in sample.images}).values())
    texts = {conversation_key(hidden(sample)) for sample in held_out if not sample.images}
    samples = [hidden(sample) for sample in other.samples["train"]]
    seen = _digests(other.images, {image for sample in samples for image in sample.images})
    first = len(conversations.images)
    kept = [
        replace(
            sample,
            id=sample.id + FURTHER,
            images=tuple(image + first for image in sample.images),
        )
        for sample in samples
        if digests.isdisjoint(seen[image] for image in sample.images)
        and (sample.images or conversation_key(sample) not in texts)
    ]
    if not kept:
        raise UserError(f"data.unlabelled={other.name}: it has no training sample that is not in validation or test")
    return kept, len(samples) - len(kept)


def _digests(images: ImageStore, numbers: Collection[int]) -> dict[int, bytes]:
    """Number of a picture -> hash of its pixels."""
    found, numbers = {}, sorted(numbers)
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        for number, pixels in zip(block, images.pixels(np.array(block, np.int64)), strict=True):
            found[number] = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()
    return found


def unlabelled_pictures(
    root: str | Path | None = None, like: Conversations | None = None, *, cache: str | Path | None = None
) -> Conversations:
    """All pictures below a folder, at any depth, each with a first question of the training samples of `like`, drawn by the number of the
    picture, as `data.unlabelled=FOLDER` reads them. Files that cannot be read are counted in the report."""
    if root is None or like is None:
        raise UserError(
            "unlabelled_pictures reads the folder of data.unlabelled=FOLDER, beside conversations about pictures"
        )
    root = folders.existing(root, "unlabelled")
    names = [path.relative_to(root).as_posix() for path in folders.files(root) if path.suffix.lower() in SUFFIXES]
    if not names:
        raise UserError(f"data.unlabelled={root} holds no pictures")
    seen = look_at(root, sorted(names), like.images.size, cache)
    asked = _questions(like.samples["train"])
    drawn = randomness.bits(randomness.key("question"), np.arange(len(seen.store))) % np.uint64(len(asked))
    samples = [
        Sample(number, (number,), (Turn(asked[place][0], ""),), asked[place][1], asked[place][2])
        for number, place in enumerate(drawn.astype(np.int64).tolist())
    ]
    return Conversations(
        root.resolve().name,
        {"train": samples, "val": [], "test": []},
        seen.store,
        [],
        hashlib.sha256(f"{seen.store.source_hash} {asked}".encode()).hexdigest(),
        {"broken": len(seen.broken)} if seen.broken else {},
        determined=True,
    )


def _questions(samples: Iterable[Sample]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(prompt, type, choices) of the different first questions about one picture, in order."""
    return list(dict.fromkeys((s.turns[0].prompt, s.type, s.choices) for s in samples if len(s.images) == 1))


unlabelled_pictures.reads = ("root",)
