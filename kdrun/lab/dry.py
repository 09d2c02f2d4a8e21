"""A lab that runs nothing: strategies run in it as they are, and what they ask for is the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrun.lab.fingerprint import nearest
from kdrun.lab.lab import Lab
from kdrun.lab.stages.base import Result, Stage
from kdrun.learning.fitness import UnfitTeacher
from kdrun.protocol import refuse_published


@dataclass
class Planned:
    """One stage of a plan. status: "done" (in the store), "interrupted" (a checkpoint waits) or "new"."""

    result: Result
    status: str
    parts: dict[str, Any]


class DryLab(Lab):
    """Collects the stages a strategy asks for in `planned`; results that are in the store are real, others are empty."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.planned: list[Planned] = []
        self.assumed: list[str] = []

    def _elsewhere(self, stage: Stage, key: str, tree: dict[str, Any]) -> Result:
        """What is in the store, or an empty result: nothing is run."""
        record = self.store.get(key)
        result = Result(key, stage, record or {}, self.store.folder(key) if record is not None else None)
        waiting = "interrupted" if self.store.unfinished(key) else "new"
        if stage.listed:
            self.planned.append(Planned(result, waiting if record is None else "done", tree))
        return result

    def check(self, stage: Stage, result: Result | None = None) -> None:
        """What would stop the run, and what it would say, is `assumed`."""
        try:
            super().check(stage, result)
        except UnfitTeacher as error:
            self.remarks.append(f"{error}; a run stops there")
        self.assumed += [line for line in self.remarks if line not in self.assumed]

    def choose(self, what: str, candidates: dict[str, Result], *, worst: bool = False) -> str:
        """As a lab does where all candidates are in the store; else the first, which `assumed` tells."""
        if all(result.record for result in candidates.values()):
            return super().choose(what, candidates, worst=worst)
        first = next(iter(candidates))
        refuse_published(candidates[first].stage.data, what)
        kind = "worst" if worst else "best"
        text = (
            f"{what}: the {kind} of {', '.join(candidates)} on validation, not known yet; planned as if it were {first}"
        )
        if text not in self.assumed:
            self.assumed.append(text)
        return first

    def forget(self) -> None:
        """Begin the plan of another job; what is known of data and sources stays."""
        self.planned.clear()
        self.assumed.clear()
        self._results.clear()
        self._labels.clear()

    def why(self, planned: Planned) -> tuple[str, dict[str, tuple[Any, Any]]] | None:
        """(fingerprint, differences) of the stored stage nearest to a planned one; None if the store is empty."""
        stored = ((key, record["parts"]) for key, record in self.store.records() if "parts" in record)
        return nearest(planned.parts, stored)
