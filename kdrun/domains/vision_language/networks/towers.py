"""Vision towers by name: frozen networks from images to a grid of features, with weights that packages bring."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.vision_language.networks import efficientnet_lite
from kdrun.problems import UserError, closest, listed


class Tower(nn.Module):
    """A frozen network; it stays in eval mode whatever the network around it does.

    name: as in TOWERS. identity: the name and the first digits of the weights' sha256. width: C, of one feature.
    stride: pixels per feature in each direction; images are squares of a multiple of MULTIPLE pixels.
    joined: how many neighbours in each direction are put side by side in one feature: fewer and wider ones, nothing lost.
    tower(pixels float [n, 3, size, size], normalised) -> float [n, tokens(size), width], row by row from the top left.
    """

    MULTIPLE = 32

    def __init__(self, name: str, network: nn.Module, width: int, stride: int, identity: str, joined: int = 1) -> None:
        super().__init__()
        self.name, self.identity, self.joined = name, identity, joined
        self.width, self.stride = width * joined**2, stride * joined
        self.network = network
        self.requires_grad_(False)
        self.train(False)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, 3, H, W] to what the tower reads, float32 of the same shape."""
        return (pixels.float() - 127) / 128

    def tokens(self, size: int) -> int:
        """How many features an image of size x size gives. Raises UserError for a size the tower cannot read."""
        if size < self.MULTIPLE or size % self.MULTIPLE:
            raise UserError(f"{self.name} reads square images of a multiple of {self.MULTIPLE} pixels, got {size}")
        return (size // self.stride) ** 2

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.tokens(pixels.shape[-1])
        features = self.network.features(pixels)
        if self.joined > 1:
            features = functional.pixel_unshuffle(features, self.joined)
        return features.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> Tower:
        """Eval mode, always: batch norm of a frozen tower uses what it was trained with."""
        return super().train(False)


def efficientnet_lite0(name: str) -> Tower:
    """EfficientNet-Lite0 of ImageNet classes (not CLIP): 1280 values every 32 pixels.

    @16: the last block at stride 16, 112 values every 16 pixels. @16x2: two by two of these side by side, 448 every 32.
    Small things and letters are gone in the last block: @16x2 tells more of them in as few features.
    """
    path = efficientnet_lite.weights_file()
    cut = "@16" in name
    network = efficientnet_lite.EfficientNetLite0(efficientnet_lite.BLOCKS_AT_16 if cut else None)
    if not next(network.parameters()).is_meta:
        efficientnet_lite.load(network, path)
    network.classifier = None
    joined = 2 if name.endswith("x2") else 1
    return Tower(name, network, network.width, 16 if cut else 32, f"{name}@{_hash(path)}", joined)


TOWERS = dict.fromkeys(("efficientnet_lite0", "efficientnet_lite0@16", "efficientnet_lite0@16x2"), efficientnet_lite0)


def build_tower(name: str) -> Tower:
    """The tower of a name of TOWERS, or of an identity ("name@hash" or "name@hash/size"), on CPU unless on meta.

    Raises UserError for an unknown name, absent weights, or weights that are not those of the identity.
    """
    found = re.fullmatch(r"(?P<name>.+?)(?:@(?P<hash>[0-9a-f]{12}))?(?:/\d+)?", name)
    wanted, hashed = found["name"], found["hash"]
    if wanted not in TOWERS:
        raise UserError(f"no vision tower {wanted!r}{closest(wanted, TOWERS)}", f"there are: {listed(TOWERS)}")
    tower = TOWERS[wanted](wanted)
    if hashed and not tower.identity.endswith(f"@{hashed}"):
        raise UserError(
            f"the weights of the vision tower are {tower.identity}, the data's features are from {name}",
            "prepare the features anew, or install the version of the package that they were made with",
        )
    return tower


@cache
def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
