"""From the data config to a data set: call the source, split, limit, normalise. torch only where tensors are made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun import targets
from kdrun.data.splits import assign
from kdrun.domains.ct.source import further_of, refuse_shared
from kdrun.domains.images.source import SPLITS, TRAIN, Images
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.tabular.source import Table
from kdrun.domains.translation.source import Pairs
from kdrun.domains.vision_language.source import Conversations
from kdrun.problems import UserError
from kdrun.schema import Data, defaults

if TYPE_CHECKING:
    from kdrun.domains.images.module import ImageDataModule
    from kdrun.domains.tabular.module import TableDataModule
    from kdrun.domains.translation.module import TextDataModule
    from kdrun.domains.vision_language.module import VisionDataModule

COMMON = defaults(Data)
"""The keys that every data config has; all others are arguments of the source."""


def load_data(
    config: dict[str, Any], paths: dict[str, str]
) -> ImageDataModule | TableDataModule | TextDataModule | VisionDataModule:
    """The data set of `config["data"]`, split and with its normalisation known.

    Raises UserError when something is absent (with the command that brings it) or when training would be senseless.
    """
    from kdrun.domains.images.module import ImageDataModule

    own, common = separate(config)
    images = load_source(own, paths)
    tasks = next(tasks for kind, tasks in LEARNED.items() if isinstance(images, kind))
    learned = common["task"]
    if learned not in tasks:
        raise UserError(
            f"data.task={learned}: {own['_target_']} is a source for {' or '.join(tasks)}: data.task={tasks[0]}"
        )
    if common["view"] is not None:
        if not isinstance(images, Images):
            raise UserError(f"data.view={common['view']}: only images have views, {own['_target_']} gives none")
        from kdrun.domains.images.views import view

        images = view(images, common["view"])
    if learned == "translation":
        from kdrun.domains.translation.build import TEXT, text_module

        return text_module(images, {**common, **TEXT, **(common["text"] or {})}, paths["cache"])
    if learned == "vision_language":
        from kdrun.domains.vision_language.build import VISION, vision_module

        return vision_module(images, {**common, **VISION, **(common["vision"] or {})}, paths["cache"])
    if learned == "regression":
        from kdrun.domains.tabular.module import table_module

        return table_module(images, common)
    split = assign(images, common)
    refuse_shared(images, split)
    mean, std = _moments(images, split, common["normalize"])
    spec = DataSpec(
        name=common["name"] or images.name,
        classes=images.classes,
        shape=tuple(images.x.shape[1:]),
        sizes={
            **{name: int((split == part).sum()) for name, part in SPLITS.items()},
            **{name: len(rows) for name, rows in further_of(images).items()},
        },
        mean=mean,
        std=std,
    )
    return ImageDataModule(images, split, spec, common["augment"], task=learned)


def content_hash(config: dict[str, Any], paths: dict[str, str]) -> str:
    """sha256 hex digest of all that is behind a data config; nothing that is cached is decoded again."""
    own, common = separate(config)
    source = load_source(own, paths)
    content = source.content_hash
    if given := (common["vision"] or {}).get("tokenizer"):
        from kdrun.domains.vision_language.tokens import tokenizer_hash

        return hashlib.sha256(f"{source.source_hash} {tokenizer_hash(given)}".encode()).hexdigest()
    given = (common["text"] or {}).get("tokenizer")
    if given is None:
        return content
    from kdrun.data.tokenizer import existing

    return hashlib.sha256(f"{content} {existing(given).sha256}".encode()).hexdigest()


def separate(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the source's own node, the common keys with their defaults)."""
    own = {key: value for key, value in config.items() if key not in COMMON}
    common = {key: config.get(key, default) for key, default in COMMON.items()}
    for group in ("limit", "augment"):
        common[group] = {**COMMON[group], **(common[group] or {})}
    return own, common


LEARNED = {
    Images: ("classification", "diagnosis"),
    Table: ("regression",),
    Pairs: ("translation",),
    Conversations: ("vision_language",),
}
"""Kind of source -> what can be learned from it."""


def load_source(node: dict[str, Any], paths: dict[str, str]) -> Images | Table | Pairs | Conversations:
    """Call the source `node["_target_"]` with its arguments; `cache` is the folder for what is kept between runs."""
    found = targets.build(node, "source", cache=paths["cache"])
    if not isinstance(found, tuple(LEARNED)):
        kind = type(found).__name__
        raise UserError(
            f"{node['_target_']} returned a {kind}, not Images, Table, Pairs or Conversations of kdrun.data: it is no data source"
        )
    return found


def _moments(images: Images, split: np.ndarray, given: dict[str, Any] | None) -> tuple[tuple[float, ...], ...]:
    """Mean and deviation per channel of the training split, pixels scaled to 0..1; `given` wins.

    uint8 pixels are counted, so the result is exact and the same on every machine.
    """
    channels = images.x.shape[1]
    if given is not None:
        mean, std = tuple(map(float, given["mean"])), tuple(map(float, given["std"]))
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise UserError(f"data.normalize: {images.name} needs {channels} means and {channels} positive deviations")
        return mean, std
    rows = np.flatnonzero(split == TRAIN)
    if images.x.dtype == np.uint8:
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(rows), 1024):
            block = images.x[rows[start : start + 1024]]
            for channel in range(channels):
                counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        total = np.maximum(counts.sum(axis=1), 1)
        mean = (counts @ levels) / total
        variance = (counts @ levels**2) / total - mean**2
    else:
        block = np.asarray(images.x[rows], np.float64)
        others = (0, *range(2, block.ndim))
        mean, variance = block.mean(axis=others), block.var(axis=others)
    deviation = np.sqrt(np.maximum(variance, 0))
    deviation[deviation < 1e-4] = 1.0  # a constant channel is only shifted
    return tuple(mean.tolist()), tuple(deviation.tolist())
