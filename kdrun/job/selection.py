"""Which epoch is the headline: the last, or the best on validation where validation can tell the two apart.

The best of 40 epochs is the best by luck as well: on 201 validation images it is worse on test than the last in most jobs. So the
headline of a job, of all its arms alike, is the last epoch, unless the best one of some arm stands out: its validation score, as
a mean over seeds, exceeds the last epoch's by more than the noise of such a difference allows for all epochs and arms that were
looked at (one-sided, 5 % of jobs, Bonferroni). Test figures have no part in it. scripts/simulate_selection.py shows how often it errs.

Noise is the standard error of the paired differences, best minus last, of validation samples. Where a stage kept nothing of single
samples (or not what is monitored) it is that of two scores on as many samples as validation has, taken as independent: the true noise
is smaller then. It is that of one seed also where there are several: each has chosen its epoch, so that the luck of their choices does
not average out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from kdrun.files import number
from kdrun.measures import MEASURES, measure
from kdrun.protocol import PUBLISHED, is_published

LEVEL = 0.05
"""Share of jobs whose best epochs are no better than the last and are the headline all the same."""
Records = Mapping[int, Mapping[str, Any]]


def headline_of(arms: Mapping[str, Records]) -> dict[str, Any]:
    """{"which": "best" or "last", "why", "samples", "level", "arms": {arm: {"gain", "needed"}}} of the arms of a job.

    arms: arm -> seed -> record of a stage, with "val", "monitor", and "validation", the number of its samples (None: not
    known), and "apart" (see apart_of).
    """
    if any(is_published(record) for records in arms.values() for record in records.values()):
        why = f"published protocol (data.protocol={PUBLISHED}): all samples are trained on, so nothing is chosen"
        one = {arm: {"gain": 0.0, "needed": None} for arm, records in arms.items() if records}
        return {"which": "last", "why": why, "samples": None, "level": LEVEL, "arms": one}
    judged = {arm: list(records.values()) for arm, records in arms.items() if records}
    trained = {arm: records for arm, records in judged.items() if all(_epochs(record) for record in records)}
    samples = next((one["validation"] for records in judged.values() for one in records if one.get("validation")), None)
    if (
        len(trained) < len(judged) or not trained
    ):  # of networks together, and of weights that were brought, there is one result
        why = "an arm has no last epoch: it is of finished networks, each at its selected one"
        return {"which": "best", "why": why, "samples": samples, "level": LEVEL, "arms": {}}
    distinct = {tuple(record.get("fingerprint") for record in records) for records in trained.values()}
    looked = len(distinct) * max(max(_epochs(record) for record in records) - 1 for records in trained.values())
    found = {arm: _gain(records, samples, looked) for arm, records in trained.items()}
    clear = {arm: one for arm, one in found.items() if one["needed"] is not None and one["gain"] > one["needed"]}
    return {
        "which": "best" if clear else "last",
        "why": _why(found, clear, samples, next(iter(trained.values()))[0].get("monitor"), looked),
        "samples": samples,
        "level": LEVEL,
        "arms": found,
    }


def _epochs(record: Mapping[str, Any]) -> int:
    return 0 if record["val"].get("epoch_best") is None else record["val"].get("epochs") or 0


def _gain(records: list[Mapping[str, Any]], samples: int | None, looked: int) -> dict[str, float | None]:
    """gain: best minus last on validation, a mean over seeds, positive where the best epoch is better; needed: what it has to
    exceed, None where nothing is known of the metric or there is one epoch."""
    name = records[0].get("monitor") or ""
    pairs = [tuple(number(record["val"][which].get(name)) for which in ("best", "last")) for record in records]
    if any(None in pair for pair in pairs) or looked < 1:
        return {"gain": 0.0, "needed": None}
    gains = [best - last for best, last in pairs]
    noise = paired_noise([record.get("apart") for record in records])
    noise = noise_of(name, pairs, samples) if noise is None else noise
    return {"gain": statistics.fmean(map(abs, gains)), "needed": None if noise is None else quantile(looked) * noise}


def quantile(looked: int) -> float:
    """Standard errors that a gain has to exceed where so many epochs beside the last were looked at, of all arms together."""
    from scipy.special import ndtri

    return float(-ndtri(LEVEL / looked))


def noise_of(metric: str, pairs: list[tuple[float, float]], samples: int | None) -> float | None:
    """Standard error of best minus last of one seed, from the (best, last) score of every seed; None where nothing is known of the
    metric."""
    known = MEASURES.get(metric)
    if known is None or known.deviation is None or not samples:
        return None
    deviation = known.deviation
    return statistics.fmean(math.hypot(*map(deviation, pair)) for pair in pairs) / math.sqrt(samples)


def paired_noise(apart: list[Mapping[Any, float] | None]) -> float | None:
    """The same from that of every sample (one mapping by id for each seed, {} where both are the same epoch); None where one is not
    known, or all are {}."""
    if None in apart or not any(apart):
        return None
    several = [list(seed.values()) for seed in apart if seed and len(seed) > 1]
    return (
        statistics.fmean(statistics.stdev(values) / math.sqrt(len(values)) for values in several) if several else None
    )


def apart_of(record: Mapping[str, Any]) -> dict[Any, float] | None:
    """id -> how much more right the selected epoch is than the last of a validation sample, of a stage's record with the "folder" it
    lies in; {} where they are the same epoch, None where the stage kept nothing of samples, or of another metric than it monitors."""
    from kdrun.learning.resampling import SELECTION, read_samples

    val, name = record["val"], record.get("monitor")
    if val.get("epoch_best") is None or val["epoch_best"] == val["epochs"] - 1:
        return {}
    rows = read_samples(record["folder"], SELECTION) if record.get("folder") else []
    apart = {row["id"]: row["best"] - row["last"] for row in rows}
    gains = [number(val[which].get(name)) for which in ("best", "last")]
    if not apart or None in gains:
        return None
    return apart if math.isclose(statistics.fmean(apart.values()), gains[0] - gains[1], abs_tol=1e-6) else None


def _why(
    found: Mapping[str, Any], clear: Mapping[str, Any], samples: int | None, metric: str | None, looked: int
) -> str:
    """One line for people. looked: epochs beside the last, of all arms together."""
    known = {arm: one for arm, one in found.items() if one["needed"] is not None}
    if not looked:
        return "there was one epoch"
    if not known:
        return f"the noise of {measure(metric).label} on validation is not known"
    if not any(one["gain"] for one in known.values()):
        return f"on {samples:,} validation samples no epoch is better"
    arm = max(clear or known, key=lambda name: known[name]["gain"] / (known[name]["needed"] or 1.0))
    shown = measure(metric)
    gain, needed = (
        f"{100 * value:.2f}" if shown.points else shown.figure(value)
        for value in (known[arm]["gain"], known[arm]["needed"])
    )
    words = "stands out" if clear else "does not stand out"
    unit = " points" if shown.points else ""
    return (
        f"on {samples:,} validation samples the best epoch {words}: {gain}{unit} better than the last, {needed} needed"
    )
