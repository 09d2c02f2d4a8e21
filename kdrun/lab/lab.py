"""The lab fits stages: looks each up by its fingerprint, runs what is not there, remembers what it ran."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdrun.checksums import mended
from kdrun.federation.request import FederationRequest
from kdrun.files import read_json
from kdrun.lab import teachers
from kdrun.lab.fingerprint import (
    FingerprintContext,
    befallen,
    federation_parts,
    fingerprint,
    identity,
    parts,
    together_parts,
)
from kdrun.lab.stage import BEST, LAST, Federation, Stage, Together, Trained
from kdrun.lab.store import DamagedStage, Store
from kdrun.lab.teachers import settle_teaching
from kdrun.learning.report import Report
from kdrun.learning.request import FitRequest, StartsFrom, TaughtBy
from kdrun.learning.resampling import write_samples


@dataclass
class Fitted:
    """One stage as a run used it: what it is, and where its result came from ("trained", "resumed" or "store")."""

    trained: Trained
    source: str


class Lab:
    """Fits stages for one job.

    store     where results are kept
    context   what fingerprints need (data hashes, device)
    shop      the learning room's workshop (data, caches)
    paths     the config's paths, for processes that the lab starts
    report    told what happens
    fitted    called with every stage that this job used, in order
    energy    the config's `energy`: how the energy of stages is measured; None: it is not
    force     fit every stage anew, once, even if the store has it

    `decisions` and `remarks` are for the summary: what was chosen on validation, and what should be known of teachers.
    """

    def __init__(
        self,
        store: Store,
        context: FingerprintContext,
        shop: Any,
        paths: dict[str, str],
        report: Report,
        fitted: Callable[[Fitted], None] = lambda item: None,
        force: bool = False,
        energy: dict[str, Any] | None = None,
    ):
        self.store = store
        self.context = context
        self.shop = shop
        self.paths = paths
        self.report = report
        self.force = force
        self.energy = energy
        self.decisions: list[dict[str, Any]] = []
        self._fitted = fitted
        self._seen: dict[str, Trained] = {}
        self._broken: dict[str, Exception] = {}
        self.remarks: list[str] = []
        self._labels: dict[str, str] = {}

    def fit(self, stage: Stage) -> Trained:
        """The result of a stage: from this job, from the store, or by running it."""
        stage = self.settled(stage)
        self.check(stage)
        trained = self._known(stage, parts(stage, self.context))
        self.check(stage, trained)
        return trained

    def check(self, stage: Stage, trained: Trained | None = None) -> None:
        """Raises UnfitTeacher where a teacher of the stage is below its stated accuracy, and where the stage, `trained`, was
        taught by what is no better than a guess. Says what should be known of weights that were brought."""
        if trained is None:
            teachers.check_accuracy(stage)
            return
        teachers.check_noted(stage, trained)
        for line in teachers.otherwise(trained):
            if line not in self.remarks:
                self.remarks.append(line)
                self.report.note(line)

    def federate(self, stage: Federation) -> Trained:
        """As `fit`, of clients that learn together."""
        return self._known(stage, federation_parts(stage, self.context))

    def _known(self, stage: Stage | Federation, tree: dict[str, Any]) -> Trained:
        key = fingerprint(tree)
        return self._seen[key] if key in self._seen else self._found(self._labelled(stage, key), tree)

    def _labelled(self, stage: Any, key: str) -> Any:
        """The stage under a label that no other stage of this job has: a second `student/seed=0` is `student_2/seed=0`."""
        role, number = stage.role, 1
        while self._labels.setdefault(stage.label, key) != key:
            number += 1
            stage = replace(stage, role=f"{role}_{number}")
        return stage

    def _found(self, stage: Stage | Federation, tree: dict[str, Any]) -> Trained:
        key = fingerprint(tree)
        if key in self._broken:  # a teacher that five seeds share is not tried five times
            raise self._broken[key]
        if key not in self._seen:
            with self.store.lock(
                key, lambda: self.report.note(self.store.waiting_text(key, f"has been fitting {stage.label}"))
            ):
                try:
                    self._seen[key] = self._fit(stage, key, tree)
                except Exception as error:
                    self._broken[key] = error
                    raise
        return self._seen[key]

    def choose(self, what: str, candidates: dict[str, Trained], *, worst: bool = False) -> str:
        """The name of the candidate that is best (or worst) on validation by the task's main metric; the first of equals.

        The decision is noted in `decisions`, for the record. Test figures are not looked at. Raises UserError where one has no
        figure.
        """
        some = next(iter(candidates.values())).stage
        metric, direction = self.shop.main_metric(some.data)
        values = {name: trained.metrics[metric] for name, trained in candidates.items()}
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

    def together(self, group: Together) -> Trained:
        """Scores of finished stages together, from what they kept of validation and test (kdrun.lab.ensembles)."""
        from kdrun.lab.ensembles import combine

        tree = together_parts(group, self.context)
        key = fingerprint(tree)
        if key in self._seen:
            return self._seen[key]
        group = self._labelled(group, key)
        with self.store.lock(key):
            record = self._stored(key)
            if record is not None:
                self._seen[key] = self._done(Trained(key, group, record, self.store.folder(key)), "store")
                return self._seen[key]
            started = time.perf_counter(), time.process_time()
            folders = {name: trained.path for name, trained in group.members.items()}
            work = self.store.work(key)
            hardware = group.members[group.counted[0]].stage.hardware
            with self.shop.open_ledger(work, hardware, self.energy) as ledger:
                ledger.energy.enter("evaluate")
                found = combine(folders, list(group.counted), group.method)
                energy = ledger.energy.record()  # by sensors alone: nothing here is counted in FLOPs
            for split, rows in found["rows"].items():
                write_samples(work, split, rows)
            record = {
                "schema": 1,
                "fingerprint": key,
                "parts": tree,
                "role": group.role,
                "seed": group.seed,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                **together_record(group, found, started, energy),
            }
            self._seen[key] = self._done(
                Trained(key, group, record, self.store.put(key, sorted(work.glob("samples.*.jsonl")), record)),
                "trained",
            )
        return self._seen[key]

    def parameters(self, learner: dict[str, Any], data: dict[str, Any]) -> int:
        """Number of parameters of a learner's network on these data; nothing is fitted for it."""
        return self.shop.parameters(learner["network"], data)

    def settled(self, stage: Stage) -> Stage:
        """The stage with `teacher.source=auto` decided: cached where every view of a sample recurs, else online; and of weights
        that were brought, with inputs normalised as they were trained on.

        Raises UserError when a cache was asked for that cannot be right or would pass `teacher.cache_limit_gb`.
        """
        stage = teachers.as_trained(stage, self.shop)
        if stage.teacher is None:
            return stage
        return replace(stage, teaching=settle_teaching(stage, self.shop))

    def _fit(self, stage: Stage | Federation, key: str, tree: dict[str, Any]) -> Trained:
        record = self._stored(key)
        if record is not None:
            self.report.rows(read_rows(self.store.folder(key) / "metrics.jsonl", stage.label))
            return self._done(Trained(key, stage, record, self.store.folder(key)), "store")
        work = self.store.begin(key, self.force)
        resumed = self.store.unfinished(key)
        request = self.request(stage, key, work, tree)
        outcome = self._run(request)
        if outcome.get("diverged"):  # a federation goes on when clients go wrong; what is left in the end is no result
            raise FloatingPointError(outcome["diverged"])
        if outcome.get("incidents"):  # what befell machines cannot be repeated: this is not the result that `tree` has
            tree = befallen(tree, outcome["incidents"])
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
        files = [work / "metrics.jsonl", *sorted(work.glob("*.safetensors")), *sorted(work.glob("samples.*.jsonl"))]
        files = [path for path in files if not path.name.startswith("best-")]  # beside a checkpoint
        folder = self.store.put(key, files, record)
        shutil.rmtree(work, ignore_errors=True)  # where the key has changed it is still there
        return self._done(
            Trained(key, stage, read_json(folder / "record.json"), folder), "resumed" if resumed else "trained"
        )

    def _stored(self, key: str) -> dict[str, Any] | None:
        """The record of a stage that is in the store and whole; None where it has to be run."""
        if self.force:
            return None
        try:
            return self.store.get(key)
        except DamagedStage as damage:
            mended(f"{damage}; it is run again".replace("\n", "; "))
            return None

    def _done(self, trained: Trained, source: str) -> Trained:
        self._fitted(Fitted(trained, source))
        return trained

    def request(
        self, stage: Stage | Federation, key: str, work: Path, tree: dict[str, Any]
    ) -> FitRequest | FederationRequest:
        """What the learning room (or that of federations) is asked to do."""
        if isinstance(stage, Federation):
            names = ("label", "federation", "data", "trainer", "hardware", "seed")
            return FederationRequest(
                key, work=work, energy=self.energy, **{name: getattr(stage, name) for name in names}
            )
        names = ("label", "learner", "objective", "data", "sees", "trainer", "hardware", "seed", "teaching", "drop")
        return FitRequest(
            key,
            work=work,
            data_identity=tree["data"],
            seen_identity=identity(stage.seen, self.context) if stage.sees else tree["data"],
            energy=self.energy,
            teachers=tuple(self.taught_by(teacher, stage) for teacher in stage.teachers),
            start=stage.start and StartsFrom(stage.start.fingerprint, str(stage.start.weights())),
            **{name: getattr(stage, name) for name in names},
        )

    def taught_by(self, teacher: Trained, stage: Stage) -> TaughtBy:
        """What a request says of a trained teacher of a stage."""
        # What a teacher reached on other data (a first phase has its own) says nothing of these.
        alike = teachers.samples(teacher.stage.data) == teachers.samples(stage.seen)
        return TaughtBy(
            teacher.fingerprint,
            teacher.stage.learner["name"],
            teacher.stage.learner["network"],
            str(teacher.weights()),
            # Else inputs that are normalised otherwise come from other data, or from another view of them: a mistake.
            converts=teacher.stage.data.get("normalize") != stage.seen.get("normalize"),
            stated=teacher.record["val"]["best"].get(self.shop.preflight_metric(stage.data)) if alike else None,
        )

    def _run(self, request: FitRequest | FederationRequest) -> dict[str, Any]:
        if isinstance(request, FederationRequest):
            from kdrun.federation.run import run_federation

            return run_federation(request, self.report, self.shop)
        if request.hardware["devices"] > 1 and request.trainer is not None:
            import sys

            from kdrun.learning.device import thread_environment
            from kdrun.learning.workers import run_distributed

            context = {
                "paths": self.paths,
                "outputs": str(self.shop.outputs),
                "locks": str(self.store.root / "locks"),
                "sys_path": sys.path,
            }
            return run_distributed(request, self.report, context, thread_environment(request.hardware))
        from kdrun.learning.fit import run_stage

        return run_stage(request, self.report, self.shop)


