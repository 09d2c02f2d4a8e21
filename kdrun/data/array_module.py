"""The data module of arrays of samples: images, rows of tables."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data import keeping, kept
from kdrun.data.loader import BatchLoader
from kdrun.data.module import LABELLED, DataModule
from kdrun.data.samples import Samples, tensor_of
from kdrun.data.source import SPLITS, ArraySource
from kdrun.protocol import PUBLISHED


class ArrayModule(DataModule):
    """Arrays of samples with a split and a normalisation.

    source   see ArraySource
    split    int8 [N]: what each sample is used for (see source.SPLITS)
    spec     has `mean` and `std`, which channels (axis 1) are normalised with
    augment  what is done to raw training samples (as images.augment.Augment), or None
    labelled  bool [N]: which samples have a label (see data.transfer); None: all
    """

    def __init__(
        self,
        domain: Any,
        source: ArraySource,
        split: np.ndarray,
        spec: Any,
        augment: Any = None,
        labelled: np.ndarray | None = None,
    ) -> None:
        super().__init__(domain, spec)
        self.source, self.split, self.augment, self.labelled = source, split, augment, labelled
        self._samples: dict[str, Samples] = {}

    @property
    def extra_tests(self) -> tuple[str, ...]:
        return tuple(self.source.further)

    @property
    def content(self) -> str:
        return self.source.source_hash

    @property
    def random(self) -> bool:
        return self.augment is not None and self.augment.random

    @property
    def replayed(self) -> bool:
        return self.augment is not None and self.augment.replayed

    @property
    def views(self) -> int:
        return 1 if self.augment is None else self.augment.views

    @property
    def further_views(self) -> tuple[str, ...]:
        return tuple(getattr(self.augment, "further", ()))

    @property
    def mixes(self) -> bool:
        return bool(getattr(self.augment, "mixes", False))

    watched: np.ndarray | None = None
    """int64: training samples that are the validation split as well (data.protocol=published); None: validation is held out."""

    @property
    def selects(self) -> bool:
        return self.watched is None

    def trained_on(self) -> dict[str, Any]:
        protocol = {} if self.selects else {"protocol": PUBLISHED}
        return {**super().trained_on(), **protocol, **({"augment": str(self.augment)} if self.random else {})}

    def rows(self, split: str) -> np.ndarray:
        """int64 [n]: which samples of the source belong to a split."""
        further = self.source.further
        if split == LABELLED:
            train = self.rows("train")
            return train if self.labelled is None else train[self.labelled[train]]
        if split == "val" and self.watched is not None:
            return self.watched
        return further[split] if split in further else np.flatnonzero(self.split == SPLITS[split])

    def samples(self, split: str) -> Samples:
        """Ids, targets and inputs of "train", "val" or "test"; made when first asked for."""
        if split not in self._samples:
            rows, hidden = self.rows(split), split == "train" and self.labelled is not None
            self._samples[split] = Samples(
                self._inputs,
                torch.from_numpy(rows),
                torch.from_numpy(self.source.ids[rows]),
                torch.from_numpy(self.targets[rows]),
                self.spec.mean,
                self.spec.std,
                self.augment if split == "train" else None,
                torch.from_numpy(self.labelled[rows]) if hidden else None,
            )
        return self._samples[split]

    def raw_targets(self, split: str) -> np.ndarray:
        return self.source.y[self.rows(split)]

    @cached_property
    def targets(self) -> np.ndarray:
        """[N]: what is learned of each sample, as networks give it."""
        return self.source.y

    @cached_property
    def _inputs(self) -> Tensor:
        return tensor_of(self.source.x)

    def inputs(self, ids: Tensor, view: int = 0) -> Tensor:
        """float32 [b, ...]: training samples by id (int64 [b]) under a view, bit for bit as the loader gives them.

        Raises KeyError for an id that is not in training, ValueError where views are not replayed.
        """
        samples = self.samples("train")
        if self.random and not self.replayed:
            raise ValueError("inputs of a view exist only where the augmentation is replayed: set data.augment.seed")
        return samples.inputs(self.trained(ids), None if self.augment is None else self.augment.key(None, view))

    def _loader(self, batch_size: int, seed: int, rank: int, world: int) -> BatchLoader:
        """Augmented; see BatchLoader."""
        return BatchLoader(self.samples("train"), batch_size, seed=seed, rank=rank, world=world, smallest=2)

    def eval_loader(self, split: str, batch_size: int, rank: int = 0, world: int = 1) -> BatchLoader:
        """As of TokenModule."""
        samples = self.samples(self.with_targets(split))
        return BatchLoader(samples, max(batch_size, world), rank=rank, world=world, smallest=1)

    def audit(self) -> dict[str, Any]:
        from kdrun.data import audit

        def found() -> dict[str, Any]:
            return audit.audit(self.source, self.split, self.labelled)

        if key := key_of(self.source, self.split, self.labelled):
            known = kept.once(self.cache, "audit", [audit.VERSION, *key], found)
        else:
            known = keeping.once(self.cache, "audit", self.audit_key, found)
        if self.watched is None:
            return known
        note = f"published protocol: all {known['samples']['train']:,} samples are trained on, validation is among them"
        samples, notes = {**known["samples"], "val": len(self.watched)}, [*known["notes"], note]
        return {**known, "samples": samples, "notes": notes, "summary": f"{known['summary']}; {note}"}


def key_of(source: ArraySource, *arrays: np.ndarray | None) -> list[Any] | None:
    """What a pass over samples that were decoded into a file depends on: their content, how it was read, and these arrays. None for other samples,
    which are in memory: a pass over them costs little more than their hash."""
    if not (getattr(source, "decoded", "") and isinstance(source.x, np.memmap) and len(source.x)):
        return None
    seen = hashlib.sha256(source.x[:1].tobytes() + source.x[-1:].tobytes())  # a view of the same pixels shows others
    digests = [None if array is None else hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in arrays]
    read = hashlib.sha256(repr((source.name, source.unreadable, source.notes)).encode()).hexdigest()
    return [source.content_hash, read, seen.hexdigest(), list(source.x.shape), *digests]
