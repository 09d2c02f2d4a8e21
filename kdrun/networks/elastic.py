"""Nested students in one network: widths chosen by a router for each budget while it is trained, and networks cut out of it afterwards
(Star Elastic, arXiv 2605.07182; Nemotron Elastic, arXiv 2511.16664; Flextron's router, arXiv 2406.10260).

    _target_: kdrun.networks.elastic.Elastic
    base: {_target_: kdrun.networks.resnet.ResNet, depth: 14, _partial_: true}
    budgets: [1.0, 0.7, 0.4]     # cost of each student as a share of the whole network's
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import kdrun.networks.quiet  # noqa: F401
from kdrun import targets
from kdrun.networks.elastic_channels import fresh_statistics
from kdrun.networks.elastic_router import Told, fitted, router_of, softened
from kdrun.networks.elastic_timing import fitted_latency
from kdrun.networks.elastic_units import check_cost, numbers, plain_network, units_of
from kdrun.networks.modes import evaluating
from kdrun.problems import UserError, listed

SEMANTICS = 3
USES = ("kdrun.networks.elastic_units", "kdrun.networks.elastic_channels", "kdrun.networks.elastic_decoder")
USES += ("kdrun.networks.elastic_router", "kdrun.networks.elastic_timing", "kdrun.networks.elastic_experts")

LATENCY = "latency"
OF_BASE = ("hidden", "generate", "save_transformers", "model", "vocabulary", "eos")
SAMPLING = ("curriculum", "uniform", "biased")
CHOICES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
SETTLED = 0.5
"""Share of training after which each budget has the widths that it is cut out with."""


class Elastic(nn.Module):
    """`base` with widths that depend on a budget, which is drawn anew for every step.

    base         the network: its target node with `_partial_: true`
    budgets      cost of each student as a share of the whole network's, the largest first, which is 1
    choices      shares of its units that each group of layers may keep, the largest first, which is 1
    cost         what a budget is a share of: "parameters", "macs" of one sample, "latency" of one sample as measured where it is trained, or of
                 a language model "memory" (of parameters, keys and values)
    router       learns which widths each budget has, group by group; false: the same share everywhere (as MatFormer, arXiv 2310.07707,
                 and slimmable networks have it), the largest that is within the budget
    sampling     of budgets: "uniform"; "biased": in proportion to their size; "curriculum": uniform in the first half of training, then biased
    evaluated    the budget that is computed in eval mode
    hidden       of the router
    calibration  training samples by which units are ranked before the first step
    axes         of a language model, those that may be narrowed (elastic_decoder.AXES); None: all
    num_classes, in_channels, image_size, vocabulary, pad, eos, max_length: of the data.

    In training mode widths are soft masks, sum_i pi_i I_i with pi a Gumbel softmax of the router's logits: the temperature falls from 1 to
    0.05 and logits are scaled from 1 to 10. In eval mode, and in the second half of training, the likeliest width of each group is taken,
    changed where the cost would miss its budget by more than 5 %, or a smaller student would be wider somewhere than a larger one (the
    paper has none of these); budget 1 is the whole network. Units are kept in the order of their importance, so that a smaller student
    lies within every larger one.

    forward: as the base. `told` gives [cost / cost of the whole network, budget, mean squared distance of pi from the largest widths].
    """

    ranked: Tensor

    divisible = False
    """Masks are there during a forward pass only, so that no part of it can be computed again later (see execution.divisible)."""

    def __init__(
        self,
        base: Callable[..., nn.Module],
        budgets: Sequence[float] = (1.0, 0.7, 0.4),
        choices: Sequence[float] = CHOICES,
        cost: str = "parameters",
        router: bool = True,
        sampling: str = "curriculum",
        evaluated: float = 1.0,
        hidden: int = 256,
        calibration: int = 1024,
        axes: Sequence[str] | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, ...] = 32,
        vocabulary: int | None = None,
        pad: int | None = None,
        eos: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        for name, values in (("budgets", budgets), ("choices", choices)):
            if list(values) != sorted(set(values), reverse=True) or values[0] != 1 or values[-1] <= 0:
                raise ValueError(f"{name} must begin with 1.0 and fall, above 0, got {list(values)}")
        self.budgets, self.choices, self.what, self.sampling = list(budgets), list(choices), cost, sampling
        self.evaluated, self.calibration = evaluated, calibration
        self._known = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        self._known |= {"vocabulary": vocabulary, "pad": pad, "eos": eos, "max_length": max_length}
        self.base = base
        plain = plain_network(base, self._known)
        self.body = units_of(plain, self._known, axes)
        self.groups = self.body.groups
        check_cost(cost, self.body, plain)
        if cost == LATENCY:  # seconds for each feature, none before it was measured (see calibrate)
            self.register_buffer("timing", torch.zeros(len(self.body.features({}))))
        self._check_reach()
        self.network = plain
        self.body.prepare(plain, len(budgets))
        axes_of = [group.axis for group in self.groups.values()]
        self.router = router_of(len(budgets), axes_of, len(choices), hidden) if router else None
        self.told = Told()
        for number, group in enumerate(self.groups.values()):
            self.register_buffer(f"rank{number}", torch.arange(group.units).expand(*group.rows, -1).clone())
        self.register_buffer("ranked", torch.zeros((), dtype=torch.bool))
        self._draws, self._step, self._share = int(torch.randint(2**31, (), device="cpu")), 0, 0.0

    @property
    def parts(self) -> dict[str, tuple[str, ...] | str]:
        """Parts of the base, as the base calls them, and the router."""
        from kdrun.networks.parts import parts_of

        inner = {name: tuple(f"network.{path}" for path in paths) for name, paths in parts_of(self.network).items()}
        return {**inner, **({"router": "router"} if self.router is not None else {})}

    def pace(self, step: int, share: float) -> None:
        """Told before each training step: how many there were, and what share of all that is."""
        self._step, self._share = step, share

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        with self._computing():
            return self.network(*inputs, **named)

    def __getattr__(self, name: str) -> Any:
        """`hidden` and `generate`, where the base has them, at the budget that is computed."""
        if name not in ("hidden", "generate"):
            return super().__getattr__(name)
        method = getattr(self.network, name)

        def computed(*inputs: Any, **options: Any) -> Any:
            with self._computing():
                return method(*inputs, **options)

        return computed

    @contextmanager
    def _computing(self) -> Iterator[None]:
        device = next(self.network.parameters()).device
        number = self._drawn() if self.training else self.budgets.index(self.evaluated)
        # A router says nothing on the meta device, and masks leave out nothing that is computed.
        budget = 1.0 if device.type == "meta" else self.budgets[number]
        pi = self._soft(number, device) if self.training else self._hard(budget, device)
        whole = bool((pi[:, 0] == 1).all()) if device.type != "meta" else True
        with self.body.masked(self.network, None if whole else self._masks(pi), number):
            yield
        expected = self._cost(self._counts(pi))
        distance = ((pi - functional.one_hot(pi.new_zeros(len(pi), dtype=torch.int64), pi.shape[1])) ** 2).mean()
        share = pi.new_zeros(()) + expected / self._cost({})
        self.told(torch.stack([share, pi.new_tensor(self.budgets[number]), distance]))

    # what is drawn and chosen

    def _generator(self) -> torch.Generator:
        """Of this step: the same on all ranks, in all parts of a batch, and after a resume."""
        return torch.Generator().manual_seed((self._draws * 1_000_003 + self._step) % 2**63)

    def _weights(self) -> list[float]:
        biased = self.sampling == "biased" or (self.sampling == "curriculum" and self._share >= 0.5)
        return list(self.budgets) if biased else [1.0] * len(self.budgets)

    def _drawn(self) -> int:
        return int(torch.multinomial(torch.tensor(self._weights()), 1, generator=self._generator()))

    def _soft(self, number: int, device: torch.device) -> Tensor:
        """pi [groups, choices] of a budget at this step."""
        if self.router is None or self._share >= SETTLED:
            return self._hard(self.budgets[number], device)
        hot = functional.one_hot(torch.tensor(number), len(self.budgets)).float().to(device)
        return softened(self.router(hot), self._share / SETTLED, self._generator())

    def _hard(self, budget: float, device: torch.device) -> Tensor:
        """As `_soft`, of one width for each group."""
        chosen = torch.tensor(self._chosen(budget, routed=self.router is not None), device=device)
        return functional.one_hot(chosen, len(self.choices)).float()

    @torch.no_grad()
    def _chosen(self, budget: float, routed: bool) -> list[int]:
        """The choice of each group: the router's likeliest, or the same for all, none wider than in larger budgets, brought within MARGIN of
        the budget.

        Of a budget that was not trained the router is asked for the mean of its two neighbours, and its widths lie between theirs."""
        chosen, narrowest = [0] * len(self.groups), [len(self.choices) - 1] * len(self.groups)
        if budget == 1:
            return chosen
        smaller = [known for known in self.budgets if known < budget]
        if budget not in self.budgets and smaller:
            narrowest = self._chosen(smaller[0], routed)
        for known in [known for known in self.budgets[1:] if known > budget] + [budget]:
            last = narrowest if known == budget else [len(self.choices) - 1] * len(self.groups)
            logits = self.router(self.between(known)) if routed else self._same(known)
            chosen = fitted(logits.tolist(), known, chosen, last, self._cost_of)
        return chosen

    def _same(self, budget: float) -> Tensor:
        """[groups, choices]: 1 for the largest choice that is within the budget in all groups."""
        each = range(len(self.choices))
        fits = (choice for choice in each if self._cost_of([choice] * len(self.groups)) <= budget + 1e-9)
        return torch.eye(len(self.choices), device="cpu")[[next(fits, each[-1])] * len(self.groups)]

    def between(self, budget: float) -> Tensor:
        """[budgets]: one-hot, or of a budget that is none of these its two neighbours by their distance."""
        larger = max(n for n, known in enumerate(self.budgets) if known >= budget - 1e-9)
        smaller = min(larger + 1, len(self.budgets) - 1)
        span = self.budgets[larger] - self.budgets[smaller]
        share = (self.budgets[larger] - budget) / span if span else 0.0
        hot = functional.one_hot(torch.tensor([larger, smaller]), len(self.budgets)).to(next(self.parameters()))
        return (1 - share) * hot[0] + share * hot[1]

    # widths, masks and costs

    def _units(self, group: Any) -> list[int]:
        return [group.width(share) for share in self.choices]

    def _widths(self, chosen: Sequence[int]) -> dict[str, int]:
        return {name: self._units(group)[one] for one, (name, group) in zip(chosen, self.groups.items(), strict=True)}

    def _ranks(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"rank{number}") for number, name in enumerate(self.groups)}

    def _counts(self, pi: Tensor) -> dict[str, Tensor]:
        groups = zip(pi, self.groups.items(), strict=True)
        return {name: row @ row.new_tensor(self._units(group)) for row, (name, group) in groups}

    def _masks(self, pi: Tensor) -> dict[str, Tensor]:
        """Group -> [*rows, units]: the probability that a unit is kept."""
        masks, ranks = {}, self._ranks()
        for row, (name, group) in zip(pi, self.groups.items(), strict=True):
            widths = torch.tensor(self._units(group), device=pi.device)
            rank = ranks[name]
            masks[name] = (row @ (rank.flatten()[None] < widths[:, None]).to(row)).view_as(rank)
        return masks

    def _cost_of(self, chosen: Sequence[int]) -> float:
        """Share of the whole network's cost of a width for each group."""
        return float(self._cost(self._widths(chosen)) / self._cost({}))

    def _cost(self, counts: Mapping[str, Tensor | float]) -> Tensor | float:
        """What the network costs with so many units of each group, {}: all of them. Latency is parameters until it was measured."""
        if self.what != LATENCY:
            return self.body.cost(counts, self.what)
        if self.timing.is_meta or not bool(self.timing.any()):
            return self.body.cost(counts, "parameters")
        return sum(one * feature for one, feature in zip(self.timing.tolist(), self.body.features(counts), strict=True))

    def _check_reach(self) -> None:
        least = self._cost_of([len(self.choices) - 1] * len(self.groups))
        if self.budgets[-1] < least:
            raise UserError(
                f"student.budgets: {self.budgets[-1]:g} of the {self.what} cannot be reached, the smallest widths "
                f"({self.choices[-1]:g} of each) are {math.ceil(1000 * least) / 1000:g}",
                f"give larger budgets, or smaller strategy.widths than {listed(map(str, self.choices))}",
            )

    # before and after training

    def calibrate(
        self, forward: Callable[[Any], Any], batches: Iterable[Any], device: torch.device | str = "cpu"
    ) -> None:
        """Ranks the units by what the network computes for these batches, once, and measures its latency on a device where that is its cost.
        forward: of a batch through this network."""
        if bool(self.ranked):
            return
        if self.what == LATENCY:
            sizes, example = (len(self.groups), len(self.choices)), self.body.example
            self.timing.copy_(fitted_latency(self._cut_at, *sizes, example, torch.device(device)))
            self._check_reach()
        evaluated, self.evaluated = self.evaluated, 1.0
        with evaluating(self), torch.no_grad():
            scores = self.body.rank(self.network, forward, batches)
        self.evaluated = evaluated
        for name, rank in self._ranks().items():
            order = torch.argsort(scores[name], dim=-1, descending=True, stable=True).to(rank.device)
            rank.scatter_(-1, order, torch.arange(rank.shape[-1], device=rank.device).expand_as(order))
        self.ranked.fill_(True)

    def adopt(self, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of this network from weights of its base, every budget with the statistics of these; its own stay as they are."""
        if _is(metadata, "Elastic"):
            same = self.router is not None and any(name.startswith("router.") for name in tensors)
            others = {name: value for name, value in tensors.items() if same or not name.startswith("router.")}
            return {**({} if same else self._router_state()), **others}
        own = self.state_dict()
        started = {f"network.{name}": value for name, value in tensors.items()}
        for name, value in started.items():
            if name in own and own[name].dim() == value.dim() + 1 and own[name].shape[1:] == value.shape:
                started[name] = value.expand_as(own[name]).clone()
        return {**{name: value for name, value in own.items() if not name.startswith("network.")}, **started}

    def _router_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name.startswith("router.")}

    def _cut_at(self, chosen: Sequence[int]) -> tuple[nn.Module, list[float]]:
        """(a network with random weights and these widths, the features that its latency is a sum over)."""
        widths, network = self._widths(chosen), plain_network(self.base, self._known)
        kept = {name: numbers(rank < widths[name]) for name, rank in self._ranks().items()}
        self.body.cut(network, kept)
        return network, [float(feature) for feature in self.body.features(widths)]

    def widths(self, budget: float, routed: bool = True) -> dict[str, int]:
        """How many units each group keeps. routed: as the router says, which is asked for a mean of both neighbours of a new budget."""
        return self._widths(self._chosen(budget, routed and self.router is not None))

    def cut(self, budget: float, routed: bool = True) -> tuple[nn.Module, dict[str, int]]:
        """(the network of a budget by itself, its `widths`)."""
        widths, ranks, row = self.widths(budget, routed), self._ranks(), self.between(budget)
        kept = {name: numbers(ranks[name] < count) for name, count in widths.items()}
        network = plain_network(self.base, self._known)
        own, state = network.state_dict(), {}
        for name, value in self.network.state_dict().items():
            fits = value.shape == own[name].shape
            state[name] = value if fits else value[int(row.argmax())] if row.max() == 1 else row @ value
        network.load_state_dict(state)
        self.body.cut(network, kept)
        return network, widths


class Slice(nn.Module):
    """One student of an Elastic network by itself.

    base     the whole network: its target node with `_partial_: true`
    budget   its cost as a share of the whole network's; budgets, choices, cost: as of Elastic
    axes     as of Elastic
    routed   widths are those that the router of the weights it starts from chose; false: nearly the same share in all groups
    calibration  training samples that batch normalisation takes its statistics from, once it was cut out
    kept     units of each group; null: as many as nearly one share of all gives for the budget, until it starts from an Elastic network
    """

    def __init__(
        self,
        base: Callable[..., nn.Module],
        budget: float = 1.0,
        choices: Sequence[float] = CHOICES,
        cost: str = "parameters",
        routed: bool = False,
        kept: Mapping[str, int] | None = None,
        axes: Sequence[str] | None = None,
        calibration: int = 1024,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, ...] = 32,
        vocabulary: int | None = None,
        pad: int | None = None,
        eos: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self._known = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        self._known |= {"vocabulary": vocabulary, "pad": pad, "eos": eos, "max_length": max_length}
        self.base, self.budget, self.routed, self.calibration, self._cut = base, budget, routed, calibration, False
        if kept is None:
            budgets = [1.0] if budget == 1 else [1.0, budget]
            whole = Elastic(base, budgets, choices, cost, router=False, axes=axes, **self._known)
            # Real ones draw numbers for the cut network as well, which later ones follow.
            kept = whole.widths(budget) if next(whole.parameters()).is_meta else whole.cut(budget)[1]
        self.kept, self.network = dict(kept), plain_network(base, self._known)
        body = units_of(self.network, self._known, axes)
        with torch.device("cpu"):
            first = {name: torch.arange(group.units).expand(*group.rows, -1) for name, group in body.groups.items()}
        body.cut(self.network, {name: numbers(first[name] < count) for name, count in self.kept.items()})

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.network(*inputs, **named)

    def __getattr__(self, name: str) -> Any:
        """What the domain asks of the base itself."""
        return getattr(self.network, name) if name in OF_BASE else super().__getattr__(name)

    def settled(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The node under which it is built again."""
        return {**node, "kept": self.kept}

    def adopt(self, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of this student, cut out of the Elastic network whose weights these are."""
        if not _is(metadata, "Elastic"):
            return dict(tensors)
        whole = targets.build(metadata["network"], "network", **self._known)
        whole.load_state_dict(whole.adopt(metadata, tensors), strict=True)
        self.network, self.kept = whole.cut(self.budget, self.routed)
        self._cut = self.budget < 1
        return self.state_dict()

    def calibrate(self, forward: Callable[[Any], Any], batches: Iterable[Any], device: object = "cpu") -> None:
        """Batch normalisation of a network that was just cut out takes the statistics of these batches: those that it comes with are a
        running mean over other widths. forward: of a batch through this network."""
        if self._cut:
            fresh_statistics(self, forward, batches)


def _is(metadata: Mapping[str, Any], name: str) -> bool:
    return (metadata.get("network") or {}).get("_target_") == f"kdrun.networks.elastic.{name}"
