"""A lab whose stages run side by side, and what it foresees of them.

A strategy asks for its stages one after another, and that is kept: what is decided, recorded and told is as if they ran so. Before,
the same strategies are asked in a lab that runs nothing; of the stages that are known from that, those run ahead whose teachers and
starts are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kdrun.checksums import mended
from kdrun.job.stage_pool import StagePool
from kdrun.lab.lab import Fitted, Lab, read_rows
from kdrun.lab.stages.base import Result, Stage
from kdrun.lab.store import DamagedStage
from kdrun.learning.report import Interrupted, Report
from kdrun.problems import UserError
from kdrun.strategies.unused import StageCollector, ask_all
from kdrun.tracking.record import OUT_OF_MEMORY, status_of

WAITING, RUNNING, DONE, STORED, FAILED, REFUSED = "waiting", "running", "done", "stored", "failed", "refused"
Ask = Callable[[Any], Any]


class Undecided(Exception):
    """What comes next depends on a result that is not there yet."""


class _Unknown(dict):
    """The record of a stage that has not been run."""

    def _raise(self, *arguments: Any) -> Any:
        raise Undecided

    __getitem__ = __contains__ = __iter__ = __len__ = __bool__ = get = keys = values = items = _raise


@dataclass
class Task:
    """A stage that is asked for, or will be, and what has become of it.

    needs   fingerprints of results in `stage` that are not there yet
    state   DONE: run by a process of the pool; STORED: it was there before; REFUSED: it does not run ahead, and who asks for it is
            told why
    urgent  asked for, and waited for; again: once more, by itself, after memory ran out
    source  of its result: "trained", "resumed" or "store"
    stage   under a label that is for bars; who asks for it gives it the one of the record
    """

    key: str
    stage: Stage
    needs: set[str]
    state: str = WAITING
    urgent: bool = False
    again: bool = False
    source: str = "store"
    result: Result | None = None
    error: BaseException | None = None
    _kept: list[dict[str, Any]] = field(default_factory=list)
    _told: set[tuple[Any, ...]] = field(default_factory=set)
    _tell: Callable[[list[dict[str, Any]]], None] | None = None
    _label: str = ""

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """Takes rows of metrics: they are kept until the stage is asked for. Those that are fitted a second time are left out."""
        if self._tell is None:
            self._kept += rows
            return
        named = {(row["step"], *sorted(row)): {**row, "stage": self._label} for row in rows}
        new = {key: row for key, row in named.items() if key not in self._told}
        self._told |= set(new)
        self._tell(list(new.values()))

    def asked(self, stage: Stage, tell: Callable[[list[dict[str, Any]]], None]) -> None:
        """The stage is asked for, under its label in the record: `tell` gets its rows from now on, and those that were kept."""
        self._tell, self._label = tell, stage.label
        kept, self._kept = self._kept, []
        self.rows(kept)


@dataclass
class _Open:
    """Something that will be asked for and is not wholly known. waits: fingerprints of what has to be there first."""

    seed: int
    ask: Ask
    waits: list[str] = field(default_factory=list)


class LookAheadLab(Lab):
    """A lab that runs nothing and notes in `tasks` what it is asked for; what is in the store is a real result."""

    def __init__(self, *arguments: Any, tasks: dict[str, Task], **options: Any):
        super().__init__(*arguments, **options)
        self._tasks = tasks
        self.asked: list[str] = []

    def look(self, ask: Ask) -> bool:
        """Whether all that is asked for is known; `asked` has the fingerprints of what is."""
        self._results.clear()
        self.asked.clear()
        try:
            ask(self)
        except Exception:  # it is asked again, and what is wrong with it told, by the lab that runs stages
            return False
        return True

    def check(self, stage: Stage, result: Result | None = None) -> None:
        """By the lab that runs stages."""

    def task(self, stage: Stage, key: str) -> Task:
        """The task of a stage, made where there is none."""
        if key not in self._tasks:
            needs = {result.fingerprint for result in results_in(stage) if isinstance(result.record, _Unknown)}
            self._tasks[key] = task = Task(key, stage, needs)
            record = None if self.force else self._record(key)
            if record is not None:
                task.state, task.result = STORED, Result(key, stage, record, self.store.folder(key))
        return self._tasks[key]

    def _elsewhere(self, stage: Stage, key: str, tree: dict[str, Any]) -> Result:
        self.asked.append(key)
        return self.task(stage, key).result or Result(key, stage, _Unknown())

    def _record(self, key: str) -> dict[str, Any] | None:
        try:
            return self.store.get(key)
        except DamagedStage as damage:
            mended(f"{damage}; it is run again".replace("\n", "; "))
            return None


class ParallelLab(Lab):
    """Runs stages in the processes of a pool, ahead of being asked for them where they are foreseen.

    ahead  called with every stage that was run, when it is done, before `fitted` is called with it in order
    """

    def __init__(self, *arguments: Any, pool: StagePool, ahead: Callable[[Fitted], None], **options: Any):
        super().__init__(*arguments, **options)
        self._pool, self._ahead = pool, ahead
        self._tasks: dict[str, Task] = {}
        self._open: list[_Open] = []
        self._seeds = 0
        self._fatal: BaseException | None = None
        store, context, workshop, paths = self.store, self.context, self.workshop, self.paths
        self._look = LookAheadLab(store, context, workshop, paths, Report(), force=self.force, tasks=self._tasks)

    def expect(self, asks: Mapping[int, Sequence[Ask]]) -> None:
        self._seeds += len(asks)
        self._open += [_Open(seed, ask) for seed, several in asks.items() for ask in several]
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Asks strategies again that were waiting for results."""
        for item in list(self._open):
            if not any(self._tasks[key].state in (WAITING, RUNNING) for key in item.waits):
                known = self._look.look(item.ask)
                waits = [key for key in self._look.asked if self._tasks[key].state in (WAITING, RUNNING)]
                item.waits = waits
                if known or not waits:
                    self._open.remove(item)

    # one stage, asked for in order

    def _elsewhere(self, stage: Stage, key: str, tree: dict[str, Any]) -> Result | None:
        """The result from a process of the pool, or None where the stage needs no further process."""
        if key in self._broken:
            raise self._broken[key]
        task = self._look.task(stage, key)
        if task.state == STORED:
            self.report.rows(read_rows(task.result.path / "metrics.jsonl", stage.label))
            return self._used(task, stage)
        if task.state in (WAITING, REFUSED):
            if self._only(task):
                task.state = FAILED  # nobody else runs it
                return None
            task.stage, task.needs, task.urgent, task.state = stage, set(), True, WAITING
        task.asked(stage, self.report.rows)
        self._wait(task)
        if task.error is not None:
            self._broken[key] = task.error
            raise task.error
        return self._used(task, stage)

    def _have(self, key: str, result: Result) -> None:
        super()._have(key, result)
        task = self._tasks[key]
        if task.result is None:
            task.state, task.result = DONE, result

    def _used(self, task: Task, stage: Stage) -> Result:
        result = replace(task.result, stage=stage)
        self._fitted(Fitted(result, task.source))
        return result

    def _only(self, task: Task) -> bool:
        """Whether nothing runs and nothing could run beside it: it then needs no further process."""
        others = [other for other in self._tasks.values() if other.state == WAITING and other is not task]
        return not self._pool.started and not others and not self._open

    def _wait(self, task: Task) -> None:
        while task.state in (WAITING, RUNNING):
            self._begin()
            for item, event in self._pool.events(0.2):
                self._settle(item, event)
            if self.report.stop_requested():
                self._pool.stop()
                raise Interrupted
            if self._fatal is not None:
                fatal, self._fatal = self._fatal, None
                raise fatal

    # the pool

    def _begin(self) -> None:
        """Gives the pool what can be run: first what is waited for, then in the order of asking, but for those that would wait."""
        if not self._pool.started:  # the idle machine is measured while it is idle
            self._pool.request["idle_watts"] = self.workshop.metering.idle_now()
        while self._pool.free:
            ready = [task for task in self._tasks.values() if task.state == WAITING and self._is_ready(task)]
            if not ready:
                return
            task = min(ready, key=lambda task: (not task.urgent, self._would_wait(task)))
            task.stage, task.needs = (
                _with_results(task.stage, {key: self._tasks[key].result for key in task.needs}),
                set(),
            )
            try:
                task.stage.check()
            except Exception:
                task.state = REFUSED
                continue
            task.state = RUNNING
            self._pool.run(task)

    def _would_wait(self, task: Task) -> bool:
        """Whether another stage is the first to use the same teacher: it computes the outputs that are kept for both."""
        teacher = _teacher_of(task)
        states = [other.state for other in self._tasks.values() if other is not task and _teacher_of(other) == teacher]
        return teacher is not None and RUNNING in states and DONE not in states

    def _is_ready(self, task: Task) -> bool:
        """Whether its results are there, and as they were foreseen (one may get another fingerprint when it is run)."""
        if task.again and self._pool.working:
            return False
        results = [self._tasks[key].result for key in task.needs if self._tasks[key].state == DONE]
        return len(results) == len(task.needs) and all(result.fingerprint in task.needs for result in results)

    def _settle(self, task: Task, event: dict[str, Any] | BaseException) -> None:
        """What became of a stage."""
        if isinstance(event, BaseException):
            self._settle_failure(task, event)
        else:
            key = event["fingerprint"]
            task.result = Result(key, task.stage, self.store.get(key), self.store.folder(key))
            task.state, task.source = DONE, event["source"]
            self._ahead(Fitted(task.result, task.source))
            try:
                task.stage.check(task.result)
            except Exception:  # told when it is asked for; nothing builds on it meanwhile
                for other in self._tasks.values():
                    if task.key in other.needs:
                        other.state = REFUSED
        self._look_ahead()

    def _settle_failure(self, task: Task, error: BaseException) -> None:
        if status_of(error) == OUT_OF_MEMORY and not task.again:
            self._pool.limit, task.again, task.state = 1, True, WAITING
            self.report.note(f"{task.stage.label}: memory ran out ({error}); stages run one after another from here on")
            return
        task.state, task.error = FAILED, error
        if isinstance(error, UserError | Interrupted) or self._seeds == 1:
            self._fatal = error


