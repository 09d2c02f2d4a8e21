"""The jobs that a table file stands for, and whether they go together."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdrun import kinds
from kdrun.config import vary
from kdrun.looks import AUTO
from kdrun.problems import Problems, UserError, closest, each, listed
from kdrun.tables.metric_names import METRICS
from kdrun.tables.table_file import TableFile, key_of
from kdrun.tracking.flatten import flatten


@dataclass
class TableJob:
    """One job of a table: the cells it fills. words: its overrides that matter; aside: labels, folders, trackers."""

    row: str
    columns: list[str]
    words: list[str]
    label: str
    aside: list[str] = field(default_factory=list)

    @property
    def overrides(self) -> list[str]:
        """What is composed and run."""
        words = [*self.words, *self.aside]
        return words if any(word.startswith("name=") for word in words) else [*words, f"name={self.label}"]


@dataclass(frozen=True)
class TableRequest:
    """A table as it was asked for. extra: KEY=VALUE that were typed, over the base of every job; outputs: as typed."""

    spec: TableFile
    extra: list[str]
    outputs: str | None = None
    conf: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for word in self.extra:
            if key_of(word) == "seeds" and word.partition("=")[2].partition(":")[0] == AUTO:
                raise UserError(
                    f"{word}: the rows of a table have the same seeds, and jobs of seeds=auto end where each is decided",
                    "a number: seeds=20",
                )

    @property
    def changed(self) -> list[str]:
        """Those of `extra` that make other jobs of the table's: a tracker, a tag, and where the data lie do not."""
        from kdrun.schema import irrelevant

        left_out = ("data.root", *irrelevant())
        return [word for word in self.extra if not key_of(word).startswith(left_out)]

    @property
    def name(self) -> str:
        """Folder of the results: a changed table gets its own, so that it cannot pass for the table as it is written."""
        if not self.changed:
            return self.spec.name
        return f"{self.spec.name}-{hashlib.sha256(json.dumps(self.changed).encode()).hexdigest()[:8]}"

    @property
    def command(self) -> str:
        """What makes this table; without folders, so that it can be printed in a paper."""
        return shlex.join(["kdrun", "table", self.spec.name, *self.changed])

    @property
    def arguments(self) -> list[str]:
        """What goes on with it, folders included."""
        folders = [*(word for path in self.conf for word in ("--conf", path))]
        folders += ["--outputs", self.outputs] if self.outputs else []
        return ["table", self.spec.name, *self.extra, *folders]

    def jobs(self) -> list[TableJob]:
        """All distinct jobs, row by row."""
        spec = self.spec
        found: dict[Any, TableJob] = {}
        typed = {key_of(word) for word in self.extra}
        seeds = [] if typed & {"seed", "seeds"} else [f"seeds={json.dumps(spec.seeds, separators=(',', ':'))}"]
        if spec.vary != [vary.STUDENT] and not typed & {vary.TYPED, vary.KEY}:
            seeds.append(f"{vary.TYPED}=[{','.join(spec.vary)}]")
        aside = [word for word in self.extra if word not in self.changed]
        aside += [f"paths.outputs={_quoted(self.outputs)}"] if self.outputs else []
        for row in spec.rows:
            for column in spec.columns:
                words = [*spec.base, *seeds, *self.changed, *row.overrides, *column.overrides]
                # Beside a student alone there is nothing that another arm could control.
                alone = dict(word.partition("=")[::2] for word in words).get("strategy") == "alone"
                controls = [name for name in spec.controls if name == "alone" or not alone]
                words += [f"controls=[{','.join(controls)}]"] if controls else []
                job = found.setdefault((row.id, *words), TableJob(row.id, [], words, "", aside))
                job.columns.append(column.id)
        jobs = list(found.values())
        for job in jobs:
            alone = sum(other.row == job.row for other in jobs) == 1
            job.label = f"{spec.name}-{job.row}" + ("" if alone else f"-{job.columns[0]}")
        return jobs


def compose_jobs(request: TableRequest, given: Sequence[str] = ()) -> tuple[list[TableJob], list[Any]]:
    """The jobs of a table and each one composed. Raises one UserError with everything that is wrong in any of them."""
    from kdrun.job.compose import compose

    jobs, composed = request.jobs(), []
    problems = Problems()
    for job in jobs:
        try:
            composed.append(compose(job.overrides, given))
        except UserError as error:
            for lines in each(error):
                problems.add(f"{request.spec.shown}, row {job.row}: {lines[0]}", *lines[1:])
    problems.stop()
    check_jobs(request.spec, jobs, composed)
    return jobs, composed


def check_jobs(spec: TableFile, jobs: Sequence[TableJob], composed: Sequence[Any]) -> None:
    """What only shows in composed configs: factors that are no keys, arms that no job has. Raises ConfigProblems."""
    from kdrun.tables.checks import direction_of

    problems = Problems()
    known = {key for job in composed for key in flatten(job.config)}
    for factor in spec.factors:
        if not any(key == factor or key.startswith(f"{factor}.") for key in known):
            problems.add(f"{spec.shown}: factors: no key {factor!r} in any job{closest(factor, known)}")
    for number, column in enumerate(spec.columns):
        owners = [found for job, found in zip(jobs, composed, strict=True) if column.id in job.columns]
        if column.main and owners:
            mains = sorted({kinds.find(found.config["data"]["task"]).main for found in owners})
            column = spec.columns[number] = replace(column, metric=mains[0])
            if len(mains) > 1:
                problems.add(f"{spec.shown}: column {column.id} has no metric; its rows are judged by {listed(mains)}")
        if column.metric not in METRICS:
            spec.columns[number] = replace(column, better=direction_of(column, owners, spec.shown, problems))
    by_id = {column.id: column for column in spec.columns}
    for job, found in zip(jobs, composed, strict=True):
        strategy = found.config["strategy"]
        if strategy["_target_"].endswith(".Alone"):
            continue
        arms = ["student", "teacher", *strategy.get("controls", [])]
        for column in (by_id[name] for name in job.columns):
            needed = [column.arm, *(["alone"] if column.metric == "gap_closed" else [])]
            for arm in needed:
                if arm not in arms:
                    text = f"{spec.shown}: column {column.id} needs the arm {arm!r}, row {job.row} has: {listed(arms)}"
                    problems.add(text, f"controls: [{arm}] adds it")
    problems.stop()


def _quoted(path: str) -> str:
    """A path as Hydra's grammar takes it, whatever signs are in it."""
    return path if re.fullmatch(r"[\w./-]+", path) else "'" + path.replace("'", "\\'") + "'"
