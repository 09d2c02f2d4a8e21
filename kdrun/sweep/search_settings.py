"""The settings of a search: `hydra/sweeper=optuna` and `hydra.sweeper.*`, taken out of the words of a command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from kdrun.problems import Problems, UserError, closest, listed

SAMPLERS, PRUNERS = ("tpe", "random", "nsgaii"), ("median", "none")
HINTS = {
    "n_jobs": "jobs=N runs N trials at a time",
    "sampler.seed": "hydra.sweeper.seed=N",
    "params": "type them as words: 'trainer.optimizer.lr=tag(log,interval(1e-4,1e-1))'",
    "max_failure_rate": "a failed trial does not stop a search",
}
"""Settings of other sweepers -> what to type here."""


@dataclass(frozen=True)
class SearchSettings:
    """direction and pruner are None where nothing was typed: the metric's own; median where epochs can be compared."""

    n_trials: int = 20
    objective: tuple[str, ...] = ("accuracy",)
    direction: tuple[str, ...] | None = None
    sampler: str = "tpe"
    seed: int = 0
    pruner: str | None = None
    warmup_epochs: int = 3
    study_name: str | None = None
    storage: str | None = None
    timeout_minutes: float | None = None


def take_settings(overrides: Sequence[str]) -> tuple[SearchSettings, list[str]]:
    """(settings, the other words). Raises UserError with everything that is wrong in the settings."""
    problems, given, rest = Problems(), {}, []
    for text in overrides:
        key, _, _ = text.lstrip("+").partition("=")
        if key == "hydra/sweeper":
            continue
        if key == "hydra/launcher" and text.partition("=")[2] != "basic":
            problems.add(f"{text}: a search runs on this machine; jobs=N runs N trials at a time")
        elif key == "hydra/sweeper/sampler" or key.startswith("hydra.sweeper."):
            name = key.replace("/", ".").removeprefix("hydra.sweeper.")
            try:
                given[name] = _read(name, text)
            except UserError as error:
                problems.add(*error.lines)
        else:
            rest.append(text)
    problems.stop()
    return SearchSettings(**given), rest


def _read(name: str, text: str) -> Any:
    from kdrun.config.overrides import parsed

    names = [field.name for field in fields(SearchSettings)]
    if name not in names:
        raise UserError(f"{text}: no such setting{closest(name, names)}", HINTS.get(name) or f"all: {listed(names)}")
    if name == "storage":
        return _storage(text)
    try:
        override = parsed(text)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from None
    value = override.value()
    if override.is_sweep_override():
        raise UserError(f"{text}: several go in brackets: 'hydra.sweeper.{name}=[{text.partition('=')[2]}]'")
    if name in ("objective", "direction"):
        return tuple(str(item) for item in (value if isinstance(value, list) else [value]))
    if name == "sampler":
        return _one_of(text, str(value), SAMPLERS)
    if name == "pruner":
        return _one_of(text, "none" if value is None else str(value), PRUNERS)
    if name == "study_name":
        if not isinstance(value, str) or not value:
            raise UserError(f"{text}: expected a name")
        return value
    if name == "timeout_minutes":
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{text}: expected a number of minutes above 0")
        return float(value)
    least = 1 if name == "n_trials" else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{text}: expected a whole number of at least {least}")
    return value


def _one_of(text: str, value: str, options: Sequence[str]) -> str:
    if value not in options:
        raise UserError(f"{text}: no {value!r}{closest(value, options)}; all: {listed(options)}")
    return value


def _storage(text: str) -> str:
    """The absolute path of an SQLite file: what is relative is meant from here, wherever the search goes on."""
    value = text.partition("=")[2].strip("'\"")
    path = value.removeprefix("sqlite:///")
    if not path or "://" in path:
        raise UserError(f"{text}: the storage is an SQLite file: hydra.sweeper.storage=PATH or sqlite:///PATH")
    return os.path.abspath(os.path.expanduser(path))
