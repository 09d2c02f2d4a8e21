"""A network with an addition of low rank for each of several tasks, of which the last one trains.

_target_: kdrun.networks.low_rank.LowRank
base: {_target_: kdrun.networks.mlp.MLP, width: 64}
rank: 8
tasks: 2          # additions; those before the last are frozen, and so is what they are added to
scale: 2.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdrun.networks.parts import parts_of
from kdrun.problems import UserError

SEMANTICS = 2

LAYERS = (nn.Linear, nn.Conv2d)
LANGUAGE_MODEL = "language_model"
ORIGINAL, ADDED = "parametrizations.weight.original", "parametrizations.weight.0."
"""How a state names the weight of the base of a layer, and what was added to it."""


class LowRank(nn.Module):
    """`base` whose linear layers and convolutions have the weight W + scale * sum over tasks t of B_t A_t (Hu et al. 2021, arXiv 2106.09685,
    where scale is alpha / rank); a weight [out, ...] is taken as a matrix [out, n].

    base   the network without additions. Of one that has a part `language_model` (networks.parts) that part alone is added to; what else it
           has, as projectors of its inputs, goes on training
    rank   r of A_t [r, n] and B_t [out, r]; at most the smaller side of a layer's matrix
    tasks  how many additions there are
    scale  of what is added

    A_t begins with orthonormal rows, B_t at 0, so that a new addition changes nothing, and a first step of gradient descent moves the weight scale^2
    times as far within these rows as it would move by itself. With one addition the base trains beside it; with more, only the last
    addition does, and layers with running statistics keep them as they are. Whatever else is asked of it the base answers.
    """

    supplies_inner = True

    def __init__(self, base: nn.Module, rank: int = 8, tasks: int = 1, scale: float = 2.0) -> None:
        super().__init__()
        if rank < 1 or tasks < 1:
            raise ValueError(f"rank and tasks must be at least 1, got {rank} and {tasks}")
        self.rank, self.tasks, self.network = rank, tasks, base
        self._where = parts_of(base).get(LANGUAGE_MODEL, ("",))
        layers = [part for part in self._added_to() if isinstance(part, LAYERS)]
        if not layers:
            raise UserError(f"{type(base).__name__} has no convolution or linear layer that could be added to")
        if tasks > 1:
            for path in self._where:
                base.get_submodule(path).requires_grad_(False)
        for layer in layers:
            parametrize.register_parametrization(
                layer, "weight", Additions(layer.weight, rank, tasks, scale), unsafe=True
            )

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.network(*inputs, **named)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":
                raise
            return getattr(self.network, name)

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """As of the base; see networks.parts."""
        return {name: tuple(f"network.{path}" for path in where) for name, where in parts_of(self.network).items()}

    def train(self, mode: bool = True) -> LowRank:
        """As of any module; running statistics of what is frozen stand still."""
        super().train(mode)
        if self.tasks > 1:
            for part in self._added_to():
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

    def _added_to(self) -> list[nn.Module]:
        """The modules of the base that additions are among."""
        parts = (part for path in self._where for part in self.network.get_submodule(path).modules())
        return list(dict.fromkeys(parts))


class Additions(nn.Module):
    """What is added to the weight of a layer: scale * B_t A_t of each task."""

    def __init__(self, weight: Tensor, rank: int, tasks: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        out, width = len(weight), weight[0].numel()
        rank = min(rank, out, width)
        self.a = nn.ParameterList(torch.empty(rank, width) for _ in range(tasks))
        self.b = nn.ParameterList(torch.zeros(out, rank) for _ in range(tasks))
        for number, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            nn.init.orthogonal_(a)
            a.requires_grad_(number == tasks - 1)
            b.requires_grad_(number == tasks - 1)

    def forward(self, weight: Tensor) -> Tensor:
        added = sum(b @ a for a, b in zip(self.a, self.b, strict=True))
        return weight + self.scale * added.reshape(weight.shape)
