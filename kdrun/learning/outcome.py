"""What a stage gives back: metrics of validation and test, cost and sizes, and the files in its work folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.files import write_atomic, write_json
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Report
from kdrun.learning.resampling import SELECTION, WRITTEN, write_samples
from kdrun.ledger.flops import parameters
from kdrun.ledger.ledger import Ledger

Metrics = dict[str, float]


@dataclass
class Tests:
    """Reads test sets with what a learner keeps; what the task tells of samples goes to files in `work` (see resampling)."""

    trainer: Any
    learner: LearnerModule
    module: Any
    evaluation: dict[str, Any]
    work: Path | None

    def __call__(self, splits: Sequence[str] = ("test",), selected: bool = True) -> dict[str, Metrics]:
        """{test set: metrics}. A task that KEEPS rows of validation sets thresholds on them. selected: the learner has the weights of
        the selected epoch, else those of the last one, which is another."""
        learner, metrics, rows = self.learner, {}, {}
        for split in (*learner.task.KEEPS, *splits):
            learner.tested = split
            self.trainer.test(learner, self.module.eval_loader(split, **self.evaluation), verbose=False)
            metrics[split], rows[split] = learner.evaluated, learner.samples
            if rows[split] and self.work is not None and (selected or split in splits):
                write_samples(self.work, split, rows[split], last=not selected)
                if learner.written:
                    write_samples(self.work, f"{WRITTEN}-{split}", learner.written, last=not selected)
        for split in splits:
            if rows[split]:
                scores = learner.task.row_scores(rows[split], rows.get("val") or [])
                metrics[split] = {**metrics[split], **scores}
        return {split: metrics[split] for split in splits}


def write_selection(work: Path, right: dict[str, list[dict[str, Any]]]) -> None:
    """samples.selection.jsonl: {"id", "best", "last"} of each validation sample, how right the selected and the last epoch are of it.
    Not there where they are the same epoch, or nothing is known of single samples."""
    best, last = ({row["id"]: float(row["right"]) for row in right[which]} for which in ("best", "last"))
    if best and best.keys() == last.keys() and right["best"] is not right["last"]:
        write_samples(work, SELECTION, [{"id": one, "best": value, "last": last[one]} for one, value in best.items()])


def test_rows(label: str, step: int, epoch: int, test: dict[str, Metrics]) -> list[dict[str, Any]]:
    values = {f"test/{name}_{which}": value for which in ("best", "last") for name, value in test[which].items()}
    return [{"stage": label, "step": step, "epoch": epoch, **values}]


def cost_of(ledger: Ledger, work: dict[str, float] | None, **counted: Any) -> dict[str, Any]:
    """The cost of a stage: what the readers measured, and what was counted. tokens is for tasks that have them.

    work: FLOPs of each phase, for the energy model (see ledger.phase_flops).
    """
    measured = {name: None if value is None else round(value, 3) for name, value in ledger.totals().items()}
    energy = ledger.energy.record(work)
    return {**measured, "tries": ledger.tries, **{"tokens": None, **counted}, "energy": energy}


def size_of(network: Any, task: Any) -> dict[str, Any]:
    """{"parameters", "packaged": parameters of a tower that the weights file leaves out, "flops": of one sample}."""
    packaged = parameters(network.tower) if getattr(network, "packaged", False) else 0
    return {"parameters": parameters(network), "packaged": packaged, "flops": task.flops(network)}


def of_no_training(task: Any, network: Any, ledger: Ledger, samples: int) -> dict[str, Any]:
    """What the record has of a stage that trains nothing and measures nothing on test; samples: that it looked at."""
    nothing = {"student": 0, "teacher": None, "total": None, "method": "not counted"}
    return {
        "monitor": task.MAIN,
        "val": {"best": {}, "last": {}, "epoch_best": None, "epochs": 0},
        "test": {"best": {}, "last": {}},
        "further": {},
        "history": [],
        "first_step": None,
        "teacher": None,
        "cost": cost_of(ledger, None, steps=0, samples=samples, flops=nothing),
        **size_of(network, task),
    }


def leave(
    work: Path, outcome: dict[str, Any], kept: list[dict[str, Any]], new: list[dict[str, Any]], report: Report
) -> None:
    """metrics.jsonl and outcome.json. kept: rows that the report has seen; new: those after them."""
    report.rows(new)
    write_atomic(work / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in [*kept, *new]))
    write_json(work / "outcome.json", outcome)
