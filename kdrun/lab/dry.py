"""A lab that fits nothing: strategies run in it as they are, and what they ask for is the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrun.lab.fingerprint import fingerprint, nearest, parts
from kdrun.lab.lab import Lab
from kdrun.lab.stage import Stage, Trained


@dataclass
class Planned:
    """One stage of a plan. status: "done" (in the store), "interrupted" (a checkpoint waits) or "new"."""

    trained: Trained
    status: str
    parts: dict[str, Any]
    arm: str = ""


class DryLab(Lab):
    """Collects the stages a strategy asks for in `planned`; results that are in the store are real, others are empty."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.planned: list[Planned] = []

    def fit(self, stage: Stage) -> Trained:
        stage = self.settled(stage)
        tree = parts(stage, self.context)
        key = fingerprint(tree)
        if key not in self._seen:
            record = self.store.get(key)
            if record is not None:
                trained, status = Trained(key, stage, record, self.store.folder(key)), "done"
            else:
                status = "interrupted" if self.store.unfinished(key) else "new"
                trained = Trained(key, stage, {})
            self._seen[key] = trained
            self.planned.append(Planned(trained, status, tree))
        return self._seen[key]

    def forget(self) -> None:
        """Begin the plan of another job; what is known of data and sources stays."""
        self.planned.clear()
        self._seen.clear()

    def why(self, planned: Planned) -> tuple[str, dict[str, tuple[Any, Any]]] | None:
        """(fingerprint, differences) of the stored stage nearest to a planned one; None if the store is empty."""
        stored = ((key, record["parts"]) for key, record in self.store.records() if "parts" in record)
        return nearest(planned.parts, stored)
