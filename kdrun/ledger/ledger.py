"""What a stage cost, over all its tries: a few cumulative counters, read by injected readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.ledger.spending import Spending


@dataclass(frozen=True)
class CostCounter:
    """A counter that only grows while a stage runs.

    name  what it counts, with its unit: "seconds", "cpu_seconds" ...
    read  its present value, or None where it cannot be read: unknown stays unknown and is never 0
    """

    name: str
    read: Callable[[], float | None]


def clocks() -> list[CostCounter]:
    """Wall time, and processor time of this process."""
    return [CostCounter("seconds", time.monotonic), CostCounter("cpu_seconds", time.process_time)]


class Ledger:
    """Differences of the readers since this object was made, on top of what earlier tries of the stage left.

    What a try did after its last checkpoint is not in the next try's total: it was lost with the state.
    energy: joules and seconds by phase of the stage (by default without a sensor or a model). As a context manager the ledger
    ends that count.
    """

    def __init__(self, readers: Sequence[CostCounter], energy: Spending | None = None):
        self.energy = energy or Spending()
        self._readers = list(readers)
        self._start = {reader.name: reader.read() for reader in self._readers}
        self._earlier: dict[str, float | None] = {}
        self.tries = 1

    def totals(self) -> dict[str, float | None]:
        """name -> amount over all tries; None as soon as one of them could not be read."""
        return {reader.name: self._total(reader) for reader in self._readers}

    def _total(self, reader: CostCounter) -> float | None:
        now, start, earlier = reader.read(), self._start[reader.name], self._earlier.get(reader.name, 0.0)
        if now is None or start is None or earlier is None:
            return None
        return earlier + now - start

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self.energy.note()
        return {"totals": self.totals(), "tries": self.tries, "energy": self.energy.state()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from an earlier try. A reader that it did not have is unknown for the whole stage."""
        self._earlier = {reader.name: state["totals"].get(reader.name) for reader in self._readers}
        self.tries = state["tries"] + 1
        self.energy.resume(state.get("energy"))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.energy.close()


def training_flops(
    student: int | None, samples: int, teacher: int | None, taught: int, passes: int = 1, written: int = 0
) -> dict[str, Any]:
    """FLOPs of a training stage from the counted forward passes.

    student, teacher  FLOPs of one forward pass of one sample (None: could not be counted)
    samples           samples the student was trained on; a step is taken as three forward passes
    taught            samples the teacher was asked for: its pre-flight, and outputs that were not in a cache
    passes            how often a step computes gradients (SAM: twice)
    written           samples that the student wrote itself; with a cache of keys and values each is taken as one forward pass
    """
    known = student is not None and (teacher is not None or taught == 0)
    learned = None if student is None else student * (3 * passes * samples + written)
    asked = 0 if taught == 0 else None if teacher is None else teacher * taught
    return {
        "student": learned,
        "teacher": asked,
        "total": learned + asked if known else None,
        "method": f"forward pass counted on the meta device; a training step is {'three' if passes == 1 else 3 * passes} of them"
        + (", a text that the student writes is one" if written else ""),
    }


def phase_flops(
    student: int | None,
    samples: int,
    evaluated: int,
    teacher: int | None,
    asked: int,
    taught: int,
    written: int = 0,
) -> dict[str, float] | None:
    """FLOPs by phase of the energy record, from counted forward passes; None where one that is needed is not known.

    student, teacher  FLOPs of one forward pass of one sample
    samples           samples the student computed gradients of, each as three forward passes
    evaluated         samples that it was validated and tested on; of generated text, one pass over each is counted
    asked, taught     samples the teacher was asked for before the first step (its check, its cache), and in all
    written           samples that the student wrote itself, each as one forward pass
    Preparing data is not counted: the phase is not in the result.
    """
    if student is None or (taught and teacher is None):
        return None
    each = teacher or 0
    training = student * (3 * samples + written) + each * max(0, taught - asked)
    found = {"train": training, "evaluate": student * evaluated}
    return {"teacher": each * min(asked, taught), **found} if taught else found
