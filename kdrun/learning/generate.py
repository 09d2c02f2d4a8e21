"""Let a trained network generate targets for the training samples: the data that a stage leaves (lab.stages.generate)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.data.filters import TextFilter
from kdrun.files import write_atomic
from kdrun.learning.outcome import of_no_training
from kdrun.learning.report import Interrupted, Report
from kdrun.learning.request import TaughtBy
from kdrun.learning.teaching import Workshop, live_teacher
from kdrun.ledger.spending import TEACHER
from kdrun.networks.modes import evaluating
from kdrun.problems import UserError

SEMANTICS = 2
ROWS = "data.jsonl"
"""The generated rows, one a line: {"id": of the training sample, and what it was given}."""
STATE = "generated.part"
BLOCK = 64
"""Samples at a time; a try that goes on begins with a whole block, so that batches are those of an uninterrupted one."""


@dataclass(frozen=True)
class GenerateRequest:
    """What is asked: a network (`teacher`), the data whose training samples it reads, how it generates (`decoding`), which of its texts
    are learned from (`filters`), and keys of the data in which it sees these samples otherwise (`sees`)."""

    label: str
    work: Path
    teacher: TaughtBy
    data: dict[str, Any]
    decoding: dict[str, Any]
    hardware: dict[str, Any]
    energy: dict[str, Any] | None = None
    filters: TextFilter = TextFilter()
    sees: dict[str, Any] = field(default_factory=dict)


def run_generation(request: GenerateRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """The outcome, in JSON types; the rows lie in the work folder as ROWS. Raises Interrupted after the state was saved, and
    UserError for a task that generates no targets."""
    with workshop.open_ledger(request.work, request.hardware, request.energy) as ledger:
        module = workshop.data(request.data)
        seen = workshop.seen({**request.data, **request.sees}, module) if request.sees else module
        task, view = seen.task(request.decoding), seen.view_of(module) if request.sees else None
        network = live_teacher(request.teacher, seen, task, torch.device(request.hardware["device"])).network
        samples = module.samples("train")
        state = request.work / STATE
        lines = _whole_blocks(state, len(samples))
        report.stage(request.label, len(samples), len(lines), unit="sample")
        ledger.energy.enter(TEACHER)
        with torch.inference_mode(), evaluating(network), open(state, "w") as file:
            file.writelines(lines)
            for first in range(len(lines), len(samples), BLOCK):
                positions = np.arange(first, min(first + BLOCK, len(samples)))
                new = [json.dumps(row) + "\n" for row in task.targets_of(network, samples, positions, view)]
                lines += new
                file.writelines(new)
                file.flush()
                report.advance(len(lines))
                if report.stop_requested():
                    raise Interrupted
        kept, left = lines, {}
        if request.filters != TextFilter():
            rows, left = request.filters.kept(map(json.loads, lines))
            kept = [json.dumps(row) + "\n" for row in rows]
        if not kept:
            raise UserError(
                f"{request.label}: every one of {sum(left.values()):,} generated texts is left out: {dict(left)}",
                "strategy.shortest, strategy.longest and strategy.repeated say which are",
            )
        write_atomic(request.work / ROWS, "".join(kept))
        return {
            **of_no_training(task, network, ledger, len(lines)),
            "teacher": {"fingerprint": request.teacher.fingerprint, "source": "online"},
            "generated": {"rows": len(kept), **({"left_out": dict(left)} if request.filters != TextFilter() else {})},
        }


def _whole_blocks(state: Path, of: int) -> list[str]:
    """The lines of an earlier try, as far as their blocks are whole."""
    if not state.is_file():
        return []
    lines = state.read_text().splitlines(keepends=True)
    lines = lines[:-1] if lines and not lines[-1].endswith("\n") else lines
    return lines[:of] if len(lines) >= of else lines[: len(lines) // BLOCK * BLOCK]
