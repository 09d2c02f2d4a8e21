"""Overrides -> a Job, as every command has it: the student chosen where `student=auto` asks for it, the strategy's options checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdrun import kinds
from kdrun.config import compose as config
from kdrun.config.compose import Job
from kdrun.job import auto
from kdrun.measures import measure
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.targets import build


def compose(overrides: Sequence[str] = (), conf_dirs: Sequence[str] = (), *, missing: bool = True) -> Job:
    """As config.compose.compose; further UserErrors are those of the strategy, and of the choice of a student (see job.auto)."""
    if auto.asked(overrides):
        return auto.compose_auto(overrides, conf_dirs, compose)
    job = config.compose(overrides, conf_dirs, missing=missing)
    with job.allowing():
        _check_strategy(job.config, missing)
        _check_margin(job.config)
    return job


def _check_margin(cell: dict[str, Any]) -> None:
    """A difference of shares is below 1: who types 1 means a point."""
    margin, metric = cell["margin"], kinds.find(cell["data"]["task"]).main
    if margin is not None and margin >= 1 and measure(metric).points:
        raise UserError(f"margin={margin:g}: expected a share below 1, as {metric} is one: a point is margin=0.01")


def _check_strategy(cell: dict[str, Any], whole: bool) -> None:
    """Checked here where the strategy is one of ours (free of torch); others are checked when a job begins."""
    if whole:
        Cast(cell).check()
    if str(cell["strategy"].get("_target_")).startswith("kdrun.strategies."):
        strategy = build(cell["strategy"], "strategy")
        if cell["looks"] and not strategy.controls:
            raise UserError(
                "seeds=auto: ends where a difference to a control is decided, and strategy.controls is empty",
                "a number of seeds: seeds=5; or a control: controls=[alone]",
            )
        if whole:
            Cast(cell).check(strategy.arms)
            strategy.check(Cast(cell))
