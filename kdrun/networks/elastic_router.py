"""Routers of nested students: for each budget, logits of how wide each axis of a network is (Flextron, arXiv 2406.10260; Star Elastic,
arXiv 2605.07182, with the authors' code in Megatron-LM)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SEMANTICS = 2
SCALE, COLDEST, HARD = 10.0, 0.05, 0.004
"""By which a router's logits are multiplied and divided in the end; probability of a hard sample."""
MARGIN = 0.05
"""By which share of its budget the cost of a student may miss it."""


class Router(nn.Module):
    """z = W2 LeakyReLU(W1 u) for one axis, u the one-hot of a budget, without biases, weights from N(0, 0.1).

    groups, choices: how many are chosen from, and from how many widths each. forward: [budgets] -> [groups, choices].
    """

    def __init__(self, budgets: int, groups: int, choices: int, hidden: int):
        super().__init__()
        self.groups = groups
        self.inner = nn.Linear(budgets, hidden, bias=False)
        self.outer = nn.Linear(hidden, groups * choices, bias=False)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, 0.0, 0.1)

    def forward(self, budget: Tensor) -> Tensor:
        return self.outer(functional.leaky_relu(self.inner(budget), 0.1)).view(self.groups, -1)


class Routers(nn.ModuleDict):
    """A router for each of several axes. forward: [budgets] -> [groups, choices], in their order."""

    def forward(self, budget: Tensor) -> Tensor:
        return torch.cat([router(budget) for router in self.values()])


def router_of(budgets: int, axes: Sequence[str], choices: int, hidden: int) -> Router | Routers:
    """The router of groups. axes: that of each group, those of one axis behind each other."""
    made = {axis: Router(budgets, count, choices, hidden) for axis, count in Counter(axes).items()}
    return Routers(made) if len(made) > 1 else next(iter(made.values()))


class Told(nn.Module):
    """Gives what it is given: a place where a term of the objective finds the cost of a forward pass (objectives.budget)."""

    def forward(self, values: Tensor) -> Tensor:
        return values


def softened(logits: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """[groups, choices] -> a Gumbel softmax of it, once the share of the time that it is soft has passed: the temperature falls from 1 to
    COLDEST, logits are scaled from 1 to SCALE."""
    generator.manual_seed(generator.initial_seed() + 1)
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-9)
    noise = -torch.log(-torch.log(uniform)).to(logits.device)
    pi = torch.softmax((logits * (1 + (SCALE - 1) * share) + noise) / COLDEST**share, -1)
    if torch.rand((), generator=generator) < HARD:
        hard = functional.one_hot(pi.argmax(-1), pi.shape[1]).to(pi)
        pi = hard + pi - pi.detach()
    return pi


def fitted(
    logits: Sequence[Sequence[float]],
    budget: float,
    widest: Sequence[int],
    narrowest: Sequence[int],
    cost_of: Callable[[Sequence[int]], float],
) -> list[int]:
    """The likeliest choice of each group from its widest to its narrowest, then changed one by one, the least likely loss for the cost first,
    until the cost is within MARGIN of the budget.

    logits: [groups, choices], the largest choice first. cost_of: share of the whole cost of a choice for each group.
    """
    rows = zip(logits, widest, narrowest, strict=True)
    chosen = [max(range(first, last + 1), key=row.__getitem__) for row, first, last in rows]
    cost = cost_of(chosen)
    for step in (1, -1):
        while (cost - budget) * step > MARGIN * budget:
            changed = [
                [*chosen[:n], each + step, *chosen[n + 1 :]]
                for n, each in enumerate(chosen)
                if widest[n] <= each + step <= narrowest[n]
            ]
            costs = {tuple(each): cost_of(each) for each in changed}
            fitting = [each for each in costs if step > 0 or costs[each] <= budget * (1 + MARGIN)]
            if not fitting:
                break

            def loss(each: tuple[int, ...], cost=cost, chosen=chosen, costs=costs) -> float:
                lost = sum(row[old] - row[new] for row, old, new in zip(logits, chosen, each, strict=True))
                return (lost + 1e-3) / abs(cost - costs[each] + 1e-12)

            chosen = list(min(fitting, key=loss))
            cost = costs[tuple(chosen)]
    return chosen
