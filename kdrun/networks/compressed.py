"""A network made smaller: channels taken out, and weights and activations rounded to 8 bits while it trains.

    _target_: kdrun.networks.compressed.Compressed
    base: {_target_: kdrun.networks.resnet.ResNet, depth: 8, _partial_: true}
    prune: 0.5        # share of the channels of every layer that is taken out
    quantize: true    # 8-bit rounding of weights and inputs of every layer, with gradients passed straight through

Which channels go depends on the weights that it starts from (`adopt`); how many go does not, so a weights file alone says everything.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import kdrun.networks.quiet  # noqa: F401
from kdrun import targets
from kdrun.networks.modes import evaluating
from kdrun.optional import needed
from kdrun.problems import UserError

SEMANTICS = 1

IMPORTANCE = ("l2", "l1")
LOW, HIGH = -128, 127
"""Activations are rounded to signed 8 bits with a zero point, weights symmetrically to -127..127 (-128 is never reached)."""


class Compressed(nn.Module):
    """`base` with fewer channels, rounded to 8 bits, or both.

    base        the network that it was: its target node with `_partial_: true`
    prune       share of the channels of every layer but the last that is taken out, 0 to below 1
    quantize    round weights (per output channel, symmetric) and inputs (per tensor) of convolutions and linear layers to 8 bits
    importance  what of a channel's weights says that it matters: "l2" or "l1" norm over its group of layers (DepGraph,
                arXiv 2301.12900, implemented by torch-pruning)
    in_channels, image_size, num_classes: of the data.

    forward: as the base. Inputs are as wide, outputs are the same.
    """

    def __init__(
        self,
        base: Callable[..., nn.Module],
        prune: float = 0.0,
        quantize: bool = False,
        importance: str = "l2",
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, ...] = 32,
    ) -> None:
        super().__init__()
        if not 0 <= prune < 1:
            raise ValueError(f"prune is a share of channels, 0 to below 1, got {prune}")
        if importance not in IMPORTANCE:
            raise ValueError(f"importance must be one of {', '.join(IMPORTANCE)}, got {importance!r}")
        self.base, self.prune, self.quantize, self.importance = base, prune, quantize, importance
        self._known = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        self.network = self._plain(self.base)
        if prune:
            take_out(self.network, self._example(), prune, importance)
        if quantize:
            make_rounding(self.network)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        return self.network(*inputs, **named)

    def adopt(self, metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state for this network from weights that were saved of its base, or of the base with other compression.

        metadata: of the file, with the node of its network. Channels are taken out by the importance of these weights. Ranges of
        activations are kept where both have them and no channel went; others are to be learned.
        Raises UserError where channels would have to come back, or the weights are another network's.
        """
        node = metadata.get("network")
        base = self.base if node is None else _partial(node)
        pruned = 0.0
        if base.func is Compressed:
            source = base(**self._known)
            base, pruned = source.base, source.prune
        else:
            source = self._plain(base)
        if (base.func, base.keywords) != (self.base.func, self.base.keywords):
            raise UserError(f"weights of {_said(base)} cannot start a compressed {_said(self.base)}")
        if pruned not in (0.0, self.prune):
            raise UserError(
                f"weights with {pruned:g} of the channels taken out cannot start one with {self.prune:g} taken out"
            )
        source.load_state_dict(dict(tensors), strict=True)
        network = source.network if isinstance(source, Compressed) else source
        if self.prune and not pruned:
            network = copy.deepcopy(network)
            without_rounding(network)
            take_out(network, self._example(), self.prune, self.importance)
        state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        return {
            name: state.get(name, tensor) if ".rounding." in name else state[name]
            for name, tensor in self.state_dict().items()
        }

    def plain(self) -> nn.Module:
        """A copy of the inner network without rounding, for formats that bring their own."""
        network = copy.deepcopy(self.network)
        without_rounding(network)
        return network

    def _plain(self, base: Callable[..., nn.Module]) -> nn.Module:
        accepted = inspect.signature(base.func).parameters
        return base(
            **{name: value for name, value in self._known.items() if name in accepted and name not in base.keywords}
        )

    def _example(self) -> torch.Tensor:
        size = self._known["image_size"]
        sides = (size, size) if isinstance(size, int) else tuple(size)
        return torch.zeros(2, self._known["in_channels"], *sides)


def _partial(node: Mapping[str, Any]) -> Callable[..., nn.Module]:
    return targets.build({**node, "_partial_": True}, "network")


def _said(base: Callable[..., nn.Module]) -> str:
    given = ", ".join(f"{name}={value}" for name, value in base.keywords.items())
    return f"{base.func.__name__}({given})"


