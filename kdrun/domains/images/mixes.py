"""Images mixed with others of the training set (mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899), as a function of (key, sample id).

Both draw the partner, the share and the box of a sample by itself instead of one for a batch, so that a batch, a rank and a resume change
nothing and outputs of a teacher for replayed views can be stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdrun.data import randomness

_UNIT = 2.0**-64


@dataclass(frozen=True)
class Mixes:
    """mixup, cutmix: alpha of the symmetric Beta distribution that shares are drawn from; 0: not done. With both, each image has one of the two,
    each with probability 1/2."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def partners(self, key: int, ids: np.ndarray, count: int) -> np.ndarray:
        """int64 [b]: which of `count` samples each of these is mixed with."""
        return (_uniform(key, "partner", ids) * count).astype(np.int64)

    def shares(self, key: int, ids: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [b], share of the image itself; int64 [b, 4], box (top, bottom, left, right) that the partner fills; zeros for mixup)."""
        from scipy.special import betaincinv

        cuts = (
            _uniform(key, "kind", ids) < (0.5 if self.mixup > 0 else 1.0)
            if self.cutmix > 0
            else np.zeros(len(ids), bool)
        )
        alpha = np.where(cuts, self.cutmix, self.mixup)
        share = betaincinv(alpha, alpha, _uniform(key, "share", ids))
        side = np.sqrt(1 - share)
        boxes = np.zeros((len(ids), 4), np.int64)
        for place, (length, word) in enumerate(((height, "down"), (width, "right"))):
            center, half = (_uniform(key, word, ids) * length).astype(np.int64), (side * length).astype(np.int64) // 2
            boxes[:, 2 * place] = np.clip(center - half, 0, length)
            boxes[:, 2 * place + 1] = np.clip(center + half, 0, length)
        boxes[~cuts] = 0
        areas = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        share = np.where(cuts, 1 - areas / (height * width), share)  # what was clipped stays the image's own
        return share.astype(np.float32), boxes

    def __call__(self, inputs: Tensor, others: Tensor, key: int, ids: np.ndarray) -> Tensor:
        """float32 [b, C, H, W] of inputs and those of their partners, both normalised."""
        height, width = inputs.shape[-2:]
        share, boxes = self.shares(key, ids, height, width)
        result = torch.lerp(others, inputs, torch.from_numpy(share).view(-1, 1, 1, 1))
        for row in np.flatnonzero(boxes.any(axis=1)):
            top, bottom, left, right = boxes[row]
            result[row] = inputs[row]
            result[row, :, top:bottom, left:right] = others[row, :, top:bottom, left:right]
        return result


def _uniform(key: int, word: str, ids: np.ndarray) -> np.ndarray:
    """float64 [b] in 0..1."""
    drawn = randomness.bits(randomness.key("mix", word, key), ids)
    return np.minimum(drawn.astype(np.float64) * _UNIT, np.nextafter(1.0, 0.0))
