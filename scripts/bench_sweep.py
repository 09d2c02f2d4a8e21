"""What a sweep saves: eight jobs with one teacher as a sweep and as separate commands, the plan of 200 jobs, a job's start; and what
a job of several seeds saves by fitting its stages side by side.

    python scripts/bench_sweep.py [--points 8] [--epochs 10] [--jobs 2] [--repeats 9] [--seeds 4] [--part grid|plan|start|seeds]

Prints
  grid    seconds of the sweep; ratio to the same jobs as separate commands, each in a folder of its own (nothing shared, as
          with a runner without a store) and all in one folder (kdrun's store shared), the tracker off everywhere
  plan    seconds of `kdrun plan -m` with 200 jobs of three seeds, imports included
  seeds   one job of several seeds: seconds with jobs=1 and with jobs=N, of the whole command and from the start of its run to the end
          of its last stage; how often the second fits into the first; processor seconds of both
  start   seconds from the fork of a second job to the end of its first step and the validation after it: above the first step
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = ("data=digits", "teacher=resnet14", "student=resnet8_w2", "seed=0", "tracker=none", "hardware=cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def kdrun(folder: Path, *words: str) -> float:
    """Seconds of one command, from its start to its end."""
    folder.mkdir(exist_ok=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kdrun", *words], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - started


def grid(root: Path, points: int, epochs: int, jobs: int) -> None:
    words = [*COMMON, f"trainer.epochs={epochs}"]
    temperatures = [f"{1 + number / 2:g}" for number in range(points)]
    sweep = kdrun(root / "sweep", "-m", *words, f"objective.kd.temperature={','.join(temperatures)}", f"jobs={jobs}")
    print(f"sweep of {points} jobs, jobs={jobs}: {sweep:.1f} s", flush=True)
    for name, shared in (("folders of their own", False), ("one folder, one store", True)):
        seconds = 0.0
        for number, temperature in enumerate(temperatures):
            folder = root / (name if shared else f"{name} {number}")
            seconds += kdrun(folder, *words, f"objective.kd.temperature={temperature}", "jobs=1")
        print(f"{points} commands, {name}: {seconds:.1f} s, ratio {sweep / seconds:.3f}", flush=True)


def seeds(root: Path, number: int, epochs: int, jobs: int) -> None:
    found = []
    for many in (1, jobs):
        folder, before = root / f"seeds {many}", resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [word for word in COMMON if not word.startswith("seed=")]
        seconds = kdrun(folder, *words, f"seeds={number}", f"trainer.epochs={epochs}", "card=false", f"jobs={many}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        (record,) = [json.loads(path.read_text()) for path in folder.glob("outputs/runs/*/record.json")]
        found.append((seconds, record["summary"]["seconds"]))
        print(
            f"{number} seeds, jobs={many}: {seconds:.1f} s, fitting {found[-1][1]:.1f} s, processor {processor:.1f} s",
            flush=True,
        )
    print("times as fast: {:.2f}, fitting {:.2f}".format(*(one / side for one, side in zip(*found, strict=True))))


def plan(root: Path) -> None:
    rates = ",".join(f"{0.01 * (1 + number):g}" for number in range(20))
    words = ["seeds=3" if word.startswith("seed=") else word for word in COMMON]
    words += ["objective.kd.temperature=range(1,11)", f"trainer.optimizer.lr={rates}"]
    print(f"plan of 200 jobs, 600 cells: {kdrun(root / 'plan', 'plan', '-m', *words):.1f} s")


def start(root: Path, repeats: int) -> None:
    """In this process, so that the events' times are its own."""
    from kdrun.processes.pool import targets_of
    from kdrun.sweep.plan import freeze, make_plan
    from kdrun.sweep.pool import Pool

    words = [*COMMON, "data.limit.train=128", "trainer.epochs=1", f"paths.outputs={root}/start", "strategy=alone"]
    planned = make_plan(
        [[*words, f"trainer.optimizer.lr={0.01 + 0.001 * n:.3f}"] for n in range(repeats + 1)], deep=False
    )
    freeze(planned)
    begun, ended = {}, {}
    with Pool(1, targets_of(point.job.config for point in planned.points)) as pool:
        for point in planned.points:
            pool.submit(point.number, point.folder)
        while pool.busy or pool.waiting:
            for event in pool.events():
                times = {"start": begun, "epoch": ended}.get(event["kind"])
                if times is not None:
                    times.setdefault(event["number"], time.perf_counter())
    seconds = sorted(ended[number] - begun[number] for number in range(1, repeats + 1))
    print(f"start of a further job: median {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9, help="of the part `start`")
    parser.add_argument("--seeds", type=int, default=4, help="of the part `seeds`")
    parser.add_argument("--part", choices=("grid", "plan", "start", "seeds"), action="append")
    options = parser.parse_args()
    parts = options.part or ["start", "plan", "grid", "seeds"]
    with tempfile.TemporaryDirectory() as folder:
        if "start" in parts:
            start(Path(folder), options.repeats)
        if "plan" in parts:
            plan(Path(folder))
        if "grid" in parts:
            grid(Path(folder), options.points, options.epochs, options.jobs)
        if "seeds" in parts:
            seeds(Path(folder), options.seeds, options.epochs, options.jobs)


if __name__ == "__main__":
    main()
