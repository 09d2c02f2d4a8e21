"""The lab looks each stage up by its fingerprint, runs what is not there, and remembers what it ran."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdrun.checksums import mended
from kdrun.files import read_json
from kdrun.lab.fingerprint import FingerprintContext, fingerprint
from kdrun.lab.stages.base import Execution, Result, Stage
from kdrun.lab.store import DamagedStage, Store
from kdrun.learning.report import Report
from kdrun.protocol import refuse_published


@dataclass
class Fitted:
    """One stage as a run used it: its result, and where that came from ("trained", "resumed" or "store")."""

    result: Result
    source: str


class Lab:
    """Gets results of stages for one job.

    store     where results are kept
    context   what fingerprints need (data hashes, device)
    workshop      the learning room's workshop (data, caches)
    paths     the config's paths, for processes that stages start
    report    hears what happens
    fitted    called with every stage that this job used, in order
    energy    the config's `energy`: how the energy of stages is measured; None: it is not
    force     run every stage anew, once, even if the store has it
    jobs      how many stages of the job run at a time in all its processes; noted in the cost of each

    `decisions` and `remarks` are for the summary: what was chosen on validation, and what should be known of teachers.
    """

    def __init__(
        self,
        store: Store,
        context: FingerprintContext,
        workshop: Any,
        paths: dict[str, str],
        report: Report,
        fitted: Callable[[Fitted], None] = lambda item: None,
        force: bool = False,
        energy: dict[str, Any] | None = None,
        jobs: int = 1,
    ):
        self.store = store
        self.context = context
        self.workshop = workshop
        self.paths = paths
        self.report = report
        self.force = force
        self.energy = energy
        self.jobs = jobs
        self.decisions: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self._fitted = fitted
        self._results: dict[str, Result] = {}
        self._broken: dict[str, Exception] = {}
        self._labels: dict[str, str] = {}

    def get(self, stage: Stage) -> Result:
        """The result of a stage: from this job, from the store, or by running it. So is that of a stage it starts from."""
        stage = stage.started(self.get).settled(self.workshop)
        self.check(stage)
        tree = stage.parts(self.context)
        key = fingerprint(tree)
        if key not in self._results:
            stage = self._labelled(stage, key)
            result = self._elsewhere(stage, key, tree)
            if result is None:
                with self._alone_on(stage, key):
                    result = self._stored(stage, key, tree)
                    if result is None:
                        execution = self._execution(key, tree)
                        result = self._keep(stage, execution, stage.run(execution))
            self._have(key, result)
        self.check(stage, self._results[key])
        return self._results[key]

    def expect(self, asks: Mapping[int, Sequence[Callable[[Any], Any]]]) -> None:
        """What will be asked for: seed -> functions of a lab, each of which asks it for stages. A lab that runs one stage after
        another has no use for it."""

    def choose(self, what: str, candidates: dict[str, Result], *, worst: bool = False) -> str:
        """The name of the candidate that is best (or worst) on validation by the task's main metric; the first of equals.

        The decision is noted in `decisions`, for the record. Test figures are not looked at. Raises UserError where one has no
        figure.
        """
        some = next(iter(candidates.values())).stage
        refuse_published(some.data, what)
        metric, direction = self.workshop.main_metric(some.data)
        values = {name: result.metrics[metric] for name, result in candidates.items()}
        unknown = [name for name, value in values.items() if not isinstance(value, int | float) or value != value]
        if unknown:
            from kdrun.problems import UserError, listed

            raise UserError(
                f"{what}: validation {metric} is not known for {listed(unknown)}, so nothing can be chosen by it",
                "does validation have samples of every class?",
            )
        pick = max if (direction == "max") != worst else min
        chosen = pick(values, key=lambda name: values[name])
        said = {"what": what, "chosen": chosen, "metric": metric, "split": "val", "values": values, "seed": some.seed}
        if said not in self.decisions:
            self.decisions.append(said)
        return chosen

    def parameters(self, learner: dict[str, Any], data: dict[str, Any]) -> int:
        """Number of parameters of a learner's network on these data; nothing is fitted for it."""
        return self.workshop.parameters(learner["network"], data)

    def known_of(self, data: dict[str, Any]) -> dict[str, Any]:
        """Of a data config: {"classes": how many; None where targets are none, "names": their names, "types": names of the types of
        questions, or None, "modality_of": type -> modality of its inputs, "normalize": moments of inputs as a config says them, or None}."""
        return self.workshop.known_of(data)

    def check(self, stage: Stage, result: Result | None = None) -> None:
        """Raises UnfitTeacher for a teacher that is not fit for the stage; notes what should be known, once."""
        for line in stage.check(result):
            if line not in self.remarks:
                self.remarks.append(line)
                self.report.note(line)

    def _elsewhere(self, stage: Stage, key: str, tree: dict[str, Any]) -> Result | None:
        """The result where something else than this lab's store and its own running of the stage gives it. key: the stage's
        fingerprint, of `tree`."""
        return None

    def _have(self, key: str, result: Result) -> None:
        """Takes a result that was asked for; it is asked for no more."""
        self._results[key] = result

    def _labelled(self, stage: Stage, key: str) -> Stage:
        """The stage under a label that no other stage of this job has: a second `student/seed=0` is `student_2/seed=0`."""
        role, number = stage.role, 1
        while self._labels.setdefault(stage.label, key) != key:
            number += 1
            stage = replace(stage, role=f"{role}_{number}")
        return stage

    @contextlib.contextmanager
    def _alone_on(self, stage: Stage, key: str) -> Iterator[None]:
        """No other process runs the stage meanwhile, and one that failed is not tried again: five seeds may share a teacher."""
        if key in self._broken:
            raise self._broken[key]
        with self.store.lock(
            key, lambda: self.report.note(self.store.waiting_text(key, f"has been fitting {stage.label}"))
        ):
            try:
                yield
            except Exception as error:
                self._broken[key] = error
                raise

    def _stored(self, stage: Stage, key: str, tree: dict[str, Any]) -> Result | None:
        """What is in the store and whole; None where the stage has to be run."""
        if self.force:
            return None
        try:
            record = self.store.get(key)
        except DamagedStage as damage:
            mended(f"{damage}; it is run again".replace("\n", "; "))
            return None
        if record is None:
            return None
        folder = self.store.folder(key)
        self.report.rows(read_rows(folder / "metrics.jsonl", stage.label))
        result = Result(key, stage, record, folder)
        self._fitted(Fitted(result, "store"))
        return result

    def _execution(self, key: str, tree: dict[str, Any]) -> Execution:
        """What the stage is run with; state of an earlier try is in its work folder."""
        work, locks = self.store.begin(key, self.force), self.store.root / "locks"
        resumes = bool(self.store.unfinished(key))
        return Execution(
            key, tree, self.context, work, self.workshop, self.report, self.energy, self.paths, locks, resumes
        )

    def _keep(self, stage: Stage, execution: Execution, outcome: dict[str, Any]) -> Result:
        """Puts what a stage left into the store."""
        if self.jobs > 1:  # its seconds are those of a machine that others used as well
            outcome = {**outcome, "cost": {**outcome["cost"], "jobs": self.jobs}}
        tree = stage.parts_after(execution.tree, outcome)
        key = fingerprint(tree)
        record = {
            "schema": 1,
            "fingerprint": key,
            "parts": tree,
            "role": stage.role,
            "learner": stage.learner["name"],
            "seed": stage.seed,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            **{name: value for name, value in outcome.items() if name != "label"},
        }
        folder = self.store.put(key, self.store.results(execution.work), record)
        shutil.rmtree(execution.work, ignore_errors=True)  # where the key has changed it is still there
        result = Result(key, stage, read_json(folder / "record.json"), folder)
        self._fitted(Fitted(result, "resumed" if execution.resumes else "trained"))
        return result


def read_rows(path: Path, label: str) -> list[dict[str, Any]]:
    """Rows of a stored metrics.jsonl, under the label that this run gives the stage."""
    if not path.is_file():
        return []
    return [{**json.loads(line), "stage": label} for line in path.read_text().splitlines()]
