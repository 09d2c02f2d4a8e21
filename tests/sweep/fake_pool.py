"""A pool without processes: jobs are functions of their config, and kdrun can be "killed" at any of its steps."""

from __future__ import annotations

import json
from pathlib import Path

from kdrun.tracking.record import RUNNING
from kdrun.tracking.registry import open_folder, read_run


class Killed(BaseException):
    """kill -9: nothing after it runs but what a new process finds on the disk."""


class World:
    """What all pools of a test share. outcome: config -> {"accuracy" (one per epoch), "status", "killed", "deaf", ...}."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.started: list[str] = []
        self.steps = 0
        self.kill_every: int | None = None
        self.on_start = lambda folder: None

    def step(self) -> None:
        self.steps += 1
        if self.kill_every and self.steps % self.kill_every == 0:
            raise Killed

    def pool(self, jobs: int = 1, preload=()):
        return FakePool(self, jobs)


class FakePool:
    def __init__(self, world: World, jobs: int):
        self.world, self.jobs = world, jobs
        self.queue: list[tuple[int, Path]] = []
        self.running: dict[int, object] = {}
        self.runs: dict[int, object] = {}
        self.asked: set[int] = set()

    busy = property(lambda self: len(self.running))
    waiting = property(lambda self: len(self.queue))

    def preload(self, modules):
        pass

    def submit(self, number, folder, force=False, devices=1):
        self.queue.append((number, Path(folder)))

    def cancel(self):
        self.queue.clear()

    def stop(self, number=None, kill=False):
        self.asked |= {number} if number is not None else set(self.running)

    def events(self, timeout=0.5):
        self.world.step()
        while self.queue and len(self.running) < self.jobs:
            number, folder = self.queue.pop(0)
            self.running[number] = self._job(number, folder)
        for number in list(self.running):
            yield next(self.running[number])

    def _job(self, number, folder):
        self.world.started.append(folder.name)
        self.world.on_start(folder)
        self.asked.discard(number)
        run = self.runs[number] = open_folder(folder)
        config, seed = run.record["config"], run.record["seeds"][0]
        outcome = self.world.outcome(config)
        yield {"number": number, "kind": "start", "pid": 1}
        saved = folder / "progress.json"
        done = json.loads(saved.read_text()) if saved.is_file() else 0
        status = outcome.get("status", "done")
        label = f"student/seed={seed}"
        for epoch, accuracy in enumerate(outcome["accuracy"]):
            run.metrics.write(label, epoch, epoch, {"val/accuracy": accuracy, "train/loss": 1.0})
            if epoch < done:  # in the checkpoint: not computed and not told again
                continue
            saved.write_text(json.dumps(epoch + 1))
            values = {"accuracy": accuracy, "loss": 1 - accuracy}
            yield {"number": number, "kind": "epoch", "label": label, "epoch": epoch, "epochs": 9, "values": values}
            stopped = number in self.asked and not outcome.get("deaf")
            killed = outcome.get("killed", 0) > run.attempt - 1
            if stopped or killed:
                status = "interrupted"
                break
        best = {"accuracy": max(outcome["accuracy"]), "loss": 1 - max(outcome["accuracy"])}
        stage = {
            "label": label, "role": "student", "seed": seed, "val": {"best": best}, "path": str(folder),
            "cost": {"seconds": 1.0, "training_seconds": 1.0}, "flops": 10,
            "parameters": outcome.get("parameters", 1),
        }  # fmt: skip
        error = None if status == "done" else {"type": "Error", "message": "of the test", "where": ""}
        run.finish(status, stages=[stage], error=error)
        run.close()
        del self.running[number], self.runs[number]
        yield {"number": number, "kind": "end", "code": 0, "status": status, "error": error}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for run in self.runs.values():  # the system frees the locks of a dead process
            lock, run._lock = run._lock, None
            if lock is not None:
                lock.release()
            assert read_run(run.dir).record["status"] != RUNNING or read_run(run.dir).status == "interrupted"
