"""From conversations to a data module: split, tokenizer, ids, slots. torch only where tensors are made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun import kinds
from kdrun.data.keeping import KEPT_AS, keep
from kdrun.domains.vision_language import tokens as vision_tokens
from kdrun.domains.vision_language.encoded import encoded
from kdrun.domains.vision_language.questions import asked, groups_of, restricted
from kdrun.domains.vision_language.source import Conversations, ImageStore, InputStore
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.domains.vision_language.splits import assign
from kdrun.domains.vision_language.transfer import joined, labelled_of, transferred
from kdrun.problems import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from kdrun.domains.vision_language.features import FeatureCache
    from kdrun.domains.vision_language.loader import VisionSamples
    from kdrun.domains.vision_language.module import VisionDataModule

DOMAIN = kinds.find("vision_language")

SIGLIP = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""What pixels are normalised with for a network's own tower, unless `data.normalize` says otherwise."""


def vision_module(
    conversations: Conversations, common: dict[str, Any], cache: str | Path, like: VisionDataModule | None = None
) -> VisionDataModule:
    """The data module of conversations on images.

    common: the keys of domain.Vision (which says what they are for) and of load.COMMON, all present. Samples of more than
    `max_length` tokens, image slots included, are left out of training; elsewhere their text loses its beginning.
    like: a module whose tokenizer and vocabulary are taken, for the evaluation of a network that learned from its data.
    Raises UserError where nothing would be left to train on, though the source has training samples.
    """
    from kdrun.domains.vision_language.module import VisionDataModule

    images = joined(conversations.images, common["unlabelled"])
    pictures = EncodedInputs(images, common) if hasattr(images, "modalities") else ImageInputs(images, common, cache)
    given, vocabulary = None if like is None else like.encoder.tokenizer, None if like is None else like.spec.vocabulary
    if like is None and common["tokenizer"] is not None:
        given = vision_tokens.existing(common["tokenizer"])
        vocabulary = given.size
    key = common.get(KEPT_AS)
    made = keep(
        cache,
        "rows",
        key and [*key, given and given.sha256, pictures.slots],
        lambda: _made(conversations, common, Path(cache), given, pictures),
    )
    tokenizer, samples, chosen = given or made["tokenizer"], made["samples"], made["chosen"]
    encoder = vision_tokens.Encoder(tokenizer, common["template"], pictures.slots)
    for part in samples.values():
        part.pictures = pictures
    spec = VisionSpec(
        name=common["name"] or conversations.name,
        # of one that is made here as wide as matrix units like; the ids beyond are never used
        vocabulary=-(-tokenizer.size // 8) * 8 if vocabulary is None else vocabulary,
        pad=tokenizer.pad,
        bos=tokenizer.bos,
        eos=encoder.eos,
        image_token=tokenizer.image,
        image_tokens=pictures.slots,
        image_size=common["size"],
        feature_width=pictures.width,
        tower=pictures.identity,
        sizes={name: len(part) for name, part in chosen.items()},
        max_length=common["max_length"],
        tokenizer=tokenizer.sha256,
        template=encoder.template.name,
        types=made["types"],
        modalities=getattr(images, "modalities", None),
        **pictures.moments,
    )
    return VisionDataModule(conversations, chosen, encoder, spec, samples, pictures, made["found"])


def _made(
    conversations: Conversations, common: dict[str, Any], cache: Path, given: Any, pictures: Any
) -> dict[str, Any]:
    """What takes passes over all conversations: "chosen" and "samples" of each split, "types" of questions, "tokenizer" (None where it is
    given), "found"."""
    chosen, removed = assign(conversations, common)
    chosen = restricted(chosen, conversations, common.get("questions"))
    chosen, known, notes = transferred(chosen, conversations, common)
    chosen, known = asked(chosen, known, conversations, common.get("questions"))
    tokenizer = given
    if tokenizer is None:
        if not len(conversations.corpus):
            raise UserError(
                f"{conversations.name} has no text to make a tokenizer from: it is for evaluation",
                *DOMAIN.evaluates,
            )
        tokenizer = vision_tokens.trained(conversations.corpus, common["template"], cache)
    encoder = vision_tokens.Encoder(tokenizer, common["template"], pictures.slots)
    most, had_training = common["max_length"], bool(chosen["train"])
    if encoder.head + len(encoder.image) + 2 > most:
        raise UserError(
            f"data.vision.max_length={most}: an image takes {pictures.slots} tokens, "
            f"the chat template {encoder.head} before it"
        )
    samples: dict[str, VisionSamples] = {}
    found = {
        "dropped": dict(conversations.report),
        "removed": removed,
        "too_long": 0,
        "cut": {},
        "no_room": {},
        "notes": notes,
    }
    for name, its in chosen.items():
        made, kept, over = encoded(its, encoder, most, tokenizer.pad, pictures, leave_out=name == "train")
        samples[name], chosen[name] = made, [its[position] for position in kept]
        if name == "train":
            found["too_long"] = over["left_out"]
            made.labelled, made.groups = labelled_of(made.ids, known), groups_of(made.ids.numpy())
        else:
            found["cut"] |= {name: over["cut"]} if over["cut"] else {}
            found["no_room"] |= {name: over["left_out"]} if over["left_out"] else {}
    if had_training and not chosen["train"]:
        raise UserError(
            f"{conversations.name}: no sample is left for training; "
            f"{found['too_long']} are longer than data.vision.max_length={most} tokens"
        )
    types = tuple(sorted({sample.type for part in chosen.values() for sample in part}))
    made = {"chosen": chosen, "samples": samples, "types": types, "found": found}
    return {**made, "tokenizer": None if given else tokenizer}


class EncodedInputs:
    """Inputs of several modalities as inputs of a network: what their frozen encoders give, computed when it is asked for and kept in memory.

    Attributes as of ImageInputs.
    """

    features = None
    moments: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, inputs: InputStore, common: dict[str, Any]):
        from kdrun.domains.vision_language.networks.encoders import build_encoder

        self.inputs, self._encoder = inputs, build_encoder(common["tower"])
        self.slots, self.width, self.identity = self._encoder.tokens, self._encoder.width, self._encoder.identity
        self._kept: dict[int, Tensor] = {}

    def __call__(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """{"image_features": float32 [n, T, C], "modality": int64 [n]} of inputs by number."""
        import torch

        names = {number: self.inputs.modality(number) for number in numbers.tolist()}
        for name in dict.fromkeys(names.values()):
            new = [number for number, its in names.items() if its == name and number not in self._kept]
            if new:
                raw = torch.from_numpy(np.stack([self.inputs.raw(number) for number in new]))
                self._kept |= zip(new, self._encoder(name, raw), strict=True)
        places = [self.inputs.modalities.index(names[number]) for number in numbers.tolist()]
        features = torch.stack([self._kept[number] for number in numbers.tolist()])
        return {"image_features": features, "modality": torch.tensor(places, dtype=torch.int64)}

    def of(self, pixels: np.ndarray) -> dict[str, Tensor]:
        """Refuses inputs that are not in the store."""
        raise UserError("questions about files of the user's own are not there where inputs are of several modalities")


class ImageInputs:
    """Images as inputs of a network: features of a tower that are kept, or pixels.

    slots     image tokens that an image takes
    width     of the features; None for pixels
    identity  of the tower and the size; None for a network's own tower
    moments   {"mean", "std"} that pixels are normalised with for a network's own tower; {} for one of the data
    """

    def __init__(self, images: ImageStore, common: dict[str, Any], cache: str | Path):
        self.images, self.size = images, common["size"]
        if common["features"] not in ("cached", "online"):
            raise UserError(f"data.vision.features={common['features']}: cached or online")
        if len(images) and images.size != self.size:
            raise UserError(
                f"data.vision.size={self.size}, but the images of the source are of {images.size} pixels",
                f"data.size={self.size} data.vision.size={self.size}",
            )
        self._cache, self._kept = cache, common["features"] == "cached" and common["tower"] is not None
        self._tower = None
        self._moments = common.get("normalize") or SIGLIP
        self.moments = {name: tuple(map(float, self._moments[name])) for name in ("mean", "std")}
        if common["tower"] is None:
            if common["image_tokens"] is None:
                raise UserError("data.vision.tower=null needs data.vision.image_tokens: the slots of an image")
            self.slots, self.width, self.identity = int(common["image_tokens"]), None, None
            return
        from kdrun.domains.vision_language.networks.towers import build_tower

        self.moments = {}
        self._tower = build_tower(common["tower"])
        self.slots = self._tower.tokens(self.size)
        if common["image_tokens"] not in (None, self.slots):
            raise UserError(
                f"data.vision.image_tokens={common['image_tokens']}: {common['tower']} gives {self.slots} for images "
                f"of {self.size} pixels",
            )
        self.width = self._tower.width if self._kept else None
        self.identity = f"{self._tower.identity}/{self.size}"

    @cached_property
    def features(self) -> FeatureCache | None:
        """The features that are kept; None for pixels."""
        if not self._kept:
            return None
        from kdrun.domains.vision_language.features import FeatureCache

        return FeatureCache(self._cache, self.images, self._tower, self.size)

    def __call__(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """{"image_features": float32 [n, T, C]} or {"pixel_values": float32 [n, 3, H, W]} of images by number."""
        if self.features:
            return {"image_features": self.features.read(numbers)}
        known, places = np.unique(numbers, return_inverse=True)
        return {"pixel_values": self._normalised(self.images.pixels(known))[places]}

    def of(self, pixels: np.ndarray) -> dict[str, Tensor]:
        """The same of uint8 [n, 3, H, W], images that are not in the store."""
        if not self._kept:
            return {"pixel_values": self._normalised(pixels)}
        from kdrun.domains.vision_language.features import compute

        return {"image_features": compute(self._tower, pixels).float()}

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        import torch

        values = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._tower is not None:
            return self._tower.normalise(values)
        mean, std = (torch.tensor(self._moments[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
        return (values.float() / 255 - mean) / std
