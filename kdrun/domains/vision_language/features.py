"""What a frozen tower sees in the images of a store, on disk: computed once, shared by all who use the same images.

    cache/features/<key>/features.npy   float16 [images, T, C]
    cache/features/<key>/marks.npy      uint32 [images]: crc32 of the key and an image's features + 1, or 0 while they are missing
    cache/features/<key>/manifest.json  what the key was made of, with the checksums of the arrays; written when all are there

The key is made of the pixels, the tower and the size: captions and questions of one store share their features. An image
is always computed in a batch of BLOCK, so its features have the same bits whichever others were wanted with it. They are
written before their mark: a build that was killed goes on where it stopped, and torn features are seen.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.checksums import finished, write_manifest
from kdrun.domains.vision_language.source import ImageStore
from kdrun.files import open_array

BLOCK = 32
"""Images that a tower sees together, always; part of the key."""
FLUSH = 16
"""Blocks between two times that what was written is made to last."""
ARRAYS = ("features.npy", "marks.npy")
LARGEST = 65504.0
"""What float16 can hold."""


class FeatureCache:
    """Features of the images of a store.

    folder  cache/features/<key>
    images  the store. tower: see networks.towers; called once for whatever is missing
    tokens  T. width: C
    """

    def __init__(self, cache: str | Path, images: ImageStore, tower: Any, size: int):
        self.images, self.tower, self.size = images, tower, size
        self.tokens, self.width = tower.tokens(size), tower.width
        self.parts = {
            "images": images.source_hash,
            "count": len(images),
            "tower": tower.identity,
            "size": size,
            "block": BLOCK,
            "format": 1,
        }
        key = hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:20]
        self.folder = Path(cache) / "features" / key
        self._key = zlib.crc32(key.encode())
        self._found = np.zeros(len(images), bool)
        self._rows: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Disk that the features take once all are there."""
        return len(self.images) * (self.tokens * self.width * 2 + 4)

    def missing(self, wanted: np.ndarray) -> int:
        """How many of these images have no features yet; nothing is computed."""
        wanted = np.unique(wanted)
        if self._found[wanted].all():
            return 0
        with suppress(FileNotFoundError, ValueError, IndexError):
            return int((np.load(self.folder / "marks.npy", mmap_mode="r")[wanted] == 0).sum())
        return len(wanted)

    def read(self, wanted: np.ndarray) -> Tensor:
        """float32 [n, T, C] of images by number; what is missing is computed first."""
        if not self._found[wanted].all():
            self.build(wanted)
        return torch.from_numpy(self._rows[wanted]).float()  # torch converts ten times faster than numpy

    def build(self, wanted: np.ndarray, told: Callable[[int], None] = lambda done: None) -> None:
        """Compute the features of these images that are not there; told(images done so far of those that were missing).

        Another process that builds the same waits. Finished features that are not what was written are computed again.
        """
        wanted = np.unique(wanted)
        with self._locked():
            complete = finished(self.folder, self.parts, ARRAYS, "features of images")
            shape = (len(self.images), self.tokens, self.width)
            rows = open_array(self.folder / "features.npy", np.dtype(np.float16), shape)
            marks = open_array(self.folder / "marks.npy", np.dtype(np.uint32), shape[:1])
            if not complete:
                _drop_torn(rows, marks, self._key)
                self._compute(wanted[marks[wanted] == 0], rows, marks, told)
                rows.flush()
                marks.flush()
                if marks.all():
                    write_manifest(self.folder, ARRAYS, parts=self.parts)
            self._found = np.array(marks != 0)
        self._rows = np.load(self.folder / "features.npy", mmap_mode="r")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    def _compute(self, missing: np.ndarray, rows: np.ndarray, marks: np.ndarray, told: Callable[[int], None]) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tower = self.tower.to(device)
        for number, first in enumerate(range(0, len(missing), BLOCK)):
            block = missing[first : first + BLOCK]
            values = compute(tower, self.images.pixels(block), device).numpy()
            rows[block] = values
            marks[block] = [_mark(value, self._key) for value in values]
            if number % FLUSH == FLUSH - 1:
                rows.flush()
                marks.flush()
            told(first + len(block))
        self.tower.to("cpu")


def compute(tower: Any, pixels: np.ndarray, device: torch.device | None = None) -> Tensor:
    """float16 [n, T, C] on the CPU: what the tower sees in uint8 [n, 3, H, W], in batches of BLOCK (see above)."""
    device, found = device or torch.device("cpu"), []
    for first in range(0, len(pixels), BLOCK):
        block = torch.from_numpy(np.ascontiguousarray(pixels[first : first + BLOCK]))
        filled = torch.cat([block, block[:1].expand(BLOCK - len(block), -1, -1, -1)])
        with torch.inference_mode():
            features = tower(tower.normalise(filled.to(device)))[: len(block)]
        found.append(features.float().clamp(-LARGEST, LARGEST).to(torch.float16).cpu())
    return torch.cat(found).clone()


def _drop_torn(rows: np.ndarray, marks: np.ndarray, key: int) -> None:
    """After a crash a mark may stand beside features that never reached the disk: such marks are cleared."""
    for row in np.flatnonzero(marks):
        if marks[row] != _mark(rows[row], key):
            marks[row] = 0


def _mark(row: np.ndarray, key: int) -> int:
    return (zlib.crc32(row.tobytes(), key) % 0xFFFFFFFF) + 1
