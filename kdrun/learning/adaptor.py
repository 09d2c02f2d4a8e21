"""The layer between features of two widths."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdrun.learning import seeds
from kdrun.networks.build import seeded
from kdrun.problems import UserError


def make_adaptor(own: int, teachers: Iterable[int], seed: int) -> nn.Linear | None:
    """A linear layer from the student's features to the width of its teachers' (FitNets, arXiv 1412.6550), a function of the
    run's seed; None where they are as wide.

    Raises UserError where several teachers differ in width.
    """
    widths = set(teachers)
    if len(widths) > 1:
        raise UserError(
            f"teachers with features of widths {', '.join(map(str, sorted(widths)))} cannot teach at once",
            "choose networks of one width, or objective.feature.weight=0",
        )
    if not widths or widths == {own}:
        return None
    with seeded(seeds.derive(seed, "adaptor")):
        return nn.Linear(own, widths.pop())
