"""Whole sweeps of small real jobs: what runs, what is skipped, how failures and stops look, what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import PIPE, Forked, run, stand_in

from kdrun.files import read_json

QUICK = (
    "seed=0", "teacher=mlp_64", "student=mlp_16", "trainer.epochs=3", "data.limit.train=200", "hardware=cpu", "tracker=none"
)  # fmt: skip
GRID = ("-m", *QUICK, "objective.kd.temperature=1,2,4")
KILLS = max(6, int(os.environ.get("KDRUN_FAULTS", 0)) // 10)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def kdrun(*words, cwd, **options):
    command = [sys.executable, "-m", "kdrun", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=ENVIRONMENT, **options
    )


def forked(*words, cwd):
    """The same in a process that has torch imported, as has the server that it starts."""
    return run([sys.executable, "-m", "kdrun", *words], folder=cwd, env=ENVIRONMENT)


@pytest.fixture
def forked_server(monkeypatch):
    """Pools of this process whose server needs no seconds to import."""
    from kdrun.processes import pool

    monkeypatch.setattr(pool, "subprocess", stand_in())


def results(folder: Path) -> dict[str, dict]:
    """job hash -> what must not depend on how often the sweep was cut: figures, fingerprints, weights."""
    found = {}
    for path in folder.glob("outputs/runs/*/record.json"):
        record = read_json(path)
        summary = {key: value for key, value in record["summary"].items() if key != "seconds"}
        for arm in summary["arms"].values():
            arm.pop("seconds")
        stages = {stage["label"]: stage["fingerprint"] for stage in record["stages"]}
        weights = {key: read_json(weights_of(folder, key))["files"]["best.safetensors"] for key in stages.values()}
        found[record["job_hash"]] = {
            "status": record["status"],
            "summary": summary,
            "stages": stages,
            "weights": weights,
        }
    return found


def weights_of(folder: Path, fingerprint: str) -> Path:
    return folder / "outputs" / "store" / "stages" / fingerprint[:2] / fingerprint / "manifest.json"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The grid, run once from beginning to end, two jobs at a time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = kdrun(*GRID, "jobs=2", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def processes(text: str) -> list[str]:
    """Command lines of running processes that contain `text`, as those with the folder of a test."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in words or text in os.readlink(path / "cwd"):
                found.append(f"{path.name} {words}")
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_plan_is_shown_before_the_jobs_start(undisturbed):
    _, shown = undisturbed
    plan = shown[: shown.index("started")]
    assert "3 jobs: 3 new; 3 to run" in plan
    assert "needs a" in plan and plan.count("as 0") == 2
    assert "seed=0 teacher=mlp_64" in plan


def test_a_teacher_that_jobs_share_is_trained_once_though_they_start_together(undisturbed):
    folder, _ = undisturbed
    sources = [
        stage["source"]
        for path in folder.glob("outputs/runs/*/record.json")
        for stage in read_json(path)["stages"]
        if stage["role"] == "teacher"
    ]
    assert sorted(sources) == ["store", "store", "trained"]
    assert len(list(folder.glob("outputs/store/outputs/*"))) == 1


def test_the_same_command_again_runs_nothing_and_imports_no_torch(undisturbed):
    folder, _ = undisturbed
    before = results(folder)
    code = f"import sys; from kdrun.cli import main; sys.argv[1:] = {[*GRID]!r}; code = main(); print(code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert "3 done; 0 to run" in done.stdout
    assert done.stdout.split()[-2:] == ["0", "False"], done.stdout + done.stderr
    assert results(folder) == before


def test_a_larger_grid_runs_only_what_is_new(undisturbed):
    folder, _ = undisturbed
    done = forked("plan", *GRID[:-1], "objective.kd.temperature=2,3", "--json", cwd=folder)
    jobs = json.loads(done.stdout)
    assert [(job["status"], job["teacher"]) for job in jobs] == [("done", "stored"), ("new", "stored")]


@pytest.mark.slow
def test_a_job_that_fails_is_told_at_once_and_the_rest_goes_on(tmp_path):
    words = ("-m", *QUICK, "trainer.optimizer.lr=1e30,0.05")
    done = forked(*words, cwd=tmp_path)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    failure = next(n for n, line in enumerate(lines) if "diverged: FloatingPointError" in line)
    success = next(n for n, line in enumerate(lines) if re.search(r"\[2/2\].*: done", line))
    assert failure < success
    statuses = {read_json(p)["status"]: p.parent for p in tmp_path.glob("outputs/runs/*/record.json")}
    assert set(statuses) == {"diverged", "done"}
    assert "FloatingPointError" in (statuses["diverged"] / "run.log").read_text().splitlines()[-1]

    again = forked(*words, cwd=tmp_path)
    assert again.returncode == 3
    assert "0 to run" in again.stdout and "--retry" in again.stderr
    retried = forked(*words, "--retry", "--json", "-q", cwd=tmp_path)
    assert [job["status"] for job in json.loads(retried.stdout)] == ["diverged", "done"]
    assert len(read_json(statuses["diverged"] / "record.json")["attempts"]) == 2


