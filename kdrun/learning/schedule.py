"""Learning-rate schedules as closed-form functions of the step: nothing to save, nothing to lose on resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def schedule(config: dict[str, Any], epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """step (0-based, counted over the whole stage) -> factor on the base learning rate.

    constant  1
    cosine    1 to `floor` over the steps after the warm-up (SGDR without restarts, arXiv 1608.03983, eq. 5)
    step      times `factor` at each of `milestones`, given in epochs
    All start with `warmup_epochs` of linear warm-up, from 1/n to 1.
    """
    warmup = round(config["warmup_epochs"] * steps_per_epoch)
    total = epochs * steps_per_epoch
    milestones = [milestone * steps_per_epoch for milestone in config["milestones"]]
    floor, factor, name = config["floor"], config["factor"], config["name"]

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if name == "constant":
            return 1.0
        if name == "step":
            return factor ** sum(step >= milestone for milestone in milestones)
        done = (step - warmup) / max(1, total - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return at
