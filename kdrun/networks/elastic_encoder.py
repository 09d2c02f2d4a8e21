"""Widths of encoders of images and texts that can be chosen: attention heads and neurons of feed-forward networks (Star Elastic, arXiv
2605.07182; Minitron, arXiv 2407.14679). The width of tokens stays, and so does layer normalisation.
What may change results here raises the number of elastic_units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.networks.elastic_decoder import FFN, HEADS, Axis, resize, scaled_input, selected, summed
from kdrun.networks.modes import evaluating
from kdrun.problems import UserError, closest, listed

AXES = (HEADS, FFN)


@dataclass(frozen=True)
class Layout:
    """What parts of a network are called. layers: the list of its layers; in a layer, heads: linear layers whose outputs belong to heads,
    each of them so many `pieces` (queries, keys and values) behind each other; mixes: the linear layer that reads what heads give;
    up, down: those of the feed-forward network; counted: the number of heads."""

    layers: str
    heads: tuple[str, ...]
    pieces: int
    mixes: str
    up: str
    down: str
    counted: str

    @property
    def linear(self) -> tuple[str, ...]:
        return (*self.heads, self.mixes, self.up, self.down)

    def touched(self, name: str) -> tuple[str | None, str | None]:
        """The axes of the outputs and of the inputs of one of the linear layers of a layer."""
        return {self.mixes: (None, HEADS), self.up: (FFN, None), self.down: (None, FFN)}.get(name, (HEADS, None))


BERT = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
DISTILBERT = tuple(f"attention.{name}_lin" for name in "qkv")
LAYOUTS = (
    Layout("blocks", ("attn.qkv",), 3, "attn.proj", "mlp.0", "mlp.2", "attn.heads"),
    Layout(
        "encoder.layer", BERT, 1, "attention.output.dense", "intermediate.dense", "output.dense",
        "attention.self.num_attention_heads",
    ),
    Layout("transformer.layer", DISTILBERT, 1, "attention.out_lin", "ffn.lin1", "ffn.lin2", "attention.n_heads"),
)  # fmt: skip
"""kdrun's vision transformers; BERT, RoBERTa, MiniLM, ELECTRA; DistilBERT."""


def layout_of(network: nn.Module) -> tuple[Layout, str] | None:
    """How a network is put together, and the path of its layers; None where it is put together otherwise."""
    for layout in LAYOUTS:
        for path, part in network.named_modules():
            if isinstance(part, nn.ModuleList) and f".{path}".endswith(f".{layout.layers}") and len(part):
                named = [{name: inner for name, inner in layer.named_modules()} for layer in part]
                if all(isinstance(inside.get(name), nn.Linear) for inside in named for name in layout.linear):
                    return layout, path
    return None


