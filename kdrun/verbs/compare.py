"""kdrun compare RUN RUN...: where the configs of runs differ, and what came out, side by side with the first run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdrun.differences import corrected, difference_of, read_difference
from kdrun.files import dump_json, number
from kdrun.present.results import count_text, difference_texts, percent, reason_text, seeds_text, signed
from kdrun.present.units import MISSING, duration, share
from kdrun.present.verdict import decision_text, verdict_of
from kdrun.problems import UserError
from kdrun.records import arms_of, better_of, own_arm, seed_results
from kdrun.tables.build import data_of
from kdrun.tracking.filters import as_text, config_values
from kdrun.tracking.registry import RunInfo, find_run
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder, print_table, take_no

LABELS = ("name", "paths", "tracker")
"""Parts of a config that change no result: shown only where nothing else differs."""
WHICH = ("best", "last")
ABSENT = "-"


def main(args: Arguments) -> int:
    """Print both tables and what makes the comparison doubtful, or all of it with --json."""
    take_no(args, words=False)
    runs = chosen_runs(outputs_folder(args), args.words)
    views = [view(run) for run in runs]
    minus_first(views)
    config, doubts = config_differences([run.record or {} for run in runs]), warnings(views)
    if args.json:
        print(dump_json({"config": config, "runs": views, "warnings": doubts}))
        return 0
    names = [str(number) for number, _ in enumerate(runs, 1)]
    for name, run in zip(names, runs, strict=True):  # an id is too long for the head of a column
        print(f"{name}  {run.id}")
    print()
    _print("config", names, [(key, *map(_value_text, values)) for key, values in config.items()])
    print()
    _print("result", names, result_rows(views))
    print()
    for name, one in zip(names, views, strict=True):
        if text := _ending(one):
            print(f"{name}: {text}")
    if doubts:
        print(f"careful: {'; '.join(doubts)}")
    return 0


def chosen_runs(outputs: Path, words: list[str]) -> list[RunInfo]:
    """The runs named, in this order. UserError for fewer than two, the same twice, or a record that cannot be read."""
    if len(words) < 2:
        raise UserError("compare which runs? at least two: kdrun compare RUN RUN", "all: kdrun runs")
    runs = []
    for word in words:
        try:
            run = find_run(outputs, word)
        except UserError as error:
            if (outputs / "sweeps" / word).is_dir():
                raise UserError(f"{word} is a sweep, not a run", f"its runs: kdrun runs sweep={word}") from None
            raise error
        run.known_record()
        if run.id in (other.id for other in runs):
            raise UserError(f"{run.id} is named twice")
        runs.append(run)
    return runs


def config_differences(records: list[dict[str, Any]]) -> dict[str, list[list[Any]]]:
    """Dotted key -> per run the values it has in the cells of that run ([] = no such key), for keys that differ."""
    configs = []
    for record in records:
        values = config_values(record)
        values.pop("seed", None)  # what `seeds` says of all cells, `seed` says of the first
        configs.append({**values, "seeds": [record["seeds"]]})
    keys = dict.fromkeys(key for values in configs for key in values)
    found = {key: [values.get(key, []) for values in configs] for key in keys}
    differing = {key: values for key, values in found.items() if len({as_text(value) for value in values}) > 1}
    return {key: values for key, values in differing.items() if key.split(".")[0] not in LABELS} or differing


def view(run: RunInfo) -> dict[str, Any]:
    """What is compared of one run; None = not known."""
    record = run.record or {}
    summary, git = record["summary"] or {}, record["git"] or {}
    arms, own = arms_of(record), own_arm(record)
    data = {"content": data_of(record, run.dir.parent.parent)["content"]}
    stage = next((stage for stage in record["stages"] if stage.get("role") == own), {})
    return {
        "id": run.id,
        "path": str(run.dir),
        "status": run.status,
        "seeds": record["seeds"],
        "metric": summary.get("metric"),
        "better": better_of(summary),
        "margin": (record["config"] or {}).get("margin"),
        "arms": arms,
        "own": own if own in arms else None,
        "teacher": summary.get("teacher"),
        "headline": (summary.get("headline") or {}).get("which"),
        "gap_closed": summary.get("gap_closed"),
        "verdict": verdict_of(record),
        "error": record["error"],
        "seconds": summary.get("seconds"),
        **{key: stage.get(key) for key in ("parameters", "flops")},
        "commits": {name: state.get("commit") for name, state in git.items()},
        "dirty": any(state.get("dirty") for state in git.values()),
        "data": {**data, "samples": (record["audit"] or {}).get("samples")},
    }


def minus_first(views: list[dict[str, Any]]) -> None:
    """Gives every view after the first "difference": {"best", "last": own result minus that of the first, as records hold a
    Difference}, paired over shared seeds, else by Welch's t; None where the metrics are not the same one or nothing tells
    the chance in it. p values are corrected over all of them (Holm)."""
    first, *others = views
    for other in others:
        other["difference"] = None
    own = [one for one in others if one["metric"] == first["metric"] and first["own"] and one["own"]]
    for which in WHICH if own else ():
        base, *results = (seed_results(one["arms"][one["own"]], which) for one in (first, *own))
        found = {place: difference_of(result, base, first["better"]) for place, result in enumerate(results)}
        tested = {place: one for place, one in found.items() if one is not None and one.interval is not None}
        for place, one in corrected(tested).items():
            known = replace(one, margin=first["margin"] if own[place]["margin"] == first["margin"] else None)
            own[place]["difference"] = {**(own[place]["difference"] or {}), which: known.as_record()}


def warnings(views: list[dict[str, Any]]) -> list[str]:
    """What makes a difference between these runs doubtful, if anything does."""
    found = []
    if len({tuple(one["seeds"]) for one in views}) > 1:
        found.append(f"seeds differ ({'; '.join(seeds_text(one['seeds']) for one in views)})")
    if incomplete := [one["id"] for one in views if any(arm.get("missing") for arm in one["arms"].values())]:
        found.append(f"seeds are missing in {', '.join(incomplete)}")
    for key in ("content", "samples"):
        known = [one["data"][key] for one in views if one["data"][key] is not None]
        if any(value != known[0] for value in known):
            found.append("data differ")
            break
    if any(one["commits"] != views[0]["commits"] for one in views):
        found.append("commits differ")
    if dirty := [one["id"] for one in views if one["dirty"]]:
        found.append(f"uncommitted changes in {', '.join(dirty)}")
    return found


def result_rows(views: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """(what, text per run): each figure with its difference to the first run."""
    first = views[0]
    rows = [("status", *(one["status"] for one in views))]
    if any(one["teacher"] for one in views):
        rows.append(("teacher", *((one["teacher"] or {}).get("learner") or ABSENT for one in views)))
        rows += _figure_rows("teacher", views, [one["teacher"] or {} for one in views])
    for arm in dict.fromkeys(name for one in views for name in one["arms"]):
        rows += _figure_rows(arm, views, [one["arms"].get(arm, {}) for one in views])
        rows.append((f"{arm}, seeds", *(_count(one["arms"].get(arm)) for one in views)))
    if any(one["headline"] for one in views):
        rows.append(("judged by", *(f"{one['headline'] or 'best'} epoch" for one in views)))
    if any(one["gap_closed"] for one in views):
        for which in WHICH:
            rows.append((f"gap closed, {which}", *(share((one["gap_closed"] or {}).get(which)) for one in views)))
    if any(one.get("difference") for one in views):
        for which in WHICH:
            texts = [_difference_text((one.get("difference") or {}).get(which), first["metric"]) for one in views[1:]]
            rows.append((f"minus first, {which}", ABSENT, *texts))
    rows.append(("time", *(duration(one["seconds"]) for one in views)))
    for key in ("parameters", "flops"):
        rows.append((f"student {key}", *(MISSING if one[key] is None else f"{one[key]:,}" for one in views)))
    rows.append(("commit", *map(_commit, views)))
    if "data differ" in warnings(views):
        rows.append(("data", *map(_data, views)))
    return rows


def _figure_rows(name: str, views: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [(f"{name}, {which}", *_figures(views, [result.get(which) for result in results])) for which in WHICH]


def _figures(views: list[dict[str, Any]], values: list[Any]) -> list[str]:
    texts = []
    for one, value in zip(views, values, strict=True):
        mean, base = (number(item.get("mean") if isinstance(item, dict) else item) for item in (value, values[0]))
        comparable = one is not views[0] and one["metric"] == views[0]["metric"] and None not in (mean, base)
        change = f" ({signed(mean - base, one['metric'])})" if comparable else ""
        texts.append(percent(value, one["metric"]) + change)
    return texts


def _count(arm: dict[str, Any] | None) -> str:
    """`4 of 5 (3: diverged FloatingPointError)`"""
    if arm is None:
        return ABSENT
    missing = (f"{seed}: {reason_text({**why, 'message': None})}" for seed, why in (arm.get("missing") or {}).items())
    why = ", ".join(missing)
    return f"{count_text(arm)} ({why})" if why else count_text(arm)


def _difference_text(found: dict[str, Any] | None, metric: str | None) -> str:
    """`+2.50 ± 0.71, 95 % interval -3.85 to +8.85, p 0.126, better in 100 % of pairs: undecided ... (paired t, n = 2)`"""
    if not found:
        return MISSING
    mean, interval, p, better, n = difference_texts(found, metric)
    known = read_difference(found)
    decision = decision_text(known, metric)
    return f"{mean}, 95 % interval {interval}, p {p}, better in {better} of pairs: {decision} ({known.method}, n = {n})"


def _commit(one: dict[str, Any]) -> str:
    commits = ", ".join((commit or MISSING)[:10] for commit in one["commits"].values())
    return (commits or MISSING) + (" and changes" if one["dirty"] else "")


def _data(one: dict[str, Any]) -> str:
    samples = "/".join(str(count) for count in (one["data"]["samples"] or {}).values())
    return f"{(one['data']['content'] or MISSING)[:10]} {samples}".strip()


def _ending(one: dict[str, Any]) -> str | None:
    """The verdict, or how the run failed."""
    return one["verdict"] or (reason_text({**one["error"], "status": one["status"]}) if one["error"] else None)


def _value_text(values: list[Any]) -> str:
    """`0.1`; `0, 1, 2` for a key that follows the seed; `-` where a config has no such key."""
    text = ", ".join(map(as_text, values)) or ABSENT
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{22,}\b", r"\1...", text)


def _print(what: str, names: list[str], rows: list[tuple[str, ...]]) -> None:
    if rows:
        print_table([dict(zip((what, *names), row, strict=True)) for row in rows])
    else:
        print(f"{what}: no difference")
