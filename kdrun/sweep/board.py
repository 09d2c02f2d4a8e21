"""The table of a sweep's jobs: live on a terminal, a line per change anywhere else, a summary at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from kdrun.differences import Difference, read_difference
from kdrun.job.over_seeds import over_seeds, repetitions, without_seeds
from kdrun.measures import measure
from kdrun.parts import headline_epoch
from kdrun.present.console import STYLES, Console, columns, harmless
from kdrun.present.results import count_text, figure_text, percent, signed
from kdrun.present.units import MISSING, count_of, duration
from kdrun.records import arms_of, metric_of, own_arm, validation_of
from kdrun.sweep.plan import DONE, TO_FIT, Point, SweepPlan
from kdrun.tracking.record import FAILURES

ROWS = 30
"""A terminal shows no more jobs at a time; those that run and those that failed come first."""


class Board:
    """Shows the points of a plan while `execute` feeds it events. `jobs` is for people only."""

    def __init__(self, plan: SweepPlan, console: Console, quiet: bool = False):
        self.plan = plan
        self.console = console
        self.quiet = quiet
        self.chosen: set[int] = set()
        self._now: dict[int, dict[str, Any]] = {}
        self._live: Live | None = None
        if console.is_terminal and not quiet:
            self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    @harmless
    def event(self, event: dict[str, Any]) -> None:
        """Take one event of the pool; what a person must not miss (a failure) is printed at once."""
        point = self.plan.points[event["number"]]
        now = self._now.setdefault(event["number"], {"started": time.monotonic(), "stages": 0})
        if event["kind"] == "start":
            now["started"] = time.monotonic()
            self._say(f"{self._count(point)} {self.plan.label(point)}: started")
        elif event["kind"] == "stage":
            now.update(label=event["label"], total=event["total"], done=event["done"], stages=now["stages"] + 1)
        elif event["kind"] == "progress":
            now["done"] = event["done"]
        elif event["kind"] == "epoch":
            now["score"] = event.get("score", "")
        elif event["kind"] == "end":
            self._ended(point, event, time.monotonic() - now["started"])

    def _ended(self, point: Point, event: dict[str, Any], seconds: float) -> None:
        self._now.pop(point.number, None)
        if event["status"] in FAILURES or event["status"] == "interrupted":
            error = event.get("error") or {}
            if error.get("type") == "KeyboardInterrupt":  # it was asked to
                self._say(f"{self._count(point)} {self.plan.label(point)}: stopped, its state is saved")
                return
            text = f"{self._count(point)} {self.plan.label(point)}: {event['status']}: {error.get('type')}: {error.get('message')}"
            if not self.quiet:
                self.console.whole(text, STYLES.get(event["status"], ""))
                self.console.whole(f"      log: {point.folder}/run.log", "dim")
        else:
            self._say(
                f"{self._count(point)} {self.plan.label(point)}: {event['status']}{result(point)} ({duration(seconds)})"
            )

    def _say(self, text: str) -> None:
        if self._live is None and not self.quiet:
            self.console.whole(text)

    def _count(self, point: Point) -> str:
        return f"[{point.number + 1}/{len(self.plan.points)}]"

    def _render(self) -> Any:
        return self._table() or Text()

    @harmless
    def _table(self) -> Any:
        counts = Counter(map(self._status, self.plan.points))
        urgent = [p for p in self.plan.points if p.number in self._now or p.status in FAILURES]
        rest = [p for p in self.plan.points if p not in urgent]
        shown = sorted([*urgent, *rest][:ROWS], key=lambda point: point.number)
        names = ("job", "overrides", "status", "stage", "progress", "validation")
        table = columns(names, map(self._row, shown), left=4, whole=(0, 2))
        lines: list[Any] = [table]
        if len(shown) < len(self.plan.points):
            lines.append(Text(f"and {len(self.plan.points) - len(shown)} more", style="dim"))
        lines.append(Text("  ".join(f"{name} {number}" for name, number in counts.items()), style="bold"))
        return Group(*lines)

    def _status(self, point: Point) -> str:
        if point.number in self._now:
            return "running"
        return "waiting" if point.number in self.chosen and point.status in ("new", "interrupted") else point.status

    def _row(self, point: Point) -> tuple[Any, ...]:
        now, status = self._now.get(point.number), self._status(point)
        first = (str(point.number), Text(self.plan.label(point)))
        if now is None:
            return (*first, Text(status, STYLES.get(status, "dim")), "", "", _validation(point))
        total = now.get("total")
        progress = f"{100 * now['done'] / total:3.0f} %" if total else ""
        elapsed = duration(time.monotonic() - now["started"])
        return (
            *first,
            Text(status, "cyan"),
            Text(now.get("label", "starting")),
            f"{progress} {elapsed}",
            now.get("score", ""),
        )


def show_plan(plan: SweepPlan, console: Console, chosen: set[int]) -> None:
    """The jobs before they start: overrides, status, teacher, folder (it ends with the hash). Many jobs of one status are counted, not listed."""
    listed = plan.points if len(plan.points) <= 2 * ROWS or not console.is_terminal else plan.points[: 2 * ROWS]
    rows = [(*_begin(plan, p, status_text(p)), p.teacher, p.run_id or p.job.slug) for p in listed]
    if _fits(rows, console.width):
        table = columns(("job", "overrides", "status", "teacher", "folder"), rows, left=5, whole=(0, 3, 4))
    else:  # the folders are in sweep.json, and in `kdrun runs sweep=last`
        table = columns(("job", "overrides", "status", "teacher"), [row[:4] for row in rows], left=4, whole=(0, 3))
    if shared := plan.shared():
        console.whole(f"all jobs: {' '.join(shared)}", "dim")
    console.print(table)
    if len(listed) < len(plan.points):
        console.print(f"and {len(plan.points) - len(listed)} more", style="dim")
    counts = ", ".join(f"{number} {name}" for name, number in count(plan.points).items())
    console.whole(f"{count_of(len(plan.points), 'job')}: {counts}; {len(chosen)} to run")
    console.whole(f"sweep {plan.id}")


def _begin(plan: SweepPlan, point: Point, status: str) -> tuple[Any, ...]:
    """The first cells of a row: number, what tells the job from the others, status."""
    return str(point.number), plan.label(point), Text(status, STYLES.get(point.status, ""))


def _fits(rows: list[tuple[Any, ...]], width: int) -> bool:
    return sum(max(len(row[number]) for row in rows) + 2 for number in range(5)) <= width


def status_text(point: Point) -> str:
    """The status in the words of the plan: `new, needs a teacher pass`."""
    return f"{point.status}, needs a teacher pass" if point.teacher == TO_FIT and point.status != DONE else point.status


def count(points: list[Point]) -> dict[str, int]:
    """status -> how many points have it, in the order in which they appear."""
    return Counter(point.status for point in points)


@harmless
def show_results(plan: SweepPlan, console: Console) -> None:
    """The end: every job with its result; what failed, why and where to read on."""
    metric = next((summary["metric"] for p in plan.points if (summary := p.record.get("summary"))), None)
    heads = [f"{name} {measure(metric).title}" if name in ("val", "test") else name for name in FIGURES]
    names = ("job", "overrides", "status", *heads)
    rows = [(*_begin(plan, p, p.status), *result_figures(p.record, p.status, metric)) for p in plan.points]
    console.print(columns(names, rows, left=3, whole=(0, 2)))
    groups = repetitions([point.overrides for point in plan.points], [point.record for point in plan.points])
    if len(groups) < len(plan.points):
        shared, rows = set(plan.shared()), []
        for group in groups:
            words = [word for word in without_seeds(plan.points[group[0]].overrides) if word not in shared]
            record = over_seeds([plan.points[number].record for number in group])
            rows.append((" ".join(words) or "as it is", *result_figures(record, DONE, metric)))
        console.print()
        console.print(columns(("over seeds", *names[3:]), rows))
    for point in plan.points:
        if point.status in FAILURES and point.error:
            console.whole(f"job {point.number} {point.status}: {point.error['type']}: {point.error['message']}", "red")
            console.whole(f"      {point.run_id}", "dim")
    console.whole(CHOOSE, "dim")


CHOOSE = "Choose by validation (val); test only describes. [ ]: 95 % interval."
FIGURES = ("val", "test", "seeds", "over control")


def result_figures(record: dict[str, Any], status: str, metric: str | None) -> tuple[str, ...]:
    """(validation, test, seeds, mean over its control with the interval of several seeds below it) of the own result of a run."""
    summary = record.get("summary") or {}
    arm = arms_of(record).get(own_arm(record))
    which = headline_epoch(summary)
    difference = (summary.get("difference") or {}).get(which)
    validation = validation_of(record) if status == DONE else None
    return (
        "" if validation is None else figure_text(validation, metric),
        figure_text(arm[which], metric) if arm else MISSING,
        count_text(arm) if arm else MISSING,
        MISSING if difference is None else _with_interval(read_difference(difference), metric),
    )


def _with_interval(found: Difference, metric: str | None) -> str:
    """`+8.27` and, of several seeds, `[+6.84, +9.69]` on a line of its own, so that a row fits into 80 columns."""
    mean = signed(found.mean, metric)
    return f"{mean}\n[{', '.join(signed(value, metric) for value in found.interval)}]" if found.interval else mean


def result(point: Point) -> str:
    """` test accuracy 94.00 ± 0.75 %` once there is a result."""
    arm = arms_of(point.record).get(own_arm(point.record)) if point.status == DONE else None
    metric = metric_of(point.record)
    return (
        f", test {measure(metric).label} {percent(arm[headline_epoch(point.record['summary'])], metric)}" if arm else ""
    )


def _validation(point: Point) -> str:
    """Validation at the selected epochs of a job that is done, mean and deviation over its seeds."""
    value = validation_of(point.record) if point.status == DONE else None
    return "" if value is None else figure_text(value, metric_of(point.record))
