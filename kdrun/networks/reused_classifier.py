"""A student whose last layer is its teacher's: features through a projector, then the classifier of the teacher."""

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.capture import classifier

SEMANTICS = 1


class ReusedClassifier(nn.Module):
    """The student of SimKD (Chen et al. 2022, arXiv 2203.14001, section 3.2): projector and classifier stay in what is kept.

        logits = head(mean over positions of projector(maps))

    network: a network of images without its own last linear layer, which is taken out. A nested `_target_` knows nothing of the
        data: give it in_channels and image_size where it has no fitting defaults.
    maps: path of the module of `network` whose output [B, C, H, W] is projected.
    width: channels of the teacher's last maps, which its classifier reads.
    factor: the projector's convolutions (1x1, 3x3, 1x1, each with batch normalisation and ReLU) have width / factor inner channels.
    grid: side of the teacher's last maps: larger ones of the student are averaged to it first. None: they are projected as they are.
    num_classes: of the data.

    An objective with `simkd` gives `head` the teacher's weights and holds them. forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        network: nn.Module,
        maps: str,
        width: int,
        factor: int = 2,
        grid: int | None = None,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        last = classifier(network)
        for name, module in network.named_modules():
            if module is last:
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, nn.Identity())
                break
        self.network, self.maps, self.grid = network, maps, grid
        inner = max(width // factor, 1)
        self.projector = nn.Sequential(
            nn.LazyConv2d(inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        handle = self.network.get_submodule(self.maps).register_forward_hook(lambda _, __, output: found.append(output))
        try:
            self.network(images)
        finally:
            handle.remove()
        maps = found[-1]
        if self.grid is not None and min(maps.shape[2:]) > self.grid:
            maps = functional.adaptive_avg_pool2d(maps, (self.grid, self.grid))
        return self.head(self.projector(maps).mean((2, 3)))