def _teacher_of(task: Task) -> str | None:
    return task.stage.teacher and task.stage.teacher.fingerprint


def results_in(value: Any) -> list[Result]:
    """Results that a stage is built upon."""
    if isinstance(value, Result):
        return [value]
    if isinstance(value, Stage):
        return [found for item in fields(value) for found in results_in(getattr(value, item.name))]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for item in value for found in results_in(item)] if isinstance(value, list | tuple) else []


def _with_results(value: Any, results: Mapping[str, Result]) -> Any:
    """A copy with these results (by fingerprint) in the places of those that were awaited."""
    if isinstance(value, Result):
        return results.get(value.fingerprint, value)
    if isinstance(value, Stage):
        changed = {item.name: _with_results(getattr(value, item.name), results) for item in fields(value)}
        return replace(value, **changed) if results else value
    if isinstance(value, dict):
        return {key: _with_results(item, results) for key, item in value.items()}
    return type(value)(_with_results(item, results) for item in value) if isinstance(value, list | tuple) else value


def several_at_once(cells: Sequence[dict[str, Any]]) -> bool:
    """Whether some stages of a job do not build upon each other, as far as that is known before any has run. Nothing is loaded."""
    chains = _Chains()
    try:
        ask_all(cells[0], chains)
    except Exception:  # a strategy that looks at results, or a mistake, which is told later
        return True
    return len(cells) > 1 or len(chains.lengths) > max(chains.lengths.values(), default=0)


class _Chains(StageCollector):
    """lengths: of the longest chain of stages that ends with a stage, of each that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: dict[str, int] = {}

    def get(self, stage: Stage) -> Result:
        result = super().get(stage)
        before = [self.lengths.get(other.fingerprint, 0) for other in results_in(result.stage)]
        self.lengths[result.fingerprint] = 1 + max(before, default=0)
        return result