def together_record(
    group: Together, found: dict[str, Any], started: tuple[float, float], energy: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a record says of stages taken together; sizes are those of one counted member."""
    first = group.members[group.counted[0]].record
    metrics, nothing = found["metrics"], {"steps": 0, "samples": 0, "flops": 0, "tokens": None}
    return {
        "learner": first["learner"],
        "monitor": first["monitor"],
        "val": {BEST: metrics["val"], LAST: metrics["val"], "epoch_best": None, "epochs": 0},
        "test": {BEST: metrics["test"], LAST: metrics["test"]},
        "further": {name: values for name, values in metrics.items() if name not in ("val", "test")},
        "history": [],
        "first_step": None,
        "teacher": None if group.teacher is None else {"fingerprint": group.teacher.fingerprint, "source": "members"},
        "members": {name: trained.fingerprint for name, trained in group.members.items()},
        "counted": list(group.counted),
        "stack": found["stack"],
        "cost": {
            "seconds": round(time.perf_counter() - started[0], 3),
            "cpu_seconds": round(time.process_time() - started[1], 3),
            "tries": 1,
            **nothing,
            "energy": energy,
        },
        "parameters": first["parameters"],
        "flops": first["flops"],
    }


def read_rows(path: Path, label: str) -> list[dict[str, Any]]:
    """Rows of a stored metrics.jsonl, under the label that this run gives the stage."""
    if not path.is_file():
        return []
    return [{**json.loads(line), "stage": label} for line in path.read_text().splitlines()]
