"""Channels of convolutional networks and perceptrons as widths that can be chosen: groups of layers that depend on each other, found by
torch-pruning (DepGraph, arXiv 2301.12900), masked while a network is trained and taken out when it is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.networks.modes import evaluating
from kdrun.optional import needed
from kdrun.problems import UserError

SEMANTICS = 1

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
Counts = Mapping[str, Tensor | float]
"""Group -> how many of its units are kept, which is a fraction where it is an expectation."""


class ByBudget:
    """What a layer multiplies its output by, set for one forward pass. mask: [units of the layer], None for ones."""

    mask: Tensor | None = None

    def _masked(self, output: Tensor) -> Tensor:
        if self.mask is None:
            return output
        dimension = -1 if isinstance(self, nn.Linear) or output.dim() < 3 else 1
        shape = [1] * output.dim()
        shape[dimension] = -1
        return output * self.mask.view(shape)


class MaskedConv1d(ByBudget, nn.Conv1d):
    def forward(self, inputs: Tensor) -> Tensor:
        return self._masked(super().forward(inputs))


class MaskedConv2d(ByBudget, nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return self._masked(super().forward(inputs))


class MaskedLinear(ByBudget, nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return self._masked(super().forward(inputs))


class BudgetNorm(ByBudget, nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose statistics are those of the budget that is computed (switchable, arXiv 1812.08928): what a channel is
    given has another mean with fewer channels before it. Scale and shift are shared.

    running_mean, running_var: [budgets, C]. row: of the budget, or weights [budgets] by which rows are averaged in eval mode.
    """

    row: int | Tensor = 0

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, inputs: Tensor) -> Tensor:
        if isinstance(self.row, int):
            mean, variance = self.running_mean[self.row], self.running_var[self.row]
        else:
            mean, variance = self.row @ self.running_mean, self.row @ self.running_var
        if self.training:
            self.num_batches_tracked.add_(1)
        statistics = functional.batch_norm(
            inputs, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self._masked(statistics)


KINDS = {nn.Conv1d: MaskedConv1d, nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}


@dataclass
class Group:
    """Units that are kept or left out together in all layers that depend on each other.

    name     path of the layer that makes them
    units    how many there are
    writes   path of each layer whose outputs they are -> (its outputs, the unit of each)
    reads    path of each layer whose inputs they are -> how many inputs each unit is
    masked   those of `writes` that are masked: a layer before a batch normalisation of the group is not, so that the statistics of
             its channels are known whether they are kept or not
    """

    axis: ClassVar[str] = "channels"
    rows: ClassVar[tuple[int, ...]] = ()

    def width(self, share: float) -> int:
        """The smallest number of units that is at least this share of them."""
        return max(1, math.ceil(share * self.units - 1e-9))

    name: str
    units: int
    writes: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    reads: dict[str, float] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)


