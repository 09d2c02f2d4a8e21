"""With seeds=auto: as many cells of a job as its rule needs (see kdrun.looks)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.differences import Difference, difference_of, read_difference
from kdrun.job.cells import fit_cells
from kdrun.job.selection import headline_of
from kdrun.job.steps import add_counts, control_of, steps_of
from kdrun.looks import Rule, ends, read_rule
from kdrun.measures import measure
from kdrun.present.verdict import margin_of

Arms = dict[str, dict[int, dict[str, Any]]]


def fit(work: Any):
    """What fit_cells returns, of the cells up to the look that ended the job, which alone are those of the work afterwards;
    `work.sequential` says why.

    A run that was killed comes to the same looks again: what they look at is in the store."""
    cells, looks = work.cells, work.cells[0]["looks"]
    rule = Rule.of(looks, margin_of(work.task.MAIN, work.cells[0]["margin"]))
    arms: Arms = {}
    labels: dict[str, str] = {}
    teachers: dict[int, dict[str, Any]] = {}
    made, done = [], 0
    for number in looks:
        *fitted, against = fit_cells(cells[done:number], work.lab, work.failed)
        for arm, records in fitted[0].items():
            arms.setdefault(arm, {}).update(records)
        labels |= fitted[1]
        teachers |= fitted[2]
        done = number
        made.append(rule.look(number, primary(work, arms, against)))
        work.report.note(look_text(made[-1], work.task.MAIN))
        if ends(made[-1]["decision"]) or len(work.errors) == done:
            break
    work.cells = cells[:done]
    work.sequential = {**rule.as_record(), "made": made, "decision": made[-1]["decision"]}
    return arms, labels, teachers, against


def judge(summary: dict[str, Any], sequential: Mapping[str, Any]) -> None:
    """Puts what a job with seeds=auto is judged by into its summary: the difference of the verdict at the level of its last look."""
    rule, seeds = read_rule(sequential), sequential["made"][-1]["seeds"]
    found = summary.get("difference") or {}
    for which in ("best", "last") if found else ():
        found[which] = rule.at(read_difference(found[which]), seeds).as_record()
    summary["sequential"] = sequential


def primary(work: Any, arms: Arms, against: str) -> Difference | None:
    """The difference that the verdict is about, as far as there are seeds; None without a control."""
    add_counts(arms, work.stages, work.validation)
    control = control_of({arm: {"steps": steps_of(records)} for arm, records in arms.items()}, against)
    which = headline_of(arms)["which"]
    sides = [_results(arms.get(arm, {}), which, work.task.MAIN) for arm in ("student", control)]
    return difference_of(*sides, work.task.METRICS[work.task.MAIN])


def _results(records: Mapping[int, Mapping[str, Any]], which: str, metric: str) -> dict[int, float]:
    return {seed: record["test"][which][metric] for seed, record in records.items()}


def look_text(look: Mapping[str, Any], metric: str) -> str:
    """`after 3 seeds: +2.10 points, p = 0.03, 0.0039 needed: undecided`."""
    if look.get("mean") is None:
        return f"after {look['seeds']} seeds: no difference is known"
    mean = f"{100 * look['mean']:+.2f} points" if measure(metric).points else f"{look['mean']:+.4f}"
    p = "" if look["p"] is None else f", p = {look['p']:.2g}, below {look['level']:.2g} needed"
    return f"after {look['seeds']} seeds: {mean}{p}: {look['decision']}"
