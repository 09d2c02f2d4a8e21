"""A stage that looks at finished stages together: a mean of their scores, and one answer of them all."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.files import number
from kdrun.lab.fingerprint import versions
from kdrun.lab.stages.base import BEST, LAST, Execution, Result, Stage

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext


@dataclass(frozen=True)
class Combine(Stage):
    """Finished stages of the same samples, together. It has no weights of its own: its networks are its members'.

    role     what it is for, as of every stage
    members  name of a part (a view, a budget, a task) -> its result
    counted  whose scores the mean is over
    method   how their probabilities become one answer: "logistic" (a stack fitted on validation), "mean", or None: there is none,
             and any task will do
    teacher  who taught the counted members, or None
    """

    role: str
    members: dict[str, Result]
    counted: tuple[str, ...]
    method: str | None
    seed: int
    teacher: Result | None = None
    trainer: ClassVar[None] = None
    objective: ClassVar[None] = None
    listed: ClassVar[bool] = False
    told: ClassVar[tuple[str, ...]] = ("members", "counted", "stack")

    @property
    def _first(self) -> Stage:
        return self.members[self.counted[0]].stage

    @property
    def learner(self) -> dict[str, Any]:
        """The first counted member's, under a name for all of them."""
        names = {member.stage.learner["name"] for member in self.members.values()}
        return (
            self._first.learner if len(names) == 1 else {**self._first.learner, "name": f"{len(self.members)} networks"}
        )

    @property
    def data(self) -> dict[str, Any]:
        return self._first.data

    @property
    def hardware(self) -> dict[str, Any]:
        return self._first.hardware

    @property
    def networks(self) -> list[dict[str, Any]]:
        return []

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        return {
            "members": {name: member.fingerprint for name, member in self.members.items()},
            "counted": list(self.counted),
            "method": self.method,
            "code": context.sources.versions(["kdrun.lab.ensembles"]),
            "versions": versions("scikit-learn", "numpy"),
        }

    def run(self, execution: Execution) -> dict[str, Any]:
        from kdrun.lab.ensembles import combine, keeps_probabilities
        from kdrun.learning.resampling import write_samples

        started, processor = time.perf_counter(), time.process_time()
        with execution.workshop.open_ledger(execution.work, self.hardware, execution.energy) as ledger:
            ledger.energy.enter("evaluate")
            folders = {name: member.path for name, member in self.members.items()}
            kept = self.method is not None or all(keeps_probabilities(folder) for folder in folders.values())
            combined = combine(folders, list(self.counted), self.method) if kept else self._means()
            energy = ledger.energy.record()  # by sensors alone: nothing here is counted in FLOPs
        for split, rows in combined["rows"].items():
            write_samples(execution.work, split, rows)
        metrics, first = combined["metrics"], self.members[self.counted[0]].record
        return {
            "monitor": first["monitor"],
            "val": {BEST: metrics["val"], LAST: metrics["val"], "epoch_best": None, "epochs": 0},
            "test": {BEST: metrics["test"], LAST: metrics["test"]},
            "further": {name: values for name, values in metrics.items() if name not in ("val", "test")},
            "history": [],
            "first_step": None,
            "teacher": self.teacher and {"fingerprint": self.teacher.fingerprint, "source": "members"},
            "members": {name: member.fingerprint for name, member in self.members.items()},
            "counted": list(self.counted),
            "stack": combined["stack"],
            "cost": {
                "seconds": round(time.perf_counter() - started, 3),
                "cpu_seconds": round(time.process_time() - processor, 3),
                "tries": 1,
                **{"steps": 0, "samples": 0, "flops": 0, "tokens": None},
                "energy": energy,
            },
            "parameters": first["parameters"],
            "flops": first["flops"],
        }

    def _means(self) -> dict[str, Any]:
        """As ensembles.combine, from records alone: figures that all counted members have, at their selected epochs."""
        records = [self.members[name].record for name in self.counted]
        sets = {split: [record[split][BEST] for record in records] for split in ("val", "test")}
        sets |= {name: [record["further"].get(name, {}) for record in records] for name in records[0]["further"]}

        def mean(figures: list[dict[str, Any]], name: str) -> float | None:
            values = [number(known.get(name)) for known in figures]
            return None if None in values else statistics.fmean(values)

        means = {split: {name: mean(figures, name) for name in figures[0]} for split, figures in sets.items()}
        known = {split: {name: v for name, v in found.items() if v is not None} for split, found in means.items()}
        return {"rows": {}, "metrics": known, "stack": None}
