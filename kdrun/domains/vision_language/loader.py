"""Batches of conversations on images. What comes when is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data.columns import Parts
from kdrun.data.loader import SortedLoader
from kdrun.data.ragged import Ragged

Pictures = Callable[[np.ndarray], dict[str, Tensor]]


class VisionSamples(Parts):
    """The encoded conversations of one split, in the order of the source.

    ids       int64 [n]
    tokens    Ragged: the conversations without the tokens of images
    labels    bool, as long as tokens.flat: whether the token is of an answer (its end token included)
    asked     int64 [n]: tokens of a conversation before its last answer
    images    Ragged: numbers of images, in the order of their slots
    head      how many tokens come before the images
    block     int64: the tokens of one image, of which the first `slots` are image tokens
    pad       what rows are filled up with
    pictures  numbers of images int64 [n] -> {"image_features": ...} or {"pixel_values": ...}, for at least one image
    """

    KEPT = (
        *("ids", "tokens", "labels", "asked", "images", "head", "block", "slots", "pad", "lengths", "responses"),
        "labelled",
    )
    """All but `pictures`, which whoever reads them puts in."""

    def __init__(
        self,
        ids: np.ndarray,
        tokens: Ragged,
        labels: np.ndarray,
        asked: np.ndarray,
        images: Ragged,
        *,
        head: int,
        block: np.ndarray,
        slots: int,
        pad: int,
        pictures: Pictures,
    ):
        self.ids = torch.from_numpy(np.array(ids, np.int64))
        self.tokens, self.labels, self.asked, self.images = tokens, labels, asked, images
        self.head, self.block, self.slots, self.pad, self.pictures = head, block, slots, pad, pictures
        self.lengths = tokens.lengths() + images.lengths() * len(block)
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(labels, dtype=np.int64)])
        self.responses = total[tokens.starts[1:]] - total[tokens.starts[:-1]]

    labelled: torch.Tensor | None = None
    """bool [n]: which samples have a label; None: all."""
    groups: Mapping[str, np.ndarray] = MappingProxyType({})
    """Name of a mask of a batch -> bool [n]: the samples whose answers it has."""

    def __len__(self) -> int:
        return len(self.ids)

    def sizes(self, positions: np.ndarray) -> dict[str, int]:
        """What these samples add to the counts of a batch (see SampleLoader)."""
        images = self.images.lengths(positions)
        known = {}
        if self.labelled is not None:
            known["labelled"] = int(self.responses[positions][self.labelled.numpy()[positions]].sum())
        for name, members in self.groups.items():
            known[name] = int(self.responses[positions][members[positions]].sum())
        return {
            **known,
            "mask": int(self.responses[positions].sum()),
            "visual_mask": int(images.sum()) * self.slots,
            "images": int((images > 0).sum()),
        }

    def batch(self, positions: np.ndarray, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        """The samples at these positions as a batch (see SampleLoader). sizes: those over all ranks, where not theirs."""
        ids, real, labels, slots = self._filled(positions, self.tokens.lengths(positions), left=False)
        sizes = self.sizes(positions) if sizes is None else sizes
        attended = real[:, 1:]
        return {
            "ids": self.ids[torch.from_numpy(positions)],
            "inputs": {
                "input_ids": torch.from_numpy(np.where(attended, ids[:, :-1], self.pad)),
                "attention_mask": torch.from_numpy(attended),
                **self._pictures(positions),
            },
            "targets": torch.from_numpy(ids[:, 1:].copy()),
            "mask": torch.from_numpy(labels[:, 1:].copy()),
            "visual_mask": torch.from_numpy(slots[:, :-1].copy()),
            "view": 0,
            "size": sizes["mask"],
            "sizes": dict(sizes),
            **({} if self.labelled is None else {"labelled": self.labelled[positions]}),
            **{name: torch.from_numpy(labels[:, 1:] & of[positions][:, None]) for name, of in self.groups.items()},
        }

    def prompts(self, positions: np.ndarray) -> dict[str, Tensor]:
        """What a network reads before it writes the last answer, filled up on the left."""
        ids, real, _, _ = self._filled(positions, self.asked[positions], left=True)
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real)}
        return {**inputs, **self._pictures(positions)}

    def image_numbers(self, positions: np.ndarray) -> np.ndarray:
        """int64 [n]: numbers of the images of these samples, in the order of their slots."""
        begins, ends = self.images.starts[positions], self.images.starts[positions + 1]
        parts = [self.images.flat[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def _pictures(self, positions: np.ndarray) -> dict[str, Tensor]:
        numbers = self.image_numbers(positions)
        return self.pictures(numbers) if len(numbers) else {}

    def _filled(self, positions: np.ndarray, ends: np.ndarray, left: bool) -> tuple[np.ndarray, ...]:
        """(ids int64, real bool, labels bool, slots bool), each [b, W], of the first `ends` text tokens with images."""
        block = len(self.block)
        pictured = self.images.lengths(positions)[:, None] * block
        totals = ends[:, None] + pictured
        shape = (len(positions), int(totals.max()))
        # What every element is: a place in its conversation, there a token of an image or of text.
        place = np.arange(shape[1]) - (shape[1] - totals) * left
        behind = place - self.head
        real = (place >= 0) & (place < totals)
        image = real & (behind >= 0) & (behind < pictured)
        text = real & ~image
        source = (self.tokens.starts[positions][:, None] + place - pictured * (behind >= 0))[text]
        part = behind[image] % max(block, 1)
        ids = np.full(shape, self.pad, np.int64)
        labels, slots = np.zeros(shape, bool), np.zeros(shape, bool)
        ids[text], labels[text] = self.tokens.flat[source], self.labels[source]
        ids[image], slots[image] = self.block[part], part < self.slots
        return ids, real, labels, slots


class SampleLoader(SortedLoader):
    """Iterates one split as one of `world` ranks; resumes at any batch (see BatchLoader for how).

    A batch is a dict:
        ids          int64 [b]
        inputs       input_ids int64 [b, L], attention_mask bool [b, L], and where the batch has images image_features
                     float32 [n, T, C] or pixel_values float32 [n, 3, H, W], n images in the order of their slots
        targets      int64 [b, L]: the next token
        mask         bool [b, L]: where that is of an answer, end tokens included
        visual_mask  bool [b, L]: where the input is an image token
        own_mask, recalled_mask, instructed_mask  bool [b, L]: the part of mask that is of such samples, where data.questions asks for any
        view         0
        sizes        counts over all ranks: {"mask", "visual_mask", "images": samples that have any}
        size         sizes["mask"], what sums of losses are divided by
        labelled     bool [b], where not all samples have an answer; sizes["labelled"] counts positions of those that do. Of a sample without
                     one the mask has the first answer position, which a teacher has something to say of

    batch_size  samples of a batch over all ranks
    seed        of the order; None: the order of the source, the same in every epoch (evaluation)
    """

    @property
    def MASKS(self) -> tuple[str, ...]:
        return ("mask", "visual_mask", *getattr(self.samples, "groups", ()))
