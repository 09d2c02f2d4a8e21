"""What must hold before a table is written. A failure names row, key and both values; a warning is printed below the table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun import kinds, targets
from kdrun.files import number
from kdrun.measures import MEASURES
from kdrun.problems import Problems, UserError, closest, listed
from kdrun.records import arms_of
from kdrun.tables.metric_names import METRICS, WHICH
from kdrun.tables.metrics import Measured, Record, is_alone, main_score, measure, stages_of, teachers
from kdrun.tracking.flatten import flatten
from kdrun.tracking.provenance import cells_of

SIGNED = {name for name, measure in MEASURES.items() if measure.signed}
SHARES = [name for name, metric in METRICS.items() if metric.unit == "share" and name not in SIGNED]
TAUGHT_BY = ("name", "network", "weights", "seed", "trainer", "data")
"""What of a teacher's config decides what it is; the rest says how its knowledge is brought."""


@dataclass(frozen=True)
class RecordedJob:
    """A job of a table with its record; `columns` are those it fills."""

    row: str
    columns: list[str]
    label: str
    record: Record | None

    @property
    def known(self) -> Record:
        """The record, of a job that has one."""
        assert self.record is not None
        return self.record


@dataclass
class Findings:
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(
    entries: Sequence[RecordedJob], columns: Sequence[dict[str, Any]], factors: Sequence[str], seeds: Sequence[int]
) -> Findings:
    """All checks. columns: their definitions (id, arm, metric ...); seeds: those that every job was asked for."""
    found = Findings()
    there = [entry for entry in entries if entry.record is not None and entry.record["config"] is not None]
    found.failures += [
        *_hashes(there),
        *undeclared([(entry.label, cells_of(entry.known)) for entry in there], factors),
        *_alone(there),
        *_seeds(there, seeds),
        *_scores(there),
        *_teachers(there),
    ]
    _counts(there, columns, found)
    found.warnings += _origins(there)
    return found


def _hashes(entries: Sequence[RecordedJob]) -> Iterator[str]:
    from kdrun.config.compose import hash_of

    for entry in entries:
        own, stated = hash_of(cells_of(entry.known)), entry.known["job_hash"]
        if own != stated:
            yield f"row {entry.label}: the config in its record has the hash {own[:8]}, the record says {stated[:8]}"


def undeclared(jobs: Sequence[tuple[str, Sequence[dict[str, Any]]]], factors: Sequence[str]) -> Iterator[str]:
    """Keys that differ between jobs and are not below a declared factor. jobs: label and config of each seed."""
    values: dict[str, dict[str, list[str]]] = {}
    configs = [(label, _relevant(cells)) for label, cells in jobs]
    for key in sorted({key for _, config in configs for key in config}):
        for label, config in configs:
            values.setdefault(key, {}).setdefault(config.get(key, "absent"), []).append(label)
    for key, by_value in values.items():
        if len(by_value) > 1 and not any(_below(key, factor) for factor in factors):
            shown = "; ".join(f"{value} in {', '.join(labels)}" for value, labels in by_value.items())
            yield f"{key} differs and is no declared factor: {shown}"


