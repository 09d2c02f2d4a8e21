"""What a word on the command line means: a run, several runs, a sweep or a table; and what to call each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrun.files import read_json
from kdrun.job.over_seeds import over_seeds, repetitions, without_seeds
from kdrun.problems import UserError, nearest
from kdrun.tracking.record import DONE
from kdrun.tracking.registry import RunInfo, find_run, read_run, runs_folder

TABLE = "table.json"


@dataclass(frozen=True)
class SeedRuns(RunInfo):
    """Runs that differ in the seed alone, as one: `record` is over all their seeds; id and folder are those of the first."""

    parts: tuple[RunInfo, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What a figure or a page is about.

    kind    "run", "runs", "sweep" or "table"
    folder  where its files go
    runs    (label, run), the label being what tells it from the others
            of a sweep one for each configuration: points that differ in the seed alone are one (SeedRuns)
    record  of a sweep or a table: sweep.json or table.json itself
    """

    kind: str
    name: str
    folder: Path
    runs: list[tuple[str, RunInfo]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def find_subject(outputs: Path, words: Sequence[str], tables: bool = False) -> Subject:
    """The subject of these words; none: the last run. UserError naming the nearest run, sweep or table otherwise."""
    found = [_find(outputs, word, tables) for word in words or ["last"]]
    if len(found) == 1:
        return found[0]
    other = next((subject for subject in found if subject.kind == "table"), None)
    if other is not None:
        raise UserError(f"{other.name} is a table: one table at a time")
    runs = {run.dir: run for subject in found for _, run in subject.runs}
    return Subject("runs", f"{len(runs)} runs", found[0].folder, _named(list(runs.values())))


def _find(outputs: Path, word: str, tables: bool) -> Subject:
    """A whole name wins over the beginning of one: a table `digits` over the run `digits-1a2b3c4d`."""
    if not (runs_folder(outputs) / word).is_dir():
        table = find_table(outputs, word) if tables else None
        if table is not None:
            return table
    try:
        run = find_run(outputs, word)
    except UserError as error:
        sweep = find_sweep(outputs, word)
        if sweep is None:
            raise UserError(*error.lines, *_other_guess(outputs, word, tables)) from None
        return sweep
    return Subject("run", run.id, run.dir, [(run.id, run)], run.known_record())


def _other_guess(outputs: Path, word: str, tables: bool) -> list[str]:
    kinds = ("sweeps", "tables") if tables else ("sweeps",)
    if Path(word).exists():
        what = "folder" if Path(word).is_dir() else "file"
        return [f"this is a {what}: the name of one of the runs, {' or '.join(kinds)} is wanted"]
    names = [path.name for kind in kinds for path in sorted((outputs / kind).glob("*/"))]
    guess = nearest(word, names)
    return [f"closest among {' and '.join(kinds)}: {guess}"] if guess else []


def runs_of(subject: Subject, outputs: Path, *, unfinished: bool = False) -> list[tuple[str, RunInfo]]:
    """(label, run) of a run, several runs, a sweep, or the jobs of a table: those that are finished, or all that have begun."""
    if subject.kind != "table":
        return list(subject.runs)
    jobs = [job for job in subject.record.get("jobs") or () if job.get("run")]
    jobs = [job for job in jobs if unfinished or job.get("status") == DONE]
    found = [(job["label"], read_run(runs_folder(outputs) / job["run"])) for job in jobs]
    found = [(label, run) for label, run in found if run.record is not None]
    if not found:
        raise UserError(f"the table {subject.name} has no finished runs here", f"run them: kdrun table {subject.name}")
    return found


def find_sweep(outputs: Path, word: str) -> Subject | None:
    """The sweep meant by `word`, with the runs of its points as far as they exist; None if there is none."""
    from kdrun.tracking import sweeps

    try:
        sweep = sweeps.find_sweep(outputs, word)
    except UserError:
        return None
    points = sweep.record.get("points") or []
    runs = [
        read_run(runs_folder(sweep.dir.parent.parent) / point["run"]) if point.get("run") else None for point in points
    ]
    known = over_seeds_of([point.get("overrides") or [] for point in points], runs)
    return Subject("sweep", sweep.id, sweep.dir, known, sweep.record)


def over_seeds_of(overrides: Sequence[Sequence[str]], runs: Sequence[RunInfo | None]) -> list[tuple[str, RunInfo]]:
    """(label, run) of every configuration that has a readable run, its seeds taken together."""
    records = [run.record if run else None for run in runs]
    groups = repetitions(overrides, records)
    several = len(groups) > 1
    words = [without_seeds(overrides[group[0]]) if several else list(overrides[group[0]]) for group in groups]
    labels = short_labels(words, [records[group[0]] for group in groups])
    found: list[tuple[str, RunInfo]] = []
    for label, group in zip(labels, groups, strict=True):
        parts = tuple(run for number in group if (run := runs[number]) is not None and run.record is not None)
        if len(parts) == 1:
            found.append((label, parts[0]))
        elif parts:
            record = over_seeds([part.record for part in parts])
            status = next((part.status for part in parts if part.status != DONE), DONE)
            found.append((label, SeedRuns(parts[0].id, parts[0].dir, record, status, parts=parts)))
    return found


def find_table(outputs: Path, word: str) -> Subject | None:
    """The table of this name or path."""
    path = Path(word) if len(Path(word).parts) > 1 else outputs / "tables" / word
    path = path.parent if path.name == TABLE else path
    if not (path / TABLE).is_file():
        return None
    try:
        record = read_json(path / TABLE)
    except (OSError, ValueError) as error:
        raise UserError(f"the table {path.name} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path / TABLE} is not a table")
    return Subject("table", path.name, path, record=record)


def _named(runs: list[RunInfo]) -> list[tuple[str, RunInfo]]:
    records = [run.record for run in runs]
    labels = short_labels([(record or {}).get("overrides") or [] for record in records], records)
    unique = len(set(labels)) == len(labels) and all(labels)
    return [(label if unique else run.id, run) for label, run in zip(labels, runs, strict=True)]


def short_labels(overrides: Sequence[Sequence[str]], records: Sequence[dict[str, Any] | None] = ()) -> list[str]:
    """For each list of overrides, the values in which the lists differ, keys cut to what tells them apart.

    [["a.lr=1", "seed=0"], ["a.lr=2", "seed=0"]] -> ["lr=1", "lr=2"]. A key that a list leaves out has the value that
    the record of its run tells.
    """
    parsed = [dict(word.lstrip("+").partition("=")[::2] for word in words) for words in overrides]
    keys = list(dict.fromkeys(key for words in parsed for key in words))
    for words, record in zip(parsed, records, strict=False):
        words |= {key: value for key in keys if key not in words and (value := _value(record or {}, key)) is not None}
    keys = [key for key in keys if len({words.get(key) for words in parsed}) > 1]
    tails = [key.rpartition(".")[2] for key in keys]
    short = {key: tail if tails.count(tail) == 1 else key for key, tail in zip(keys, tails, strict=True)}
    return [", ".join(f"{short[key]}={words[key]}" for key in keys if key in words) or "default" for words in parsed]


def _value(record: dict[str, Any], key: str) -> str | None:
    choice = (record.get("choices") or {}).get(key)
    node: Any = record.get("config") or {}
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if choice is None and (node is None or isinstance(node, dict | list)):
        return None
    value = node if choice is None else choice
    return f"{value:g}" if isinstance(value, float) else str(value)
