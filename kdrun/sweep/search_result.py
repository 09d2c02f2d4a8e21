"""What a search shows and leaves: a line for every trial that ends, `search` in sweep.json, and the table at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kdrun.config.trees import as_typed
from kdrun.files import dump_json
from kdrun.present.console import Console
from kdrun.sweep.objectives import SweepObjective
from kdrun.sweep.plan import save
from kdrun.sweep.search_settings import SearchSettings
from kdrun.sweep.search_study import COMPLETE, FAILED, PRUNED, RUNNING, state_of
from kdrun.sweep.space import Space
from kdrun.tracking.registry import HASH_LENGTH

STYLES = {COMPLETE: "green", PRUNED: "magenta", FAILED: "red", RUNNING: "yellow"}


class StudyResult:
    """Reads the study; writes nothing but sweep.json. As a context manager it shows what runs, on a terminal."""

    def __init__(
        self,
        plan,
        study,
        space: Space,
        objectives: Sequence[SweepObjective],
        settings: SearchSettings,
        conf_dirs: Sequence[str],
        storage: Path,
        notes: Sequence[str] = (),
        *,
        quiet: bool,
        json: bool,
    ):
        self.plan, self.study, self.space, self.objectives = plan, study, space, objectives
        self.settings, self.conf_dirs, self.storage = settings, conf_dirs, storage
        self.notes, self.json = notes, json
        self.console = Console(stderr=json, quiet=quiet)
        self._bars: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
            self._bars = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> StudyResult:
        trials = self.study.trials()
        ended = sum(state_of(trial) != RUNNING for trial in trials)
        names = ", ".join(f"{objective.name} ({objective.direction})" for objective in self.objectives)
        self.note(
            f"search {self.plan.id}: {names}; {self.settings.sampler}; {ended} of {self.settings.n_trials} trials done"
        )
        for key, text in self.space.described().items():
            self.note(f"  {key}: {text}")
        for text in self.notes:
            self.note(text)
        if self._bars:
            self._bars.start()
            self._total = self._bars.add_task("trials", total=max(self.settings.n_trials, len(trials)), completed=ended)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    # while it runs

    def note(self, text: str) -> None:
        self.console.whole(text, "dim")

    def started(self, number: int) -> None:
        if self._bars and number not in self._tasks:
            self._tasks[number] = self._bars.add_task(f"trial {number}", total=None)

    def epoch(self, event: dict[str, Any]) -> None:
        task = self._tasks.get(event["number"])
        if self._bars and task is not None:
            text = f"trial {event['number']} {event['label']}"
            self._bars.update(task, description=text, total=event["epochs"], completed=event["epoch"] + 1)

    def ended(self, number: int) -> None:
        """One line; of a failure, with its reason and its log."""
        trial = self.trials()[number]
        task = self._tasks.pop(number, None)
        if self._bars:
            self._bars.advance(self._total)
            if task is not None:
                self._bars.remove_task(task)
        shown = [self._values(trial)] if trial["values"] else []
        text = "  ".join((f"trial {number} {trial['state']}", *shown, self._short(trial["params"])))
        style = STYLES[trial["state"]] if trial["state"] == FAILED else ""
        self.console.whole(text, style)
        if trial["error"]:
            self.console.whole(f"  {trial['error']}", "red")
            if trial["run"]:
                self.note(f"  log: {os.path.relpath(self.plan.points[number].folder)}/run.log")

    # what came out

    def trials(self) -> list[dict[str, Any]]:
        """[{"number", "params", "values" (of complete ones), "state", "run", "job_hash", "error"}]."""
        return [
            {
                "number": trial.number,
                "params": self.space.values(trial.params),
                "values": list(trial.values) if state_of(trial) == COMPLETE else None,
                "state": state_of(trial),
                "run": trial.user_attrs["run"],
                "job_hash": trial.user_attrs["job_hash"],
                "error": trial.user_attrs.get("error"),
            }
            for trial in self.study.trials()
        ]

    def failed(self) -> list[Any]:
        """Failed trials of the study that were not run again."""
        trials = self.study.trials()
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        return [trial for trial in trials if state_of(trial) == FAILED and trial.number not in again]

    def chosen(self, trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The best trial; with several objectives the Pareto front, each job once. With the command that runs it alone."""
        found = [trials[number] for number in self.study.best()]
        found = list({trial["run"]: trial for trial in reversed(found)}.values())[::-1]
        return [
            {name: trial[name] for name in ("number", "params", "values", "run")}
            | {"command": self._command(trial["number"])}
            for trial in (found if len(self.objectives) > 1 else found[:1])
        ]

    def record(self) -> dict[str, Any]:
        trials = self.trials()
        chosen = self.chosen(trials)
        return {
            "objectives": [objective.name for objective in self.objectives],
            "directions": [objective.direction for objective in self.objectives],
            "n_trials": self.settings.n_trials,
            "sampler": self.settings.sampler,
            "seed": self.settings.seed,
            "storage": os.fspath(self.storage),
            "space": self.space.described(),
            "trials": trials,
            **({"pareto": chosen} if len(self.objectives) > 1 else {"best": chosen[0] if chosen else None}),
        }

    def save(self) -> None:
        self.plan.search = self.record()
        save(self.plan)

    def show(self) -> None:
        if self.json:
            print(dump_json({"id": self.plan.id, "path": str(self.plan.folder), "search": self.record()}))
            return
        trials = self.trials()
        chosen = self.chosen(trials)
        self.console.print(self._table(trials, {entry["number"] for entry in chosen}))
        counts = {
            state: sum(trial["state"] == state for trial in trials) for state in (COMPLETE, PRUNED, FAILED, RUNNING)
        }
        self.note(f"{len(trials)} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
        if not chosen:
            self.console.print("no trial has a result", style="bold")
            return
        several = len(self.objectives) > 1
        self.console.print(
            "Pareto front (no other trial is better in all of them)" if several else "best", style="bold"
        )
        for entry in chosen:
            text = f"  trial {entry['number']}: {self._values(entry)}"
            self.console.whole(text)
            self.console.whole(f"    {entry['command']}")
        self.note("Chosen by validation and cost alone. Test figures, to be read after the choice:")
        self.note(f"    kdrun show {chosen[0]['run']}")

    def _table(self, trials: list[dict[str, Any]], best: set[int]) -> Table:
        table = Table(box=None, header_style="dim", pad_edge=False)
        table.add_column("trial", justify="right")
        for name in self._names().values():
            table.add_column(name, overflow="fold")
        for objective in self.objectives:
            table.add_column(objective.title, justify="right")
        for name in ("state", "run"):
            table.add_column(name, overflow="fold")
        for trial in trials:
            values = trial["values"] or [None] * len(self.objectives)
            marked = trial["number"] in best
            table.add_row(
                f"{'* ' if marked else ''}{trial['number']}",
                *(Text(as_typed(value)) for value in trial["params"].values()),
                *(objective.show(value) for objective, value in zip(self.objectives, values, strict=True)),
                Text(trial["state"], STYLES[trial["state"]]),
                Text((trial["job_hash"] or "n/a")[:HASH_LENGTH]),
                style="bold" if marked else None,
            )
        return table

    def _names(self) -> dict[str, str]:
        """key -> its last word, where that is enough."""
        last = {key: key.rpartition(".")[2] for key in self.space.parameters}
        return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}

    def _values(self, trial: dict[str, Any]) -> str:
        pairs = zip(self.objectives, trial["values"], strict=True)
        return ", ".join(objective.text(value) for objective, value in pairs)

    def _short(self, params: dict[str, Any]) -> str:
        names = self._names()
        return " ".join(f"{names[key]}={as_typed(value)}" for key, value in params.items())

    def _command(self, number: int) -> str:
        folders = [word for folder in self.conf_dirs for word in ("--conf", folder)]
        return shlex.join(["kdrun", *self.plan.points[number].overrides, *folders])
