"""Learning-rate schedules as closed-form functions of the step: nothing to save, nothing to lose on resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def schedule(config: dict[str, Any], epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """step (0-based, counted over the whole stage) -> factor on the base learning rate.

    constant      1
    cosine        1 to `floor` over the steps after the warm-up (SGDR without restarts, arXiv 1608.03983, eq. 5)
    step          times `factor` at each of `milestones`, given in epochs
    inverse_sqrt  sqrt(n / step) after n steps of warm-up (arXiv 1706.03762, eq. 3, scaled to 1 at its peak)
    All start with a linear warm-up from 1/n to 1, over n = `warmup_steps`, or as many steps as `warmup_epochs` have.
    """
    warmup = config.get("warmup_steps") or round(config["warmup_epochs"] * steps_per_epoch)
    total = epochs * steps_per_epoch
    milestones = [milestone * steps_per_epoch for milestone in config["milestones"]]
    floor, factor, name = config["floor"], config["factor"], config["name"]

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if name == "constant":
            return 1.0
        if name == "inverse_sqrt":
            return math.sqrt(max(1, warmup) / (step + 1))
        if name == "step":
            return factor ** sum(step >= milestone for milestone in milestones)
        done = (step - warmup) / max(1, total - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return at
