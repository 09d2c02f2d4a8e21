"""A teacher's k most likely tokens per target position: computed in every step, or once and kept on disk.

    <outputs>/<key>/ids.npy        uint16 or int32 [positions, k], sentences one after another in the order of their ids
    <outputs>/<key>/log_probs.npy  float16 [positions, k]
    <outputs>/<key>/marks.npy      uint32 [sentences]: crc32 of a sentence's rows + 1, or 0 while it is missing
    <outputs>/<key>/manifest.json  written last, with the checksums of the arrays

As in cache.py, a sentence is written before its mark, so a build that was killed goes on and a torn one is seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.files import sha256_file, write_json
from kdrun.learning import cache
from kdrun.learning.teacher import FrozenTeacher
from kdrun.problems import UserError
from kdrun.tasks.base import Prediction

TERM = "kd_topk"
BLOCK = 64
"""Sentences that are computed together; part of the key, since last bits depend on the batch."""
FILES = ("ids.npy", "log_probs.npy", "marks.npy")


def wanted(objective: dict[str, Any]) -> int | None:
    """k of an objective's config, or None where none of its terms with a weight wants only the top."""
    term = objective.get(TERM)
    return int(term.get("k", 16)) if term and term.get("weight", 1.0) else None


def reduced(prediction: Prediction, k: int) -> Prediction:
    """The k most likely classes of every position: features top_ids [..., k] and top_log_probs float32 [..., k]."""
    log_probs = torch.log_softmax(prediction.logits.float(), -1)
    values, ids = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
    return Prediction(None, prediction.mask, {"top_ids": ids, "top_log_probs": values})  # type: ignore[arg-type]


class TopTeacher:
    """A live teacher that tells only its top."""

    def __init__(self, live: FrozenTeacher, k: int):
        self.live, self.k, self.fingerprint = live, k, live.fingerprint

    def outputs(self, batch: dict[str, Any]) -> Prediction:
        return reduced(self.live.outputs(batch), self.k)

    @property
    def samples(self) -> int:
        return self.live.samples

    def to(self, device: torch.device) -> None:
        self.live.to(device)

    def close(self) -> None:
        self.live.close()


def cache_bytes(module, k: int) -> int:
    """Disk that the top of a teacher takes for the training sentences of a text data module."""
    positions = int(module.lengths(module.train_ids).sum())
    return positions * min(k, module.spec.vocabulary) * (2 + _id_type(module).itemsize) + 4 * len(module.train_ids)


def cache_size(module, objective: dict[str, Any]) -> int | None:
    """Bytes that a teacher's outputs take for these data and this objective; None where they cannot be kept."""
    k = wanted(objective)
    if module.spec.kind == "images":
        if k is not None:
            raise UserError(f"objective.{TERM} is for text; for images objective.kd has all classes")
        return cache.cache_bytes(module)
    return None if k is None else cache_bytes(module, k)


def _id_type(module) -> np.dtype:
    return np.dtype(np.uint16 if module.spec.vocabulary <= 1 << 16 else np.int32)