def _relevant(configs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Dotted key -> value as JSON, over the configs of all seeds, without the keys that change no result and the seeds."""
    from kdrun.schema import irrelevant

    left_out = {"seed", "seeds", *irrelevant()}
    cells = [flatten(config) for config in configs]
    found = {}
    for key in sorted({key for cell in cells for key in cell}):
        rule = key[key.index("trainer.") :] if ".trainer." in key else key  # a learner's own trainer
        if not any(_below(key, name) or _below(rule, name) for name in left_out):
            texts = [json.dumps(_plain(cell.get(key)), sort_keys=True) for cell in cells]
            found[key] = texts[0] if len(set(texts)) == 1 else " ".join(texts)  # ${seed} in a value: one for each cell
    return found


def _plain(value: Any) -> Any:
    """4.0 as 4: typed or from a file, it is the same number."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _alone(entries: Sequence[RecordedJob]) -> Iterator[str]:
    """Every student has to stand beside itself without a teacher: in its own run, or as a row that has results."""
    results = [entry for entry in entries if arms_of(entry.known)]
    alone = [entry for entry in results if is_alone(entry.known)]
    covered = {_student(entry.known) for entry in alone}
    for entry in results:
        if "alone" not in arms_of(entry.known) and _student(entry.known) not in covered:
            yield (
                f"row {entry.label}: no result of the student alone ({entry.known['config']['student']['name']}): "
                "add a row with strategy=alone, or controls: [alone]"
            )
    if not results:
        yield "no job has a result"


def _student(record: Record) -> str:
    config = record["config"]
    return json.dumps([config["student"], config["trainer"], config["data"]], sort_keys=True)


def _seeds(entries: Sequence[RecordedJob], seeds: Sequence[int]) -> Iterator[str]:
    for entry in entries:
        if list(entry.known["seeds"]) != list(seeds):
            yield f"row {entry.label}: its seeds are {entry.known['seeds']}, those of the table {list(seeds)}"


def _counts(entries: Sequence[RecordedJob], columns: Sequence[dict[str, Any]], found: Findings) -> None:
    """Equal n along a row. A seed that is missing for a recorded reason is shown in a footnote, and warned of."""
    by_id = {column["id"]: column for column in columns}
    rows: dict[str, dict[str, Measured]] = {}
    for entry in entries:
        for name in entry.columns:
            column = by_id[name]
            cell = measure(entry.known, column["arm"], column["metric"])
            if not cell.applies or column["arm"] == "teacher":
                continue
            if cell.n + len(cell.missing) != cell.of or cell.of != len(entry.known["seeds"]):
                found.failures.append(
                    f"row {entry.row}, column {name}: the record says n = {cell.n} of {cell.of}, but has "
                    f"{len(entry.known['seeds']) - len(cell.missing)} results of {len(entry.known['seeds'])} seeds"
                )
            unexplained = [seed for seed, reason in cell.missing.items() if not reason["status"]]
            if unexplained:
                found.failures.append(
                    f"row {entry.row}, column {name}: n = {cell.n} of {cell.of}, and nothing says why "
                    f"seed {', '.join(unexplained)} has no result"
                )
            rows.setdefault(entry.row, {})[name] = cell
    for row, cells in rows.items():
        counts = {f"{cell.n} of {cell.of}" for cell in cells.values()}
        if len(counts) > 1:
            shown = ", ".join(f"{name} {cell.n} of {cell.of}" for name, cell in cells.items())
            found.warnings.append(f"row {row}: n differs along the row: {shown}")
        elif any(cell.missing for cell in cells.values()):
            found.warnings.append(f"row {row}: not every seed has a result: {counts.pop()}")


def _scores(entries: Sequence[RecordedJob]) -> Iterator[str]:
    """Shares lie in 0..1, top-1 is at most top-5, and the summary says what the stages say."""
    for entry in entries:
        for stage in entry.known["stages"]:
            place = f"row {entry.label}, {stage['label']}"
            for split in ("val", "test"):
                for which in WHICH:
                    yield from _shares(f"{place}, {split} {which}", (stage.get(split) or {}).get(which) or {})
        summary = entry.known["summary"] or {}
        for arm, result in arms_of(entry.known).items():
            stages = stages_of(entry.known, arm)
            for seed, values in result["seeds"].items():
                place, stage = f"row {entry.label}, {arm}, seed {seed}", stages[seed]
                if stage is None:
                    yield f"{place}: the summary has a result, but the record lists no such stage"
                    continue
                for which in WHICH:
                    own = stage["test"][which][summary["metric"]]
                    if number(own) != number(values[which]):
                        yield f"{place}: {summary['metric']} {which} is {values[which]} in the summary, {own} in its stage"


def direction_of(column: Any, jobs: Sequence[Any], place: str, problems: Problems) -> str:
    """What is better ("max", "min", "": nobody says) of a metric that the data or the config of a column's jobs adds."""
    name, place = column.metric, f"{place}: column {column.id}"
    job = next((job for job in jobs if name in kinds.metrics_of(job.config)), None)
    if job is None:
        has = dict.fromkeys(name for job in jobs for name in kinds.metrics_of(job.config))
        problems.add(f"{place}: no job has the metric {name!r}{closest(name, has)}", f"they have: {listed(has)}")
        return ""
    with job.allowing():
        better = kinds.direction(job.config, name)
    if column.bold and not better:
        problems.add(
            f"{place}: metrics.{name} does not say whether more is better", f"add metrics.{name}.mode=max, or min"
        )
    return better


def _shares(place: str, scores: dict[str, Any]) -> Iterator[str]:
    for name in SHARES:
        value = scores.get(name)
        known = number(value)
        if value is not None and not (known is not None and 0 <= known <= 1):
            yield f"{place}: {name} is {value}, outside 0..1"
    one, five = number(scores.get("accuracy")), number(scores.get("top5"))
    if one is not None and five is not None and one > five:
        yield f"{place}: accuracy {one} is above top5 {five}"


def _teachers(entries: Sequence[RecordedJob]) -> Iterator[str]:
    """The same config of a teacher is the same stage with the same results in every job."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in entries:
        config = entry.known["config"]
        if not teachers(entry.known) or config.get("teacher") is None:
            continue
        own = {key: config["teacher"].get(key) for key in (*TAUGHT_BY, "prompt", "system")}
        own |= _teacher_options(config["strategy"])
        rest = {key: config.get(key) for key in ("trainer", "data", "hardware", "seeds")}
        labels = {  # options of the term that teachers learn by
            name: {key: value for key, value in config["objective"].get(name, {}).items() if key != "weight"}
            for name in ("ce", "mse")
        }
        key = json.dumps([own, rest, labels], sort_keys=True)
        scores = {
            name: [main_score(entry.known, stage, w) for w in WHICH] for name, stage in teachers(entry.known).items()
        }
        label, theirs = first.setdefault(key, (entry.label, scores))
        arms = arms_of(entry.known).values()
        complete = arms and not any(arm.get("missing") for arm in arms)  # else some teachers are missing, too
        if complete and scores.keys() != theirs.keys():
            one, other = (", ".join(name[:12] for name in found) for found in (theirs, scores))
            yield f"teacher {config['teacher']['name']}: stage {one} in {label}, {other} in {entry.label}"
        for fingerprint in scores.keys() & theirs.keys():
            if scores[fingerprint] != theirs[fingerprint]:
                yield (
                    f"teacher {config['teacher']['name']} ({fingerprint[:12]}): test score {theirs[fingerprint]} in "
                    f"{label}, {scores[fingerprint]} in {entry.label}"
                )


def _teacher_options(strategy: dict[str, Any]) -> dict[str, Any]:
    """Those by which teachers of this strategy differ (Strategy.teacher_options); none of a strategy that may not be called from here."""
    try:
        names = getattr(targets.locate(strategy["_target_"], "strategy"), "teacher_options", ())
    except (ImportError, UserError):
        names = ()
    return {name: strategy.get(name) for name in names}


def _origins(entries: Sequence[RecordedJob]) -> Iterator[str]:
    """Commits, uncommitted changes, versions and machines that are not the same for all records."""
    commits: dict[str, list[str]] = {}
    dirty = []
    for entry in entries:
        git = (entry.known["git"] or {}).get("kdrun") or {}
        commits.setdefault((git.get("commit") or "no commit")[:10], []).append(entry.label)
        if git.get("dirty"):
            dirty.append(entry.label)
    if len(commits) > 1:
        shown = "; ".join(f"{commit} in {', '.join(labels)}" for commit, labels in commits.items())
        yield f"made at different commits: {shown}"
    if dirty:
        yield f"made with uncommitted changes: {', '.join(dirty) if len(dirty) < len(entries) else 'all rows'}"
    for name in ("torch", "kdrun"):
        versions = sorted({str((entry.known["versions"] or {}).get(name)) for entry in entries})
        if len(versions) > 1:
            yield f"made with different versions of {name}: {', '.join(versions)}"
    machines = sorted({str((entry.known["hardware"] or {}).get("cpu")) for entry in entries})
    if len(machines) > 1:
        yield f"made on different machines: {'; '.join(machines)}"
