"""Loaded conversations on images: their splits, loaders, single samples by id, prompts, and text to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun import kinds
from kdrun.data.keeping import once
from kdrun.data.module import POSITION, TokenModule
from kdrun.domains.vision_language.encoded import encoded
from kdrun.domains.vision_language.loader import SampleLoader, VisionSamples
from kdrun.domains.vision_language.questions import groups_of, modalities_of
from kdrun.domains.vision_language.source import Conversations, Sample, Turn
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.domains.vision_language.tokens import Encoder
from kdrun.problems import UserError

DOMAIN = kinds.find("vision_language")


class VisionDataModule(TokenModule):
    """Conversations on images with a split, a tokenizer and a chat template.

    conversations  from a source
    rows           split name -> positions in the source's samples of that split
    encoder        see vision_tokens
    spec           what networks and tasks know of it
    samples        split name -> the tokens of its samples
    pictures       what turns images into inputs (see vision_build.Pictures)
    found          what was left out on the way (see vision_audit)
    """

    preflight_batch = 64
    cached_by = POSITION
    LOADER = SampleLoader

    def __init__(
        self,
        conversations: Conversations,
        rows: dict[str, list[Sample]],
        encoder: Encoder,
        spec: VisionSpec,
        samples: dict[str, VisionSamples],
        pictures: Any,
        found: dict[str, Any],
    ):
        super().__init__(DOMAIN, spec, samples, encoder, batch_size=32, eval_batch_size=64)
        self.conversations, self.chosen, self.encoder = conversations, rows, encoder
        self.pictures, self.found = pictures, found

    @property
    def extra_tests(self) -> tuple[str, ...]:
        return tuple(name for name in self.conversations.further if self.spec.sizes.get(name))

    @property
    def modality_of(self) -> dict[str, str]:
        """See questions.modalities_of."""
        return modalities_of(self.conversations)

    def relabelled(self, rows: list[dict[str, Any]]) -> VisionDataModule:
        """Training samples with these texts as the answer to their last question; those that have an answer keep it, and of the others those
        without a text are left out."""
        texts, train = {row["id"]: row["text"] for row in rows}, self.samples("train")
        known = [False] * len(train) if train.labelled is None else train.labelled.tolist()
        chosen = []
        for sample, has_answer in zip(self.chosen["train"], known, strict=True):
            if has_answer:
                chosen.append(sample)
            elif sample.id in texts:
                last = replace(sample.turns[-1], answer=texts[sample.id])
                chosen.append(replace(sample, turns=(*sample.turns[:-1], last)))
        spec = self.spec
        made, kept, _ = encoded(chosen, self.encoder, spec.max_length, spec.pad, self.pictures, leave_out=True)
        made.groups = groups_of(made.ids.numpy())
        for name, members in train.groups.items():
            if members.any() and not made.groups.get(name, members[:0]).any():
                raise UserError(
                    f"{spec.name}: of {int(members.sum())} answers of the network before to questions of earlier types none is left",
                    "it answers nothing yet, or repeats itself: train it longer (trainer.epochs)",
                )
        split = {**self.chosen, "train": [chosen[place] for place in kept]}
        spec = replace(spec, sizes={**spec.sizes, "train": len(kept)})
        samples = {**self._samples, "train": made}
        return VisionDataModule(self.conversations, split, self.encoder, spec, samples, self.pictures, self.found)

    # Features.

    def positions(self, split: str = "train") -> dict[str, int]:
        samples = self._samples[split]
        return samples.sizes(np.arange(len(samples.lengths)))

    def features_kept(self) -> tuple[Any, set[int]] | None:
        cache = self.pictures.features
        used = (samples.images.flat.tolist() for samples in self._samples.values())
        return None if cache is None else (cache, set().union(*used))

    # Single samples, by id.

    def inputs(self, ids: Tensor, view: int = 0) -> dict[str, Any]:
        """The batch of these samples, in this order, as the loader gives it. All of one split; KeyError for an unknown id."""
        split, positions = self._places(ids)
        return self.samples(split).batch(positions)

    def prompts(self, ids: Tensor) -> dict[str, Tensor]:
        """What a network reads before the last answer of these samples, of one split, filled up on the left:
        input_ids int64 [b, L], attention_mask bool [b, L], and image_features or pixel_values where there are images."""
        split, positions = self._places(ids)
        return self.samples(split).prompts(positions)

    def samples_of(self, ids: Tensor) -> list[Sample]:
        """Samples by id, whatever split they are in."""
        return [self.chosen[split][position] for split, position in self._located(ids)]

    def lengths(self, ids: Tensor) -> Tensor:
        """int64 [b]: answer tokens (end tokens included) of samples by id."""
        found = [self.samples(split).responses[position] for split, position in self._located(ids)]
        return torch.tensor(found, dtype=torch.int64)

    @cached_property
    def _place(self) -> dict[int, tuple[str, int]]:
        return {
            number: (split, position)
            for split, samples in self._samples.items()
            for position, number in enumerate(samples.ids.tolist())
        }

    def _located(self, ids: Tensor) -> list[tuple[str, int]]:
        try:
            return [self._place[number] for number in ids.tolist()]
        except KeyError as error:
            raise KeyError(f"sample id {error.args[0]} is in no split") from None

    def _places(self, ids: Tensor) -> tuple[str, np.ndarray]:
        found = self._located(ids)
        splits = {split for split, _ in found}
        if len(splits) != 1:
            raise ValueError(f"samples of one split at a time; these are of {', '.join(sorted(splits)) or 'none'}")
        return splits.pop(), np.array([position for _, position in found], np.int64)

    # Text.

    def encode_prompt(
        self, question: str, images: Sequence[Any] | np.ndarray = (), history: Sequence[Turn] = ()
    ) -> dict[str, Tensor]:
        """The inputs, b = 1, of a question that no split has (see `prompts`).

        images   files (a path, an open file, a PIL image), or uint8 [n, 3, H, W] of the spec's size; they come first
        history  turns before this one
        """
        from kdrun.domains.vision_language.images import read_image

        if isinstance(images, np.ndarray):
            pixels = images
        else:
            pixels = [read_image(image, self.spec.image_size) for image in images]
        sample = Sample(0, tuple(range(len(pixels))), (*history, Turn(question, "")), "chat")
        made, kept, _ = encoded(
            [sample],
            self.encoder,
            self.spec.max_length,
            self.spec.pad,
            lambda numbers: self.pictures.of(np.stack(pixels)),
        )
        if not kept:
            raise UserError(
                f"{len(pixels)} images of {self.spec.image_tokens} slots do not fit {self.spec.max_length} tokens"
            )
        return made.prompts(np.zeros(1, np.int64))

    def _loader(self, batch_size: int, seed: int, rank: int, world: int) -> SampleLoader:
        """See TokenModule. Raises UserError where there are no training samples."""
        if not len(self.samples("train")):
            raise UserError(f"{self.spec.name} has no training samples: it is for evaluation", *DOMAIN.evaluates)
        return super()._loader(batch_size, seed, rank, world)

    def audit(self) -> dict[str, Any]:
        from kdrun.domains.vision_language.audit import audit

        return once(self.cache, "audit", self.audit_key, lambda: audit(self))
