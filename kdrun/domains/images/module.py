"""A loaded data set: its splits, their loaders, and single samples by id."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from kdrun.data.loader import BatchLoader
from kdrun.data.samples import Samples, pixels_of
from kdrun.domains.ct.source import further_of
from kdrun.domains.images.augment import Augment
from kdrun.domains.images.source import SPLITS, Images
from kdrun.domains.images.spec import DataSpec


class ImageDataModule(LightningDataModule):
    """Images with a split, a normalisation and an augmentation.

    images   from a source
    split    int8 [N]: what each sample is used for (see images.SPLITS)
    spec     what networks and tasks know of it
    augment  the config's `augment` (see augment.Augment); only training is augmented
    task     what is learned: classification or diagnosis

    extra_tests names further test sets; preflight_batch is the batch size in which a teacher is measured before it teaches.

    As a data module of a Lightning Trainer it takes `batch_size`, `eval_batch_size` and `seed` from its attributes.
    """

    preflight_batch = 256

    def __init__(
        self,
        images: Images,
        split: np.ndarray,
        spec: DataSpec,
        augment: dict[str, Any] | None = None,
        task: str = "classification",
    ):
        super().__init__()
        self.images, self.split, self.spec, self.task = images, split, spec, task
        self.augment = Augment(**(augment or {}))
        self.batch_size, self.eval_batch_size, self.seed = 128, 256, 0
        self._samples: dict[str, Samples] = {}

    @property
    def extra_tests(self) -> tuple[str, ...]:
        """Names of further test sets, each a split like "test"."""
        return tuple(further_of(self.images))

    @property
    def random(self) -> bool:
        """Whether training inputs are augmented at random."""
        return self.augment.random

    @property
    def replayed(self) -> bool:
        """Whether the same views come again in every run, so that outputs for them can be stored."""
        return self.augment.replayed

    @property
    def views(self) -> int:
        """Number of replayed augmented views; 1 where nothing is replayed."""
        return self.augment.views

    @property
    def train_ids(self) -> Tensor:
        """int64 [n], ids of the training samples in the order of the source."""
        return self.samples("train").ids

    def samples(self, split: str) -> Samples:
        """Ids, targets and inputs of "train", "val" or "test"; made when first asked for."""
        if split not in self._samples:
            further = further_of(self.images)
            rows = further[split] if split in further else np.flatnonzero(self.split == SPLITS[split])
            self._samples[split] = Samples(
                self._pixels,
                torch.from_numpy(rows),
                torch.from_numpy(self.images.ids[rows]),
                torch.from_numpy(self._targets[rows]),
                self.spec.mean,
                self.spec.std,
                self.augment if split == "train" else None,
            )
        return self._samples[split]

    @cached_property
    def _targets(self) -> np.ndarray:
        return self.images.y

    @cached_property
    def _pixels(self) -> Tensor:
        return pixels_of(self.images)

    def inputs(self, ids: Tensor, view: int = 0) -> Tensor:
        """float32 [b, C, H, W]: training samples by id (int64 [b]) under a view, bit for bit as the loader gives them.

        Raises KeyError for an id that is not in training, ValueError where views are not replayed.
        """
        samples = self.samples("train")
        if self.random and not self.replayed:
            raise ValueError("inputs of a view exist only where the augmentation is replayed: set data.augment.seed")
        positions = self._position[1][torch.searchsorted(self._position[0], ids).clamp_(max=len(samples) - 1)]
        if not torch.equal(samples.ids[positions], ids):
            raise KeyError(f"sample id {int(ids[samples.ids[positions] != ids][0])} is not a training sample")
        return samples.inputs(positions, self.augment.key(None, view))

    @cached_property
    def _position(self) -> tuple[Tensor, Tensor]:
        return torch.sort(self.samples("train").ids)

    def train_loader(
        self, batch_size: int, seed: int, rank: int = 0, world: int = 1, drop_last: bool = False
    ) -> BatchLoader:
        """Shuffled and augmented; see BatchLoader. batch_size is over all ranks."""
        return BatchLoader(
            self.samples("train"), batch_size, seed=seed, rank=rank, world=world, smallest=2, drop_last=drop_last
        )

    def eval_loader(self, split: str, batch_size: int, rank: int = 0, world: int = 1) -> BatchLoader:
        """Every sample of the split exactly once over all ranks, in the order of the source."""
        return BatchLoader(self.samples(split), max(batch_size, world), rank=rank, world=world, smallest=1)

    def audit(self) -> dict[str, Any]:
        """See audit.audit."""
        from kdrun.domains.images.audit import audit

        return audit(self.images, self.split)

    # For `trainer.fit(learner, datamodule=module)`.

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size} if self.trainer else {}

    def train_dataloader(self) -> BatchLoader:
        return self.train_loader(self.batch_size, self.seed, **self._place())

    def val_dataloader(self) -> BatchLoader:
        return self.eval_loader("val", self.eval_batch_size, **self._place())

    def test_dataloader(self) -> BatchLoader:
        return self.eval_loader("test", self.eval_batch_size, **self._place())