def test_editing_a_config_after_the_plan_changes_nothing(tmp_path, monkeypatch, forked_server):
    from kdrun.sweep.execute import execute
    from kdrun.sweep.plan import freeze, make_plan

    monkeypatch.chdir(tmp_path)
    option = tmp_path / "conf" / "trainer" / "mine.yaml"
    option.parent.mkdir(parents=True)
    shipped = (Path(__file__).parent.parent.parent / "conf" / "trainer" / "quick.yaml").read_text()
    option.write_text(shipped)
    words = [*(w for w in QUICK if not w.startswith("trainer")), "trainer=mine", "trainer.epochs=2"]
    plan = make_plan([[*words, "strategy=alone"], [*words, "student=mlp_8", "strategy=alone"]], ["conf"])
    freeze(plan)
    option.write_text("optimizer: {lr: 1e30}\n")
    assert execute(plan, quiet=True) == 0
    recorded = [read_json(point.folder / "record.json") for point in plan.points]
    assert all(record["config"] == point.job.config for record, point in zip(recorded, plan.points, strict=True))


def test_ctrl_c_saves_ends_every_process_and_the_same_command_goes_on(tmp_path):
    words = [word.replace("epochs=3", "epochs=4000") for word in GRID]
    with open(tmp_path / "err", "wb") as err:
        process = Forked(
            [sys.executable, "-u", "-m", "kdrun", *words, "jobs=2"],
            cwd=tmp_path, stdout=PIPE, stderr=err, env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
    for line in process.stdout:
        if b"[2/3]" in line and b"started" in line:
            break
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    process.stdout.read()
    process.wait(timeout=60)
    error = (tmp_path / "err").read_text()
    assert process.returncode == 130
    assert "To continue:\nkdrun -m" in error
    assert not processes(str(tmp_path))
    statuses = [read_json(path)["status"] for path in tmp_path.glob("outputs/runs/*/record.json")]
    assert sorted(statuses) == ["interrupted", "interrupted", "planned"]


def test_one_seed_that_fails_is_shown_and_the_others_count(tmp_path, monkeypatch, capsys):
    from kdrun.job.compose import compose
    from kdrun.run import run_job
    from kdrun.strategies.vanilla import Vanilla

    monkeypatch.chdir(tmp_path)
    run = Vanilla.run

    def breaks(self, lab, cast):
        if cast.config["seed"] == 1:
            raise FloatingPointError("loss became nan")
        return run(self, lab, cast)

    monkeypatch.setattr(Vanilla, "run", breaks)
    job = compose([*(word for word in QUICK if word != "seed=0"), "seeds=3"])
    assert run_job(job, arguments=[]) == 1
    shown = capsys.readouterr()
    assert "2 of 3" in shown.out and "loss became nan" in shown.out
    assert "seed 1: FloatingPointError" in shown.err
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_json(path)
    arm = record["summary"]["arms"]["student"]
    assert record["status"] == "diverged"
    assert (arm["n"], arm["of"], list(arm["seeds"]), arm["missing"]["1"]["status"]) == (2, 3, ["0", "2"], "diverged")
    assert record["summary"]["difference"]["best"]["n"] == 2
    assert "2 of 3" in record["summary"]["verdict"]


@pytest.mark.slow
def test_a_sweep_killed_at_random_points_equals_an_undisturbed_one(tmp_path, undisturbed):
    """A kill takes the sweep alone; its server and jobs see that and stop, or still work when the next sweep starts."""
    expected = results(undisturbed[0])

    def sweep(folder: Path, seconds: float = 60.0) -> int:
        """Its exit code; after so many seconds it is killed."""
        with open(folder / "log", "ab") as log:
            process = Forked(
                [sys.executable, "-m", "kdrun", *GRID, "jobs=2"], cwd=folder, stdout=log, stderr=log, env=ENVIRONMENT
            )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def new() -> Path:
        folder = tmp_path / str(number)
        folder.mkdir()
        return folder

    number = 0
    calm = new()
    started = time.monotonic()
    assert sweep(calm) == 0
    whole = time.monotonic() - started
    assert results(calm) == expected
    chance, kills = random.Random(3), 0
    while kills < KILLS:
        number += 1
        folder, code = new(), None
        while code != 0 and kills < KILLS:
            code = sweep(folder, chance.uniform(0.05 * whole, whole))
            assert code in (0, -signal.SIGKILL), (folder / "log").read_text()[-3000:]
            kills += code != 0
        if code != 0:
            assert sweep(folder) == 0, (folder / "log").read_text()[-3000:]
        assert results(folder) == expected


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_job_only(tmp_path, forked_server):
    from kdrun.sweep.plan import freeze, make_plan
    from kdrun.sweep.pool import Pool

    words = [word.replace("epochs=3", "epochs=2000") for word in QUICK]
    words += ["trainer.checkpoint_seconds=0", f"paths.outputs={tmp_path}/outputs", "strategy=alone"]
    plan = make_plan([[*words], [*words, "student=mlp_8", "trainer.epochs=2"]])
    freeze(plan)
    status = {}
    with Pool(2) as pool:
        for point in plan.points:
            pool.submit(point.number, point.folder)
        pids = {}
        while pool.busy:
            for event in pool.events():
                if event["kind"] == "start":
                    pids[event["number"]] = event["pid"]
                if event["kind"] == "epoch" and event["number"] == 0 and 0 in pids:
                    os.kill(pids.pop(0), signal.SIGKILL)
                if event["kind"] == "end":
                    status[event["number"]] = (event["status"], event["error"])
    assert status[0][0] == "interrupted" and "SIGKILL" in status[0][1]["message"]
    assert status[1] == ("done", None)
    assert not processes(str(tmp_path))


def test_a_job_that_another_process_works_on_is_waited_for_not_done_twice(tmp_path, forked_server):
    from kdrun.sweep.execute import execute
    from kdrun.sweep.plan import freeze, make_plan
    from kdrun.sweep.pool import Pool

    words = [*QUICK, "strategy=alone", f"paths.outputs={tmp_path}/outputs"]
    long = [word.replace("epochs=3", "epochs=300") for word in words]
    first = make_plan([long], deep=False)
    (point,) = freeze(first)
    with Pool(1) as pool:
        pool.submit(0, point.folder)
        while not any(event["kind"] == "epoch" for event in pool.events()):
            pass
        second = make_plan([long, words], deep=False)
        assert [point.status for point in second.points] == ["running", "new"]
        assert execute(second, quiet=True) == 0
        while pool.busy:
            list(pool.events())
    assert len(list(tmp_path.glob("outputs/runs/*/record.json"))) == 2
    assert len(second.points[0].record["attempts"]) == 1


def test_gpus_and_threads_are_shared_out(monkeypatch, tmp_path):
    from kdrun.processes import pool as pools
    from kdrun.sweep.pool import Pool

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(pools, "cores", lambda: 8)
    with Pool(3) as pool:
        told = []
        monkeypatch.setattr(pool, "_tell", told.append)
        for number in range(4):
            pool.submit(number, tmp_path)
        assert [request["environment"]["CUDA_VISIBLE_DEVICES"] for request in told] == ["3", "5", "3"]
        assert {request["threads"] for request in told} == {2}
        assert (pool.busy, pool.waiting) == (3, 1)
        pool._running.clear()


def test_jobs_of_several_devices_wait_for_gpus_of_their_own(monkeypatch, tmp_path):
    from kdrun.processes import pool as pools
    from kdrun.sweep.pool import Pool

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    with Pool(5) as pool:
        told = []
        monkeypatch.setattr(pool, "_tell", told.append)
        for number, devices in enumerate((2, 2, 2, 1)):
            pool.submit(number, tmp_path, devices=devices)
        assert [request["environment"]["CUDA_VISIBLE_DEVICES"] for request in told] == ["0,1", "2,3"]
        assert (pool.busy, pool.waiting) == (2, 2)
        del pool._running[0]
        pool._fill()
        assert [request["environment"]["CUDA_VISIBLE_DEVICES"] for request in told[2:]] == ["0,1", "4"]
        pool._running.clear()
    assert pools.gpus_of({"device": "cuda", "devices": 4}) == 4 and pools.gpus_of({"device": "cpu", "devices": 4}) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FloatingPointError("loss became nan"), "diverged"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("size mismatch"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_ends_have_statuses_of_their_own(error, status):
    from kdrun.tracking.record import status_of

    assert status_of(error) == status


def test_mistakes_of_a_sweep_are_counted_and_told_once_for_all_values(tmp_path, monkeypatch):
    from kdrun.problems import ConfigProblems
    from kdrun.sweep.plan import make_plan

    monkeypatch.chdir(tmp_path)
    points = [[f"objective.kd.temprature={t}", "student=resnet8_w3"] for t in (1, 4)]
    with pytest.raises(ConfigProblems, match="2 problems") as caught:
        make_plan(points, deep=False)
    assert len(caught.value.problems) == 2 and not list(tmp_path.iterdir())
