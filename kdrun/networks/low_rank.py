"""A network with an addition of low rank for each of several tasks, of which the last one trains.

_target_: kdrun.networks.low_rank.LowRank
base: {_target_: kdrun.networks.mlp.MLP, width: 64, _partial_: true}
rank: 8
tasks: 2          # additions; those before the last are frozen, and so is the base
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdrun.problems import UserError

SEMANTICS = 1

LAYERS = (nn.Linear, nn.Conv2d)
ORIGINAL, ADDED = "parametrizations.weight.original", "parametrizations.weight.0."
"""How a state names the weight of the base of a layer, and what was added to it."""


class LowRank(nn.Module):
    """`base` whose linear layers and convolutions have the weight W + sum over tasks t of B_t A_t (Hu et al. 2021, arXiv 2106.09685, with
    the factor alpha / rank at 1); a weight [out, ...] is taken as a matrix [out, n].

    base   the network without additions: its target node with `_partial_: true`
    rank   r of A_t [r, n] and B_t [out, r]; at most the smaller side of a layer's matrix
    tasks  how many additions there are
    num_classes, in_channels, image_size: of the data.

    A_t begins as the weights of a linear layer do, B_t at 0, so that a new addition changes nothing. With one addition the base trains beside it;
    with more, only the last addition does, and layers with running statistics keep them as they are.
    """

    def __init__(
        self,
        base: Callable[..., nn.Module],
        rank: int = 8,
        tasks: int = 1,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, ...] = 32,
    ) -> None:
        super().__init__()
        if rank < 1 or tasks < 1:
            raise ValueError(f"rank and tasks must be at least 1, got {rank} and {tasks}")
        self.base, self.rank, self.tasks = base, rank, tasks
        known = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        accepted = inspect.signature(base.func).parameters
        self.network = base(
            **{name: value for name, value in known.items() if name in accepted and name not in base.keywords}
        )
        layers = [part for part in self.network.modules() if isinstance(part, LAYERS)]
        if not layers:
            raise UserError(f"{type(self.network).__name__} has no convolution or linear layer that could be added to")
        self.network.requires_grad_(tasks == 1)
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", Additions(layer.weight, rank, tasks), unsafe=True)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.network(*inputs, **named)

    def train(self, mode: bool = True) -> LowRank:
        """As of any module; running statistics of a base that is frozen stand still."""
        super().train(mode)
        if self.tasks > 1:
            for part in self.network.modules():
                if isinstance(part, nn.modules.batchnorm._NormBase):
                    part.eval()
        return self

    @property
    def additions(self) -> list[Additions]:
        """Of each layer, in the order of modules."""
        return [part for part in self.modules() if isinstance(part, Additions)]

    def adopt(self, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state for this network from weights of the base, or of the base with fewer additions; those that are missing are as they begin."""
        own = self.state_dict()
        missing = {name: tensor for name, tensor in own.items() if ADDED in name and name not in tensors}
        if any(ADDED in name for name in tensors):
            return {**missing, **tensors}
        here = {name.removeprefix("network.").replace(ORIGINAL, "weight"): name for name in own if ADDED not in name}
        return {**missing, **{here.get(name, name): tensor for name, tensor in tensors.items()}}


class Additions(nn.Module):
    """What is added to the weight of a layer: B_t A_t of each task."""

    def __init__(self, weight: Tensor, rank: int, tasks: int) -> None:
        super().__init__()
        out, width = len(weight), weight[0].numel()
        rank = min(rank, out, width)
        self.a = nn.ParameterList(torch.empty(rank, width) for _ in range(tasks))
        self.b = nn.ParameterList(torch.zeros(out, rank) for _ in range(tasks))
        for number, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            nn.init.kaiming_uniform_(a, a=5**0.5)
            a.requires_grad_(number == tasks - 1)
            b.requires_grad_(number == tasks - 1)

    def forward(self, weight: Tensor) -> Tensor:
        added = sum(b @ a for a, b in zip(self.a, self.b, strict=True))
        return weight + added.reshape(weight.shape)