class Channels:
    """The groups of a network of images or tables.

    network   is looked at, not changed
    example   inputs of two samples
    """

    costs = ("parameters", "macs", "latency")

    def __init__(self, network: nn.Module, example: Tensor):
        self._example, self.example = example, example[:1]
        self.groups: dict[str, Group] = _groups(network, example)
        if not self.groups:
            raise UserError(
                f"{type(network).__name__} has no channels that can be left out",
                "convolutions, linear layers and batch normalisation can; layer and group normalisation and attention cannot",
            )
        self._masked = _places(self.groups)
        self._layers = _layers(network, example, self.groups)
        known = sum(layer.weights + layer.biases for layer in self._layers)
        self._fixed = sum(parameter.numel() for parameter in network.parameters()) - known

    def prepare(self, network: nn.Module, budgets: int) -> None:
        """Makes the layers of a network, in place, those that can be masked; names of its parameters stay."""
        for path, module in list(network.named_modules()):
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.__class__ = BudgetNorm
                for name in ("running_mean", "running_var"):
                    module.register_buffer(name, getattr(module, name).repeat(budgets, 1))
            elif path in self._masked and type(module) in KINDS:
                module.__class__ = KINDS[type(module)]

    @contextmanager
    def masked(self, network: nn.Module, masks: Mapping[str, Tensor] | None, row: int | Tensor) -> Iterator[None]:
        """Inside, a prepared network computes with these masks (group -> [units]; None: all ones) and the statistics of a row."""
        modules = dict(network.named_modules())
        norms = [module for module in modules.values() if isinstance(module, BudgetNorm)]
        for norm in norms:
            norm.row = row
        places = self._masked if masks else {}
        try:
            for path, groups in places.items():
                mask = next(iter(masks.values())).new_ones(_outputs(modules[path]))
                for name in groups:
                    outputs, units = self.groups[name].writes[path]
                    mask = mask.index_copy(0, torch.tensor(outputs, device=mask.device), masks[name][units])
                modules[path].mask = mask
            yield
        finally:
            for path in places:
                modules[path].mask = None
            for norm in norms:
                norm.row = 0

    def rank(self, network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> dict[str, Tensor]:
        """Group -> importance of each unit, for what `forward` computes of these batches."""
        with self.observed(network) as scores:
            for batch in batches:
                forward(batch)
        return scores

    @contextmanager
    def observed(self, network: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Group -> importance of each unit, summed over what the network computes inside: the mean absolute output of the layers that
        write it (of normalisations behind them), each layer's as a share of its own sum."""
        sums: dict[str, Tensor] = {}
        handles, modules = [], dict(network.named_modules())

        def keep(path: str):
            def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
                dimension = output.dim() - 1 if isinstance(module, nn.Linear) or output.dim() < 3 else 1
                values = output.detach().abs().double()
                values = values.mean([n for n in range(values.dim()) if n != dimension])
                sums[path] = sums.get(path, 0) + values

            return hook

        handles = [modules[path].register_forward_hook(keep(path)) for path in self._masked]
        scores: dict[str, Tensor] = {}
        try:
            yield scores
        finally:
            for handle in handles:
                handle.remove()
        for name, group in self.groups.items():
            total = torch.zeros(group.units, dtype=torch.float64)
            for path in group.masked:
                if path in sums:
                    outputs, units = group.writes[path]
                    share = (sums[path] / sums[path].sum().clamp(min=1e-12)).cpu()
                    total.index_add_(0, torch.tensor(units), share[outputs])
            scores[name] = total

    def cost(self, counts: Counts, what: str) -> Tensor | float:
        """Parameters, or multiply-adds of one sample, of the network with so many units of each group."""
        counts = {name: counts.get(name, group.units) for name, group in self.groups.items()}
        total: Tensor | float = self._fixed if what == "parameters" else 0.0
        for layer in self._layers:
            outputs = _share(layer.writes, counts, layer.outputs)
            inputs = 1.0 if layer.depthwise else _share(layer.reads, counts, layer.inputs)
            if what == "parameters":
                total = total + layer.weights * outputs * inputs + layer.biases * outputs
            else:
                total = total + layer.macs * outputs * inputs
        return total

    def features(self, counts: Counts) -> list[Tensor | float]:
        """What the latency of one sample is a sum over: a constant, multiply-adds, parameters, each as a share of the whole network's."""
        return [1.0, *(self.cost(counts, what) / self.cost({}, what) for what in ("macs", "parameters"))]

    def cut(self, network: nn.Module, kept: Mapping[str, list[int]]) -> None:
        """Takes all but these units of each group out of a network that is not prepared, in place."""
        torch_pruning = _torch_pruning()
        with evaluating(network), torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(network, self._example)
            modules = dict(network.named_modules())
            for name, units in kept.items():
                gone = sorted(set(range(self.groups[name].units)) - set(units))
                if gone:
                    graph.get_pruning_group(modules[name], _writer(torch_pruning, modules[name]), gone).prune()


@torch.no_grad()
def fresh_statistics(network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    """Batch normalisation takes the statistics of what `forward` computes of these batches, a mean over all of them."""
    norms = {part: part.momentum for part in network.modules() if isinstance(part, _BatchNorm)}
    norms = {norm: momentum for norm, momentum in norms.items() if norm.track_running_stats}
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None
        for batch in batches if norms else ():
            forward(batch)
    for norm, momentum in norms.items():
        norm.momentum = momentum


@dataclass
class _Layer:
    """What a layer costs. weights, biases: how many; macs: of one sample; writes, reads: group -> outputs or inputs of one unit."""

    weights: int
    biases: int
    macs: int
    outputs: int
    inputs: int
    depthwise: bool
    writes: dict[str, tuple[float, int]]
    reads: dict[str, tuple[float, int]]


def _share(places: Mapping[str, tuple[float, int]], counts: Counts, size: int) -> Tensor | float:
    """Share of a layer's outputs or inputs that is kept."""
    gone: Tensor | float = 0.0
    for name, (each, units) in places.items():
        gone = gone + each * (units - counts[name])
    return 1.0 - gone / size


def _torch_pruning() -> Any:
    return needed("torch_pruning", "widths that can be chosen need torch-pruning", "torch-pruning")


def _writer(torch_pruning: Any, layer: nn.Module) -> Any:
    return (
        torch_pruning.prune_linear_out_channels
        if isinstance(layer, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )


def _groups(network: nn.Module, example: Tensor) -> dict[str, Group]:
    """The groups whose layers all can be masked; those of the last linear layer's outputs are none."""
    torch_pruning, paths = _torch_pruning(), {module: path for path, module in network.named_modules()}
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    groups: dict[str, Group] = {}
    try:
        with evaluating(network), torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(network, example)
            for item in list(graph.get_all_groups(ignored_layers=last, root_module_types=list(LAYERS))):
                if group := _group(item, paths, graph):
                    groups[group.name] = group
    except Exception as error:  # whatever a network's own forward does that cannot be followed
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{type(network).__name__} cannot be taken apart: {type(error).__name__}: {first}") from error
    return groups


def _group(item: Any, paths: Mapping[nn.Module, str], graph: Any) -> Group | None:
    """A group of torch-pruning as ours; None where a layer is in it that cannot be masked."""
    root = item[0].dep.target.module
    group = Group(paths[root], len(item[0].idxs))
    for entry in item:
        module, handler = entry.dep.target.module, entry.dep.handler.__name__
        if module not in paths:  # an operation: additions, reshaping ...
            continue
        path, units = paths[module], entry.root_idxs
        if not isinstance(module, (*LAYERS, _BatchNorm)) or None in units:
            return None
        if "out_channels" in handler:
            if getattr(module, "groups", 1) not in (1, getattr(module, "in_channels", 1)):
                return None
            group.writes[path] = list(entry.idxs), list(units)
            after = [node.module for node in graph.module2node[module].outputs]
            if not after or not all(isinstance(following, _BatchNorm) for following in after):
                group.masked.append(path)
        else:
            group.reads[path] = len(entry.idxs) / group.units
    return group


def _places(groups: Mapping[str, Group]) -> dict[str, list[str]]:
    """Path of each layer that is masked -> groups of its outputs."""
    places: dict[str, list[str]] = {}
    for name, group in groups.items():
        for path in group.masked:
            places.setdefault(path, []).append(name)
    return places


def _outputs(module: nn.Module) -> int:
    names = ("out_channels", "out_features", "num_features")
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _layers(network: nn.Module, example: Tensor, groups: Mapping[str, Group]) -> list[_Layer]:
    positions: dict[str, float] = {}

    def keep(path: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            positions[path] = output.numel() / len(output) / _outputs(module)

        return hook

    layers = {path: part for path, part in network.named_modules() if isinstance(part, (*LAYERS, _BatchNorm))}
    handles = [part.register_forward_hook(keep(path)) for path, part in layers.items()]
    with evaluating(network), torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    made = []
    for path, part in layers.items():
        writes = {name: (len(g.writes[path][0]) / g.units, g.units) for name, g in groups.items() if path in g.writes}
        reads = {name: (g.reads[path], g.units) for name, g in groups.items() if path in g.reads}
        outputs, norm = _outputs(part), isinstance(part, _BatchNorm)
        inputs = outputs if norm else getattr(part, "in_channels", None) or part.in_features
        own = {name: parameter.numel() for name, parameter in part.named_parameters(recurse=False)}
        weights = 0 if norm else own.pop("weight")
        macs = round(weights * positions.get(path, 0))
        depthwise = norm or getattr(part, "groups", 1) > 1
        made.append(_Layer(weights, sum(own.values()), macs, outputs, inputs, depthwise, writes, reads))
    return made