class TopCache:
    """Rows for all training sentences of a text data module."""

    def __init__(self, folder: Path, module, k: int, parts: dict[str, Any]):
        self.folder, self.parts, self.module = folder, parts, module
        self.k = min(k, module.spec.vocabulary)
        self.ids = torch.sort(module.train_ids).values
        lengths = module.lengths(self.ids).numpy()
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        folder.mkdir(parents=True, exist_ok=True)
        self.complete = (folder / "manifest.json").is_file()
        if self.complete:
            cache.verify_files(folder)
        shape = (int(self.starts[-1]), self.k)
        self._tokens = self._open("ids.npy", _id_type(module), shape)
        self._values = self._open("log_probs.npy", np.dtype(np.float16), shape)
        self._marks = self._open("marks.npy", np.dtype(np.uint32), (len(self.ids),))
        if not self.complete:
            for row in np.flatnonzero(self._marks):
                if self._marks[row] != self._mark(row):
                    self._marks[row] = 0

    def _open(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return cache.open_array(self.folder / name, dtype, shape, new=not self.complete)

    def _mark(self, row: int) -> int:
        part = slice(self.starts[row], self.starts[row + 1])
        return (zlib.crc32(self._values[part].tobytes(), zlib.crc32(self._tokens[part].tobytes())) % 0xFFFFFFFF) + 1

    def rows_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Row numbers of sentence ids. KeyError for an id that is not covered."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        if not torch.equal(self.ids[rows], ids):
            raise KeyError(f"sample id {int(ids[self.ids[rows] != ids][0])} is not in the teacher's cached outputs")
        return rows

    def read(self, ids: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
        """top_ids int64 and top_log_probs float32 [b, width, k] of sentences; zeros behind their ends."""
        rows = self.rows_of(ids).numpy()
        tokens = np.zeros((len(rows), width, self.k), np.int64)
        values = np.zeros((len(rows), width, self.k), np.float32)
        for place, row in enumerate(rows):
            begin, end = self.starts[row], self.starts[row + 1]
            tokens[place, : end - begin] = self._tokens[begin:end]
            values[place, : end - begin] = self._values[begin:end]
        return {"top_ids": torch.from_numpy(tokens), "top_log_probs": torch.from_numpy(values)}

    def build(
        self, teacher: TopTeacher, device: torch.device, told: Callable[[int], None], moved: Callable[..., Any]
    ) -> None:
        """Compute what is missing, in blocks of BLOCK sentences of like length: same sentences, same bits."""
        lengths = np.diff(self.starts)
        order = np.lexsort((np.arange(len(lengths)), lengths))
        for first in range(0, len(order), BLOCK):
            rows = order[first : first + BLOCK]
            if not self._marks[rows].all():
                batch = self.module.inputs(self.ids[torch.from_numpy(rows)])
                top = teacher.outputs(moved(batch, device)).features
                for place, row in enumerate(rows):
                    begin, end = self.starts[row], self.starts[row + 1]
                    self._tokens[begin:end] = top["top_ids"][place, : end - begin].cpu().numpy()
                    self._values[begin:end] = top["top_log_probs"][place, : end - begin].cpu().numpy()
                    self._marks[row] = self._mark(row)
            told(min(first + BLOCK, len(order)))

    def finish(self, extra: dict[str, Any] | None = None) -> None:
        """Flush and write the manifest; nothing happens while a sentence is missing."""
        if self.complete or not self._marks.all():
            return
        for array in (self._tokens, self._values, self._marks):
            array.flush()
        files = {name: sha256_file(self.folder / name) for name in FILES}
        write_json(self.folder / "manifest.json", {"parts": self.parts, "files": files, **(extra or {})})
        self.complete = True

    def largest_error(self, teacher: TopTeacher, device: torch.device, count: int, seed: int, moved) -> float:
        """Largest absolute difference in a log-probability above -10 between `count` stored sentences and the live teacher."""
        generator = torch.Generator().manual_seed(seed)
        ids = self.ids[torch.randint(len(self.ids), (min(count, len(self.ids)),), generator=generator)]
        batch = self.module.inputs(ids)
        stored = self.read(ids, batch["mask"].shape[1])
        live = torch.log_softmax(teacher.live.outputs(moved(batch, device)).logits.float(), -1).cpu()
        live = live.gather(-1, stored["top_ids"])
        counts = batch["mask"][..., None] & (live > -10)
        return float(((live - stored["top_log_probs"]).abs() * counts).max())


class CachedTop:
    """A teacher whose top is read from disk; its network need not be in memory."""

    def __init__(self, cache: TopCache, fingerprint: str, asked: int = 0):
        self.cache, self.fingerprint, self.samples = cache, fingerprint, asked
        self.device = torch.device("cpu")

    def outputs(self, batch: dict[str, Any]) -> Prediction:
        found = self.cache.read(batch["ids"].cpu(), batch["mask"].shape[1])
        if self.device.type != "cpu":
            found = {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}
        return Prediction(None, None, found)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> None:
        self.device = device

    def close(self) -> None:
        """Nothing is held."""
