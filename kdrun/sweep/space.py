"""What a search may vary: the swept words of a command, as ranges and choices that a sampler can draw from.

Hydra's grammar with Hydra's meaning: `a,b`, choice() and glob() are categories, range() a grid whose end is left out,
interval() real numbers between both ends, int(interval()) whole ones, tag(log, interval()) either on a logarithmic
scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kdrun.config import vary
from kdrun.problems import ConfigProblems, UserError, each, listed

DIGITS = 4
"""Real numbers are drawn with so many significant digits: a command that can be read and typed gives the same job."""


@dataclass(frozen=True)
class Choices:
    """One of several values. texts: as they stand in an override; values: what they mean, for people and records."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]

    def distribution(self) -> Any:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.texts)

    def settled(self, drawn: str) -> str:
        return drawn

    def text(self, drawn: str) -> str:
        return drawn

    def value(self, drawn: str) -> Any:
        return self.values[self.texts.index(drawn)]

    def ends(self) -> tuple[str, ...]:
        """All of them: a misspelt one in the middle is found before the search starts."""
        return self.texts

    def described(self) -> str:
        return ", ".join(self.texts)


@dataclass(frozen=True)
class Numbers:
    """A number from low to high, both included; with step, low + k * step. whole: an int; log: drawn in its logarithm."""

    key: str
    low: float
    high: float
    step: float | None = None
    whole: bool = False
    log: bool = False

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def settled(self, drawn: float) -> float:
        """The value that is stored and run: on the grid, or of few digits."""
        if self.whole:
            return int(drawn)
        if self.step is not None:
            low, step = Decimal(str(self.low)), Decimal(str(self.step))
            return float(low + step * round((Decimal(str(drawn)) - low) / step))
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def text(self, drawn: float) -> str:
        return repr(drawn)

    def value(self, drawn: float) -> float:
        return drawn

    def ends(self) -> tuple[float, ...]:
        """Both ends, and of real numbers one between: `batch_size=interval(1,8)` is wrong there alone."""
        if self.whole or self.step is not None:
            return tuple(dict.fromkeys((self.low, self.high)))
        return self.low, self.high, self.settled(self.low + 0.3713 * (self.high - self.low))

    def described(self) -> str:
        step = f" in steps of {self.step:g}" if self.step not in (None, 1) else ""
        return f"{self.low:g} to {self.high:g}{step}{', whole' if self.whole else ''}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """words: (key, word) in the order typed; parameters: what the keys of swept words may be."""

    words: tuple[tuple[str, str], ...]
    parameters: dict[str, Choices | Numbers]

    def overrides(self, drawn: dict[str, Any]) -> list[str]:
        """The words of one trial, without any search word."""
        texts = {key: f"{key}={parameter.text(drawn[key])}" for key, parameter in self.parameters.items()}
        return [texts.get(key, word) for key, word in self.words]

    def settled(self, drawn: dict[str, Any]) -> dict[str, Any]:
        return {key: parameter.settled(drawn[key]) for key, parameter in self.parameters.items()}

    def values(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """key -> number, flag or text, as a record shows it."""
        return {key: parameter.value(drawn[key]) for key, parameter in self.parameters.items()}

    def distributions(self) -> dict[str, Any]:
        return {key: parameter.distribution() for key, parameter in self.parameters.items()}

    def described(self) -> dict[str, str]:
        return {key: parameter.described() for key, parameter in self.parameters.items()}

    def corners(self) -> list[dict[str, Any]]:
        """Points to look at before the search starts: the first of everything, then each other end of each parameter."""
        first = {key: parameter.ends()[0] for key, parameter in self.parameters.items()}
        others = [{**first, key: end} for key, parameter in self.parameters.items() for end in parameter.ends()[1:]]
        return [first, *others]

    def check(self, compose: Callable[[list[str]], Any]) -> list[Any]:
        """The jobs of all corners; raises what is wrong with any of them, all at once."""
        jobs, problems = [], []
        for corner in self.corners():
            try:
                jobs.append(compose(self.overrides(corner)))
            except UserError as error:
                for problem in each(error):
                    key = problem[0].partition("=")[0]
                    if key in self.parameters and any(known[0].startswith(f"{key}=") for known in problems):
                        continue  # the other values of the same key have the same fault
                    if problem not in problems:
                        problems.append([*problem, *self._whole(key, problem)])
        if problems:
            raise ConfigProblems(problems)
        return jobs

    def _whole(self, key: str, problem: list[str]) -> list[str]:
        """interval() is of real numbers; where the key takes none of them, what to type instead."""
        found = self.parameters.get(key)
        if not isinstance(found, Numbers) or found.whole or "whole number" not in problem[0]:
            return []
        return [f"whole numbers: '{key}=int(interval({found.low:g},{found.high:g}))'"]


def read_space(overrides: Sequence[str], conf_dirs: Sequence[str] = ()) -> Space:
    """The space that these words open. Raises UserError naming the word that is no range, or if nothing is swept."""
    from kdrun.config import groups
    from kdrun.config.overrides import parsed

    table = groups.groups(groups.conf_dirs(conf_dirs)[0])
    words: dict[str, str] = {}
    parameters: dict[str, Choices | Numbers] = {}
    for text in overrides:
        try:
            override = parsed(text)
        except ValueError:
            words[text] = text  # compose() explains it
            continue
        key = override.get_key_element()
        words.pop(key, None)  # what is typed last counts
        parameters.pop(key, None)
        words[key] = text
        if override.is_sweep_override():
            parameters[key] = _parameter(text, key, override, list(table.get(override.key_or_group, {})))
    if not parameters:
        raise UserError(
            "a search needs something to search",
            "give a key several values: 'objective.kd.temperature=interval(1,8)' or student=resnet8_w2,resnet8_w4",
        )
    return Space(tuple(words.items()), parameters)


def _parameter(text: str, key: str, override: Any, options: list[str]) -> Choices | Numbers:
    if key in ("seed", "seeds", vary.TYPED, vary.KEY):
        raise UserError(
            f"{text}: a search over seeds would choose the luckiest one",
            "seeds=3 runs every trial with three and takes the mean",
        )
    if override.is_delete():
        raise UserError(f"{text}: a key that is taken away has no values to search")
    value = override.value()
    tags = getattr(value, "tags", set())
    if tags - {"log"}:
        raise UserError(f"{text}: the only tag of a search is log: tag(log,interval(1e-4,1e-1))")
    if override.is_interval_sweep():
        return _interval(text, key, value, "log" in tags)
    if tags:
        raise UserError(f"{text}: log goes with interval(): {key}=tag(log,interval(1e-4,1e-1))")
    if override.is_range_sweep():
        return _range(text, key, value)
    return _choices(text, key, override, options)


def _choices(text: str, key: str, override: Any, options: list[str]) -> Choices:
    value = override.value()
    if hasattr(value, "filter"):  # glob()
        names = value.filter(options)
        if not names:
            raise UserError(
                f"{text}: no value fits", f"{key} has: {listed(options)}" if options else f"{key} is no group"
            )
        return Choices(key, tuple(names), tuple(names))
    value.shuffle = False  # the order must be the same when the search goes on
    found = dict(zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True))
    plain = (str, int, float, bool, type(None))
    return Choices(key, tuple(found), tuple(v if isinstance(v, plain) else t for t, v in found.items()))


def _range(text: str, key: str, value: Any) -> Numbers:
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    if not all(number.is_finite() for number in (start, stop, step)) or not step:
        raise UserError(f"{text}: the step of a range cannot be {value.step}")
    count = math.ceil((stop - start) / step)
    if count < 1:
        raise UserError(f"{text}: an empty range; range(START,STOP,STEP) leaves STOP out")
    ends = sorted((start, start + (count - 1) * step))
    if all(isinstance(number, int) for number in (value.start, value.stop, value.step)):
        return Numbers(key, int(ends[0]), int(ends[1]), abs(int(step)), whole=True)
    return Numbers(key, float(ends[0]), float(ends[1]), float(abs(step)))


def _interval(text: str, key: str, value: Any, log: bool) -> Numbers:
    low, high = value.start, value.end
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{text}: both ends of an interval have to be finite")
    if low >= high:
        raise UserError(f"{text}: interval(LOW,HIGH) needs LOW below HIGH")
    if log and low <= 0:
        raise UserError(f"{text}: a logarithmic interval begins above 0, not at {low:g}")
    return Numbers(key, low, high, whole=isinstance(low, int) and isinstance(high, int), log=log)