def take_out(network: nn.Module, example: torch.Tensor, share: float, importance: str) -> None:
    """Structured magnitude pruning of every layer but the last linear one, in place; layers that depend on each other lose the same
    channels. Batch-norm statistics and modes are as before. Raises UserError where the network cannot be taken apart."""
    torch_pruning = needed("torch_pruning", "pruning needs torch-pruning", "torch-pruning")
    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    before = sum(parameter.numel() for parameter in network.parameters())
    try:
        with evaluating(network), torch.enable_grad():
            pruner = torch_pruning.pruner.BasePruner(
                network,
                example,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2 if importance == "l2" else 1),
                pruning_ratio=share,
                global_pruning=False,
                ignored_layers=layers[-1:],
            )
            pruner.step()
            with torch.no_grad():
                network(example)
    except Exception as error:  # whatever a network's own forward does that cannot be followed
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{type(network).__name__} cannot be pruned: {type(error).__name__}: {first}") from error
    if sum(parameter.numel() for parameter in network.parameters()) == before:
        raise UserError(f"{type(network).__name__}: nothing in it can be pruned by a share of {share:g}")


class Rounding(nn.Module):
    """Rounds to 8 bits within a range that a torchao observer follows while training; gradients pass straight through.

    The range stands still in eval mode, so validation and test leave no trace in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observer = _observer()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.device.type == "meta":  # counts operations, of which rounding is none
            return values
        if self.training:
            self.observer(values.detach())
        if not torch.isfinite(self.observer.min_val).all():  # nothing was seen yet
            return values
        scale, zero = self.observer.calculate_qparams()
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, LOW, HIGH)


class WeightRounding(nn.Module):
    """[out, ...] rounded to 8 bits, symmetrically, with a scale for each output channel that follows the weights."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight if weight.device.type == "meta" else _per_channel(weight, scales(weight))


class Fixed(nn.Module):
    """Rounding with numbers that are settled, as file formats want them: those of a tensor, or of a weight's channels."""

    def __init__(self, scale: torch.Tensor, zero: int | None = None) -> None:
        super().__init__()
        self.zero = zero
        self.step = scale.item() if zero is not None else None
        if zero is None:
            self.register_buffer("scale", scale)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.zero is None:
            return _per_channel(values, self.scale)
        return torch.fake_quantize_per_tensor_affine(values, self.step, self.zero, LOW, HIGH)


def scales(weight: torch.Tensor) -> torch.Tensor:
    """[out]: the largest absolute weight of each output channel is 127 steps."""
    largest = weight.detach().abs().flatten(1).amax(1)
    return torch.clamp(largest / HIGH, min=torch.finfo(torch.float32).eps)


def _per_channel(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, LOW, HIGH)


class RoundedLinear(nn.Linear):
    """A linear layer in 8 bits."""

    rounding: nn.Module
    weight_rounding: nn.Module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.rounding(inputs), self.weight_rounding(self.weight), self.bias)


class RoundedConv2d(nn.Conv2d):
    """A convolution in 8 bits."""

    rounding: nn.Module
    weight_rounding: nn.Module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.rounding(inputs), self.weight_rounding(self.weight), self.bias)


KINDS = {nn.Linear: RoundedLinear, nn.Conv2d: RoundedConv2d}


def make_rounding(network: nn.Module) -> None:
    """Every convolution and linear layer in place; their parameters keep their names. UserError where there is none."""
    layers = [part for part in network.modules() if type(part) in KINDS]
    if not layers:
        raise UserError(f"{type(network).__name__} has no convolution or linear layer to quantise")
    for layer in layers:
        layer.__class__ = KINDS[type(layer)]
        layer.rounding, layer.weight_rounding = Rounding(), WeightRounding()


def rounded_layers(network: nn.Module) -> list[nn.Module]:
    """Layers that are rounded to 8 bits."""
    return [part for part in network.modules() if type(part) in KINDS.values()]


def settled(network: nn.Module) -> nn.Module:
    """A copy whose rounding no longer looks at values: what is written into files. UserError where a layer has seen nothing yet."""
    network = copy.deepcopy(network).eval()
    for layer in rounded_layers(network):
        observer = layer.rounding.observer
        if not torch.isfinite(observer.min_val).all():
            raise UserError(f"{type(network).__name__}: no training step has gone through all of its 8-bit layers")
        scale, zero = observer.calculate_qparams()
        layer.rounding, layer.weight_rounding = Fixed(scale, int(zero.item())), Fixed(scales(layer.weight))
    return network


def without_rounding(network: nn.Module) -> None:
    """The reverse, in place."""
    back = {rounded: plain for plain, rounded in KINDS.items()}
    for layer in [part for part in network.modules() if type(part) in back]:
        layer.__class__ = back[type(layer)]
        del layer.rounding, layer.weight_rounding


def _observer() -> nn.Module:
    observers = needed("torchao.quantization.pt2e", "quantisation-aware training needs torchao")
    return observers.MovingAverageMinMaxObserver(
        averaging_constant=0.01, dtype=torch.qint8, qscheme=torch.per_tensor_affine, quant_min=LOW, quant_max=HIGH
    )