class Encoder:
    """The axes of a network.

    network  is looked at, not changed
    found    see layout_of
    axes     those that may be narrowed; None: all
    example  inputs of one sample: by name, or a tensor

    All layers are as wide as each other; which heads and neurons a layer keeps is its own.
    Raises UserError for an axis that there is not, or layers of several widths.
    """

    costs = ("parameters", "macs", "latency")

    def __init__(self, network: nn.Module, found: tuple[Layout, str], axes: Sequence[str] | None, example: Any):
        (self.layout, self._path), self.example = found, example
        if unknown := [axis for axis in axes or () if axis not in AXES]:
            raise UserError(f"strategy.axes: no axis {unknown[0]!r}{closest(unknown[0], AXES)}; all: {listed(AXES)}")
        layers = self._layers(network)
        sizes = {(self._heads(layer), layer.get_submodule(self.layout.up).out_features) for layer in layers}
        if len(sizes) > 1:
            raise UserError(f"strategy=elastic: layers of {type(network).__name__} are not all as wide as each other")
        self.sizes = dict(zip(AXES, next(iter(sizes)), strict=True))
        chosen = [axis for axis in AXES if axis in (axes or AXES)]
        self.groups = {
            axis: Axis(axis, self.sizes[axis], (len(layers),), range(1, self.sizes[axis] + 1)) for axis in chosen
        }
        self._parameters: Counter[tuple[str, ...]] = Counter()
        self._macs: Counter[tuple[str, ...]] = Counter()
        self._count(network)

    def _layers(self, network: nn.Module) -> nn.ModuleList:
        return network.get_submodule(self._path)

    def _heads(self, layer: nn.Module) -> int:
        module, _, name = self.layout.counted.rpartition(".")
        return getattr(layer.get_submodule(module), name)

    def _count(self, network: nn.Module) -> None:
        """Parameters and multiply-adds of one sample, by the axes that they are in proportion to."""
        places, touched = {path: part for path, part in network.named_modules()}, {}
        for number in range(len(self._layers(network))):
            for name in self.layout.linear:
                touched[f"{self._path}.{number}.{name}"] = self.layout.touched(name)
        for name, parameter in network.named_parameters():
            outputs, inputs = touched.get(name.rpartition(".")[0], (None, None))
            axes = (outputs, inputs) if parameter.dim() > 1 else (outputs,)
            self._parameters[tuple(axis for axis in axes if axis)] += parameter.numel()

        def count(path: str) -> Callable[..., None]:
            axes = tuple(axis for axis in touched.get(path, ()) if axis)

            def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
                width = module.weight.shape[0]
                self._macs[axes] += output.numel() // width * module.weight.numel()
                if path.endswith(f".{self.layout.mixes}"):  # queries times keys, weights times values
                    self._macs[HEADS,] += 2 * inputs[0].numel() * inputs[0].shape[-2]

            return hook

        layers = {path: part for path, part in places.items() if isinstance(part, (nn.Linear, nn.Conv2d))}
        with ExitStack() as stack, evaluating(network), torch.no_grad():
            for path, part in layers.items():
                stack.callback(part.register_forward_hook(count(path)).remove)
            network(**self.example) if isinstance(self.example, Mapping) else network(self.example)

    def prepare(self, network: nn.Module, budgets: int) -> None:
        """Nothing has to be made for masks."""

    @contextmanager
    def masked(self, network: nn.Module, masks: Mapping[str, Tensor] | None, row: int | Tensor = 0) -> Iterator[None]:
        """Inside, a network computes with these masks: axis -> [layers, units]; None: all ones. Masked is what the linear layer behind the
        heads, and that behind the neurons, reads."""
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers(network) if masks else ()):
                if HEADS in masks:
                    mixes = layer.get_submodule(self.layout.mixes)
                    each = mixes.in_features // self.sizes[HEADS]
                    stack.enter_context(scaled_input(mixes, masks[HEADS][number].repeat_interleave(each)))
                if FFN in masks:
                    stack.enter_context(scaled_input(layer.get_submodule(self.layout.down), masks[FFN][number]))
            yield

    def rank(self, network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> dict[str, Tensor]:
        """Axis -> importance float64 [layers, units] for what `forward` computes of these batches: of heads the sum of the Euclidean norms
        of their outputs, of neurons that of their absolute values."""
        sums = {axis: torch.zeros(group.rows[0], group.units).double() for axis, group in self.groups.items()}

        def keep(axis: str, row: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple) -> None:
                values = inputs[0].detach().float().unflatten(-1, (self.sizes[axis], -1)).norm(dim=-1)
                sums[axis][row] += values.double().flatten(0, -2).sum(0).cpu()

            return hook

        with ExitStack() as stack:
            for row, layer in enumerate(self._layers(network)):
                for axis, name in ((HEADS, self.layout.mixes), (FFN, self.layout.down)):
                    if axis in sums:
                        handle = layer.get_submodule(name).register_forward_pre_hook(keep(axis, row))
                        stack.callback(handle.remove)
            for batch in batches:
                forward(batch)
        return sums

    def _shares(self, counts: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
        return {axis: counts.get(axis, size) / size for axis, size in self.sizes.items()}

    def cost(self, counts: Mapping[str, Tensor | float], what: str) -> Tensor | float:
        """Parameters, or multiply-adds of one sample, of the network with so many units of each axis."""
        return summed(self._parameters if what == "parameters" else self._macs, self._shares(counts))

    def features(self, counts: Mapping[str, Tensor | float]) -> list[Tensor | float]:
        """What the latency of one sample is a sum over: a constant, heads, neurons."""
        return [1.0, *self._shares(counts).values()]

    def cut(self, network: nn.Module, kept: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Takes all but these units out of a network, in place. kept: axis -> of each layer the numbers of its units."""
        for number, layer in enumerate(self._layers(network)):
            for name in self.layout.linear:
                linear = layer.get_submodule(name)
                for dimension, axis in enumerate(self.layout.touched(name)):
                    if axis not in kept:
                        continue
                    pieces, size = self.layout.pieces if name in self.layout.heads else 1, self.sizes[axis]
                    units = torch.tensor(
                        [piece * size + unit for piece in range(pieces) for unit in kept[axis][number]]
                    )
                    for parameter in (linear.weight, linear.bias)[: 1 if dimension or linear.bias is None else 2]:
                        parameter.data = selected(parameter.data, dimension, units, pieces * size)
                resize(linear)
            if HEADS in kept:
                module, _, name = self.layout.counted.rpartition(".")
                setattr(layer.get_submodule(module), name, len(kept[HEADS][number]))
