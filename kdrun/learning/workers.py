"""Run one stage on several devices: one process per rank, all started by us from one request on disk.

Lightning would start the ranks by replaying our command line; it is told that they exist already. With several nodes the parent is on the first
of them, and asks the others for theirs (board). Only the parent
holds the run's folder, the tracker and the bars: rank 0 tells it what happens through a file of events.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdrun.checksums import told
from kdrun.files import read_json, write_json
from kdrun.learning.board import Others, end_ranks, rank_environment, start_ranks
from kdrun.learning.firststep import NoEffect
from kdrun.learning.fitness import UnfitTeacher
from kdrun.learning.report import Report
from kdrun.learning.request import FitRequest
from kdrun.locks import hold, waiting_text
from kdrun.nodes import place_of, world_of
from kdrun.problems import UserError

INTERRUPTED = 75  # exit code of a rank that saved its state and stopped because it was asked to
MISTAKEN = 76  # exit code of a rank that found a mistake of the user; its lines are in mistake.json


FAILED = 77  # exit code of a rank with an error of any other kind, which it wrote to its failure file


LEAVE_SECONDS = 5.0
"""How much later than the first of them the other ranks may stop when they were asked to."""


class RankFailed(RuntimeError):
    """A rank ended with an error; its traceback is in the message, or a note."""


def run_distributed(request: FitRequest, report: Report, context: dict[str, Any], environment: dict[str, str]):
    """Run `request` on as many processes as its hardware has devices, over all nodes, and return rank 0's outcome.

    context: what a rank needs to build its workshop (see `_rank`). If one rank ends badly the others are ended at once.
    """
    from kdrun.learning.report import Interrupted

    work, world, count = request.work, world_of(request.hardware), request.hardware["devices"]
    for path in (*(work / name for name in ("events.jsonl", "stop", "mistake.json")), *work.glob("failure*.json")):
        path.unlink(missing_ok=True)
    write_json(work / "request.json", {"request": request.to_json(), "context": context})
    others, port = Others(place_of(request.hardware), context["paths"]), _free_port()
    logs = [work / f"rank{rank}.log" for rank in range(world)]
    ranks: list[Any] = []
    try:
        others.call(work, port, count, environment)
        ranks += start_ranks(work, 0, count, rank_environment(environment, others.address, port, world, 0), subprocess)
        events, left = _Events(work / "events.jsonl", report), None
        while None in (codes := [*(rank.poll() for rank in ranks), *others.codes()]):
            events.forward()
            if any(code not in (None, 0, INTERRUPTED) for code in codes):
                break
            if report.stop_requested():
                (work / "stop").touch()
            if INTERRUPTED in codes:  # the others may wait for it in a reduction
                left = left or time.monotonic()
                if time.monotonic() - left > LEAVE_SECONDS:
                    break
            time.sleep(0.05)
        events.forward()
    finally:
        others.end()
        end_ranks(ranks)
    if INTERRUPTED in codes:
        raise Interrupted
    if MISTAKEN in codes:
        raise UserError(*read_json(work / "mistake.json"))
    told_so = {rank for rank in range(world) if (work / f"failure{rank}.json").exists()}
    for rank, code in enumerate(codes):  # one that died without a word is why the others failed, if they did
        if code not in (0, None) and rank not in told_so:
            raise RankFailed(f"rank {rank} of {world} ended with exit code {code}:\n{_tail(logs[rank])}")
    if failures := sorted(work.glob("failure*.json"), key=lambda path: path.stat().st_mtime_ns):
        raise _failure(read_json(failures[0]), world)
    return read_json(work / "outcome.json")


def _failure(told: dict[str, Any], world: int) -> BaseException:
    """The error of a rank, of its own kind where that says how a run ended (FloatingPointError: diverged, out of memory, a teacher
    that is not fit), else RankFailed; it knows where it was raised (`raised_at`)."""
    kinds = {kind.__name__: kind for kind in (FloatingPointError, UnfitTeacher, NoEffect, MemoryError)}
    own = next((kinds[name] for name in told["bases"] if name in kinds), None)
    if own is None and "OutOfMemoryError" in told["bases"]:
        own = MemoryError
    error = own(told["message"]) if own else RankFailed(f"rank {told['rank']} of {world}: {told['message']}")
    error.raised_at = told["where"]
    error.add_note(f"on rank {told['rank']} of {world}:\n{told['trace']}")
    return error


def _write_failure(work: Path, rank: int, error: BaseException) -> None:
    bases, trace = [kind.__name__ for kind in type(error).__mro__], "".join(traceback.format_exception(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    told = {"rank": rank, "bases": bases, "message": str(error), "where": where, "trace": trace}
    write_json(work / f"failure{rank}.json", told)


class _Events:
    """Reads what rank 0 appended since the last look and passes it on."""

    def __init__(self, path: Path, report: Report):
        self.path = path
        self.report = report
        self.position = 0

    def forward(self) -> None:
        if not self.path.is_file():
            return
        with open(self.path, encoding="utf-8") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith("\n"):
                    break
                self.position += len(line.encode())
                method, arguments = json.loads(line)
                getattr(self.report, method)(*arguments)


class _RankReport(Report):
    """Rank 0's report: every call becomes a line of events.jsonl. Other ranks tell nothing."""

    def __init__(self, work: Path, rank: int):
        self._stop = work / "stop"
        self._file = open(work / "events.jsonl", "a", encoding="utf-8") if rank == 0 else None  # noqa: SIM115

    def _tell(self, method: str, *arguments: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps([method, arguments]) + "\n")
            self._file.flush()

    def stage(self, label, total, done, unit="step"):
        self._tell("stage", label, total, done, unit)

    def advance(self, done, values=None):
        self._tell("advance", done, values)

    def rows(self, rows):
        self._tell("rows", rows)

    def epoch(self, label, epoch, epochs, values):
        self._tell("epoch", label, epoch, epochs, values)

    def note(self, text):
        self._tell("note", text)

    def mended(self, text):
        self._tell("mended", text)

    def stop_requested(self):
        return self._stop.exists()


def _rank(work: Path, rank: int) -> int:
    import threading

    def leave_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    given = read_json(work / "request.json")
    request, context = replace(FitRequest.from_json(given["request"]), rank=rank), given["context"]
    sys.path[:] = context["sys_path"]

    import torch

    from kdrun.domains.load import load_data
    from kdrun.learning.fit import run_stage
    from kdrun.learning.report import Interrupted
    from kdrun.learning.teaching import Workshop

    torch.set_num_threads(request.hardware["threads"])
    locks = Path(context["locks"])
    workshop = Workshop(
        lambda config: load_data(config, context["paths"]),
        Path(context["outputs"]),
        lambda name, waiting=None: hold(locks / f"{name}.lock", waiting),
        waiting=lambda name, does: waiting_text(locks / f"{name}.lock", does),
    )
    try:
        telling = _RankReport(work, rank)
        with told(telling.mended):
            run_stage(request, telling, workshop)
    except Interrupted:
        return INTERRUPTED
    except UserError as mistake:
        write_json(work / "mistake.json", mistake.lines)
        return MISTAKEN
    except Exception as error:
        traceback.print_exc()
        _write_failure(work, rank, error)
        return FAILED
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    code = _rank(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the watching thread must not keep the process
