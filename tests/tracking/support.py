"""What tests of tracking share: jobs without hydra, finished runs, and a wandb that misbehaves on request."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kdrun.tracking.provenance import Provenance, write_start
from kdrun.tracking.record import Run
from kdrun.tracking.registry import open_run

TRACKER = {"name": "wandb", "project": "kdrun-test", "entity": None, "mode": "offline", "timeout": 20.0}
PROVENANCE = Provenance("kdrun data=digits", None, {"python": "3.11.7", "kdrun": "0.0.1"})

SUMMARY = {
    "metric": "accuracy",
    "split": "test",
    "teacher": {"best": 0.97, "last": 0.96, "learner": "resnet20", "n": 1},
    "arms": {
        "alone": {
            "label": "student alone",
            "n": 2,
            "best": {"mean": 0.9, "sd": 0.01},
            "last": {"mean": 0.89, "sd": 0.01},
        },
        "student": {
            "label": "distilled",
            "n": 2,
            "best": {"mean": 0.93, "sd": 0.005},
            "last": {"mean": 0.92, "sd": None},
        },
    },
    "gap_closed": {"best": 0.43, "last": None},
    "verdict": "Distillation helped.",
}
"""What a finished run found out, as the runner writes it."""

FAKE_WANDB = """
import json, os, time
behaviour = os.environ.get("FAKE_WANDB", "log")

def note(**call):
    with open(os.environ["FAKE_WANDB_CALLS"], "a") as file:
        file.write(json.dumps(call, default=str) + "\\n")

if behaviour == "hang at import":
    time.sleep(1000)
if behaviour == "exit":
    os._exit(9)

class Settings(dict):
    pass

class Summary(dict):
    pass

class Run:
    url = "https://wandb.test/run"
    def __init__(self):
        self.summary = Summary()
    def define_metric(self, name, step_metric):
        note(define=name, step=step_metric)
    def log(self, row):
        note(log=row)
    def finish(self, exit_code):
        if behaviour == "hang at finish":
            time.sleep(1000)
        note(finish=exit_code, summary=dict(self.summary))

def init(**options):
    note(init={k: v for k, v in options.items() if k != "settings"}, stdin=os.read(0, 10).decode(), cwd=os.getcwd())
    if behaviour == "hang at init":
        time.sleep(1000)
    if behaviour == "raise":
        raise RuntimeError("no W&B today")
    if behaviour == "offline only" and options["mode"] == "online":
        raise RuntimeError("cannot connect")
    run = Run()
    run.dir = os.path.join(options["dir"], "wandb", "run-20260101_000000-" + options["id"], "files")
    return run

def teardown(exit_code=None):
    pass
"""


def make_job(job_hash: str = "ab" * 32, seeds: tuple[int, ...] = (0, 1), **changes: Any) -> SimpleNamespace:
    """A job as `kdrun.config.compose` makes it; `changes` replace top-level keys of the config."""
    config = {
        "seed": seeds[0],
        "seeds": list(seeds),
        "name": None,
        "strategy": {"_target_": "kdrun.strategies.vanilla.Vanilla", "controls": ["alone"]},
        "teacher": {"name": "resnet20"},
        "student": {"name": "resnet8"},
        "data": {"name": "digits"},
        "trainer": {"epochs": 3, "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}},
        "hardware": {"name": "cpu", "device": "cpu", "devices": 1, "precision": "fp32", "threads": 1},
        "tracker": TRACKER,
        "paths": {"outputs": "/nowhere/outputs", "store": "/nowhere/outputs/store", "cache": "/nowhere/cache"},
        "tags": {"paper": True, "owner": "me"},
        "extra": {},
        **changes,
    }
    cells = [{**config, "seed": seed} for seed in seeds]
    choices = {"strategy": "vanilla", "data": "digits"}
    return SimpleNamespace(
        cells=cells, config=cells[0], hash=job_hash, overrides=["data=digits"], choices=choices, slug="digits"
    )


def begin(outputs: Path, job: Any = None, fresh: bool = False) -> Run:
    """An open run with its start on the disk."""
    job = job or make_job()
    run = open_run(outputs, job.slug, job.hash, fresh=fresh)
    write_start(run, job, PROVENANCE)
    return run


def feed(run: Run, stage: str = "student/seed=0", steps: Iterator[int] | range = range(3)) -> None:
    """Rows whose loss tells the step."""
    for step in steps:
        run.metrics.write(stage, step, step // 2, {"train/loss": 1.0 / (1 + step)})
    run.metrics.flush()


STARTED: list[subprocess.Popen[str]] = []
"""What `python` started in this test: ended after it, also when the test fails half-way."""


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A fresh interpreter running `code` with this folder importable as `tracking`."""
    tests = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests]).strip(":")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )
    STARTED.append(process)
    return process


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_with(text: str) -> list[int]:
    """Processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text in (entry / "cmdline").read_bytes().decode(errors="replace") and alive(int(entry.name)):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
