"""What conf/table/NAME.yaml says, checked with file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from kdrun import kinds
from kdrun.config import vary
from kdrun.config.groups import Option, conf_dirs, tables
from kdrun.differences import BETTER, SMALL, WORSE
from kdrun.files import sha256_file
from kdrun.problems import Problems, UserError, closest, listed
from kdrun.tables.metric_names import DIFFERENCES, METRICS, OF_PARTS, ONCE, WHICH, per_epoch
from kdrun.tables.source import Path, Source, read_source

EPOCHS = ("best", "last", "unknown")
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SEED_KEYS = ("seed", "seeds", vary.TYPED, vary.KEY)


@dataclass(frozen=True)
class TableRow:
    """expects: what its differences have to be decided as (see differences.Difference.decision), or ""."""

    id: str
    label: str
    overrides: list[str]
    expects: str = ""


@dataclass(frozen=True)
class Column:
    """overrides: a column may choose configs of its own; columns of a row with the same overrides share the row's job.

    split: test, or the name of a further test set of the data. better: max or min, of a metric that the data or the config adds.
    main: the file names no metric; it is the one by which the data of the jobs are judged (Domain.main)."""

    id: str
    label: str
    overrides: list[str]
    arm: str
    metric: str
    which: str
    bold: bool
    split: str = "test"
    better: str = ""
    main: bool = False

    @property
    def definition(self) -> dict[str, Any]:
        """What rendering needs to know."""
        names = ["id", "label", "arm", "metric", "which", "bold"]
        names += [name for name, usual in (("split", "test"), ("better", "")) if getattr(self, name) != usual]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TableFile:
    """One table file. published: {row: {column: figure}} in the unit of the records (shares, not percent).

    plan: what is asked, how the setting was chosen and what would decide it, written before the table runs."""

    name: str
    shown: str
    sha256: str
    title: str
    note: str
    plan: str
    base: list[str]
    seeds: int | list[int]
    vary: list[str]
    rows: list[TableRow]
    columns: list[Column]
    factors: list[str]
    controls: list[str]
    published: dict[str, dict[str, float]]
    source: dict[str, str]
    requires: dict[str, Any]
    shipped: bool = False

    @property
    def words(self) -> list[str]:
        """All that the file says of jobs."""
        parts = [part.overrides for part in self.rows] + [part.overrides for part in self.columns]
        return [*self.base, *(word for words in parts for word in words)]


def find_table(name: str, given: Sequence[str] = ()) -> Option:
    """The file of a table. UserError with the nearest name otherwise."""
    found = tables(conf_dirs(given)[0])
    if name not in found:
        raise UserError(f"no table '{name}'{closest(name, found)}", f"tables: {listed(found)}")
    return found[name]


def read_spec(option: Option) -> TableFile:
    """Read and check one file. Raises ConfigProblems with everything that is wrong in it, each with its line."""
    problems = Problems()
    source = read_source(option.file, option.shown, problems)
    problems.stop()
    source.mapping((), FIELDS[()])
    rows = _rows(source)
    figures: dict[str, Any] = {}
    for number, row in enumerate(source.items(("rows",))):
        if isinstance(row, dict) and row.get("published") is not None:
            figures[str(row.get("id"))] = (("rows", number, "published"), row["published"])
    columns = _columns(source, _added_metrics(source))
    published = source.mapping(("published",), FIELDS[("published",)])
    source.choice(("published", "epoch"), EPOCHS)
    for row, values in source.mapping(("published", "figures"), None).items():
        figures[str(row)] = (("published", "figures", row), values)
    spec = TableFile(
        option.name,
        option.shown,
        sha256_file(option.file),
        source.text(("title",), required=True),
        source.text(("note",)),
        source.text(("plan",)),
        _overrides(source, ("base",)),
        _seeds(source),
        _vary(source),
        rows,
        columns,
        source.texts(("factors",)),
        source.texts(("controls",)),
        _published(source, figures, rows, columns),
        {name: source.text(("published", name)) for name in ("source", "citation", "epoch") if published.get(name)},
        _requires(source),
        option.dir.origin == "kdrun",
    )
    if spec.published and not (spec.source.get("source") and spec.source.get("epoch")):
        source.problem(("published",), f"published figures need their source and epoch ({', '.join(EPOCHS)})")
    problems.stop()
    return spec


FIELDS: dict[tuple[str, ...], tuple[str, ...]] = {
    (): (
        "title",
        "note",
        "plan",
        "base",
        "seeds",
        "vary",
        "rows",
        "columns",
        "factors",
        "controls",
        "published",
        "requires",
    ),
    ("rows",): ("id", "label", "overrides", "published", "expects"),
    ("columns",): ("id", "label", "overrides", "arm", "metric", "which", "bold", "split"),
    ("published",): ("source", "citation", "epoch", "figures"),
    ("requires",): ("data", "device", "note", "shape", "classes", "train"),
}


def _rows(source: Source) -> list[TableRow]:
    rows: list[TableRow] = []
    for number, path in source.entries(("rows",), FIELDS[("rows",)]):
        identity = _identity(source, path, [row.id for row in rows], number)
        expects = source.choice((*path, "expects"), (BETTER, WORSE, SMALL)) or ""
        label = source.text((*path, "label")) or identity
        rows.append(TableRow(identity, label, _overrides(source, (*path, "overrides")), expects))
    return rows


def _columns(source: Source, added: Set[str]) -> list[Column]:
    """added: metrics beside those of kdrun."""
    columns: list[Column] = []
    for number, path in source.entries(("columns",), FIELDS[("columns",)]):
        identity = _identity(source, path, [column.id for column in columns], number)
        metric = source.get((*path, "metric"))
        if metric not in added:
            metric = source.choice((*path, "metric"), METRICS) or "accuracy"
        which = source.choice((*path, "which"), (*WHICH, "both")) or ("best" if metric in OF_PARTS else "both")
        arm = source.text((*path, "arm")) or ("alone" if metric in DIFFERENCES else "student")
        bold = source.get((*path, "bold")) or False
        if metric == "gap_closed" and arm != "student":
            source.problem((*path, "arm"), "gap_closed is about the student; leave arm out")
        if metric in DIFFERENCES and arm in ("student", "teacher"):
            source.problem((*path, "arm"), f"{metric}: arm is the control that is subtracted, not the {arm}")
        if bold not in (True, False) or (bold and not METRICS[metric].scored):
            scored = ", ".join(name for name, found in METRICS.items() if found.scored)
            source.problem((*path, "bold"), f"true or false; validation can choose the best of: {scored}")
        split = source.text((*path, "split")) or "test"
        if split != "test":
            if not METRICS[metric].scored:
                source.problem((*path, "split"), f"{metric} is not a score of a test set; leave split out")
            which = "best"
        if not per_epoch(metric):
            which = ONCE
        label = source.text((*path, "label")) or identity
        overrides = _overrides(source, (*path, "overrides"))
        main = source.get((*path, "metric")) is None
        columns.append(Column(identity, label, overrides, arm, metric, which, bold, split, main=main))
    return columns


def _added_metrics(source: Source) -> set[str]:
    """Metrics that the words of the file add (`metrics.NAME.KEY=VALUE`), and those of installed kinds of data."""
    named = re.findall(r"\bmetrics\.(\w+)\.", json.dumps(source.content, default=str))
    return {
        *named,
        *(name for task in kinds.names() if task not in kinds.shipped() for name in kinds.find(task).metrics),
    }


def _identity(source: Source, path: Path, taken: list[str], number: int) -> str:
    identity = source.text((*path, "id"), required=True)
    if identity and not ID.fullmatch(identity):
        source.problem((*path, "id"), f"{identity!r}: letters, digits, `_`, `.` and `-` only: it is typed in commands")
    if identity.lower() in (other.lower() for other in taken):
        source.problem((*path, "id"), f"{identity!r} twice")
    return identity or str(number)


def _overrides(source: Source, path: Path) -> list[str]:
    words = source.texts(path)
    for number, word in enumerate(words):
        if "=" not in word and not word.startswith("~"):
            source.problem((*path, number), f"{word!r} is not KEY=VALUE")
        elif key_of(word) in SEED_KEYS:
            source.problem(
                (*path, number), f"{word}: the seeds of a table are the same everywhere: `seeds: 5` at the top"
            )
    return words


def _seeds(source: Source) -> int | list[int]:
    seeds = source.get(("seeds",))
    whole = [seeds] if not isinstance(seeds, list) else seeds
    good = whole and all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in whole)
    if seeds is None or not good or seeds == 0:
        source.problem(("seeds",), "expected a number of seeds (5) or a list of them ([3, 7])")
        return 1
    return seeds


def _vary(source: Source) -> list[str]:
    """What differs from seed to seed: all, unless the file says otherwise. Figures are then of the method, not of a teacher or a split."""
    if source.get(("vary",)) is None:
        return list(vary.ALL)
    names = source.texts(("vary",))
    for number, name in enumerate(names):
        if name not in vary.ALL:
            source.problem(("vary", number), f"{name!r}{closest(name, vary.ALL)}; all: {listed(vary.ALL)}")
    if vary.STUDENT not in names or len({*names}) < len(names):
        source.problem(("vary",), f"{vary.STUDENT}, and which others differ with it, each once: {listed(vary.ALL)}")
    return [name for name in vary.ALL if name in names]


def _published(
    source: Source, figures: dict[str, Any], rows: list[TableRow], columns: list[Column]
) -> dict[str, dict[str, float]]:
    """Figures as they are printed in the paper, in the unit of the records."""
    found: dict[str, dict[str, float]] = {}
    by_id = {column.id: column for column in columns}
    for row, (path, values) in figures.items():
        if row not in [known.id for known in rows]:
            source.problem(path, f"no row {row!r}; rows: {listed(known.id for known in rows)}")
        for name, figure in values.items() if isinstance(values, dict) else ():
            column = by_id.get(name)
            if column is None:
                source.problem(
                    (*path, name), f"no column {name!r}{closest(str(name), by_id)}; columns: {listed(by_id)}"
                )
            elif not isinstance(figure, int | float) or isinstance(figure, bool):
                source.problem((*path, name), f"expected a number, got {figure!r}")
            elif METRICS[column.metric].unit in ("share", "points", "gap"):
                if METRICS[column.metric].unit == "share" and not 1 < figure <= 100:
                    source.problem((*path, name), f"expected percent, as printed in the paper (70.66), got {figure}")
                found.setdefault(row, {})[name] = round(figure / 100, 10)
            else:
                found.setdefault(row, {})[name] = figure
        if not isinstance(values, dict):
            source.problem(path, "expected COLUMN: FIGURE")
    return found


def _requires(source: Source) -> dict[str, Any]:
    """What has to be here for the jobs to run, and (shape, classes, train) what the data are like without them."""
    path = ("requires",)
    found = dict(source.mapping(path, FIELDS[path]))
    source.texts((*path, "data"))
    source.text((*path, "note"))
    source.choice((*path, "device"), ("cuda", "mps", "cpu"))
    sized = [name for name in ("shape", "classes", "train") if name in found]
    if sized and len(sized) < 3:
        source.problem(path, f"shape, classes and train belong together; given: {', '.join(sized)}")
    elif sized:
        numbers = [*found["shape"], found["classes"], found["train"]] if isinstance(found["shape"], list) else [None]
        if len(numbers) != 5 or not all(isinstance(number, int) and number > 0 for number in numbers):
            source.problem(path, "expected shape: [channels, height, width], classes: N, train: N, all whole numbers")
    return found


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
