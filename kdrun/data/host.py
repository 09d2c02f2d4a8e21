"""What is known of a batch in main memory once the batch is on a device, so that no step has to wait until a device has said it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

HOST = "host"
"""Key of a batch: {name: tensor in main memory} of those KEPT that it has."""
KEPT = ("ids", "mask", "visual_mask", "labelled")
SCALING = "scaling"
"""Key of a batch whose inputs are raw: (factor, offset) that make them inputs of a network."""


MOVES = "moves"
"""Key of a batch whose inputs are whole raw images: what `cut` makes those of the network of."""


def placed(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch on a device, raw inputs cropped, mirrored and normalised there, with HOST."""
    kept = {name: batch[name] for name in KEPT if isinstance(batch.get(name), Tensor)}
    there = moved({name: value for name, value in batch.items() if name not in (HOST, SCALING, MOVES)}, device)
    if MOVES in batch:  # lists, where torch's loader has pinned them
        there["inputs"] = cut(there["inputs"], *moved(tuple(batch[MOVES]), device))
    if SCALING in batch:
        factor, offset = moved(tuple(batch[SCALING]), device)
        there["inputs"] = there["inputs"].to(torch.float32).mul_(factor).add_(offset)
    return {**there, HOST: kept}


def cut(images: Tensor, border: int, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Of images [B, C, H, W] with so many black pixels on each side, one of the old size each, cut out at (down, right) [B] and mirrored left to
    right where `mirrored` [B] says so."""
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, [border] * 4)
    across = torch.arange(width, device=images.device)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.where(mirrored[:, None], width - 1 - across, across)
    of = torch.arange(len(images), device=images.device)
    return padded[of[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def moved(value: Any, device: torch.device) -> Any:
    """Tensors in mappings and tuples on a device; what is kept in main memory stays there."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: item if key == HOST else moved(item, device) for key, item in value.items()}
    return tuple(moved(item, device) for item in value) if isinstance(value, tuple) else value


def on_host(batch: Mapping[str, Any], name: str) -> Tensor:
    """A tensor of a batch in main memory."""
    kept = batch.get(HOST, {})
    return kept[name] if name in kept else batch[name].cpu()


class Places:
    """Where masks of a batch are true, from the masks in main memory: no device has to count.

    masks: {name: bool in main memory}.
    """

    def __init__(self, masks: Mapping[str, Tensor], device: torch.device):
        self._masks, self._device = masks, device
        self._places: dict[str, Tensor] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._masks

    def of(self, name: str) -> Tensor:
        """int64 [N], on the device: numbers of the true positions of a mask that is made flat."""
        if name not in self._places:
            found = self._masks[name].flatten().nonzero().flatten()
            self._places[name] = found.to(self._device, non_blocking=True)
        return self._places[name]
