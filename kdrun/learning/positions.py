"""A teacher's logits at the positions that its student is taught at (answers and image slots), once and on disk.

float16 [positions, vocabulary]; see rowcache.py for the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.data.host import on_host
from kdrun.domains.task import Prediction
from kdrun.learning import cache
from kdrun.learning.rowcache import RowCache
from kdrun.learning.teacher import FrozenTeacher


def taught(batch: dict[str, Any]) -> torch.Tensor:
    """bool [b, L]: where outputs of a teacher are used."""
    return batch["mask"] | batch["visual_mask"]


def cache_bytes(module) -> int:
    """Disk that the outputs for the training samples of a vision-language data module take."""
    return int(counts(module)(module.train_ids).sum()) * module.spec.vocabulary * 2 + 4 * len(module.train_ids)


def counts(module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Ids of training samples (int64 [n]) -> taught positions of each."""
    samples = module.samples("train")
    number = torch.from_numpy(samples.responses + samples.images.lengths() * samples.slots)
    known, order = torch.sort(samples.ids)
    return lambda ids: number[order[torch.searchsorted(known, ids)]]


class PositionCache(RowCache):
    """Rows for all training samples of a vision-language data module."""

    def __init__(self, folder: Path, module, parts: dict[str, Any], lazy: bool = False):
        self.module = module
        arrays = {"logits": (np.float16, module.spec.vocabulary)}
        super().__init__(folder, module.train_ids, counts(module), arrays, parts, lazy)

    def read(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """float32 [b, L, V] for samples by id; zeros outside `where` (bool [b, L], see `taught`)."""
        logits = torch.zeros((*where.shape, self.module.spec.vocabulary))
        logits[where] = torch.from_numpy(np.concatenate([self.get(row)["logits"] for row in self.rows_of(ids)])).float()
        return logits

    def compute(
        self, rows: np.ndarray, teacher: FrozenTeacher, device: torch.device, moved: Callable[..., Any]
    ) -> None:
        batch = moved(self.module.inputs(self.ids[torch.from_numpy(rows)]), device)
        logits, where = teacher.outputs(batch).dense(), taught(batch)
        for place, row in enumerate(rows):
            self.put(row, logits=logits[place][where[place]].cpu().numpy())

    def largest_error(self, teacher: FrozenTeacher, device: torch.device, count: int, seed: int, moved) -> float:
        """Largest difference in a log-probability above -10 between `count` stored samples and the live teacher."""
        ids = self.some(count, seed)
        batch = self.module.inputs(ids)
        where = taught(batch)
        live = torch.log_softmax(teacher.outputs(moved(batch, device)).dense().float(), -1).cpu()[where]
        stored = torch.log_softmax(self.read(ids, where), -1)[where]
        return cache.largest_difference(live, stored, least=-10)


class CachedPositions:
    """A teacher whose outputs are read from disk; its network need not be in memory."""

    def __init__(self, cache: PositionCache, fingerprint: str, asked: int = 0):
        self.cache, self.fingerprint, self.samples = cache, fingerprint, asked
        self.device = torch.device("cpu")

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        logits = self.cache.read(on_host(batch, "ids"), on_host(batch, "mask") | on_host(batch, "visual_mask"))
        return Prediction(logits.to(self.device, non_blocking=True))

    def to(self, device: torch.device) -> None:
        self.device = device

    def close(self) -> None:
        """Nothing is held."""
