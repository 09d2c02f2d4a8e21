"""Stages of one job side by side: the same results as one after another, whatever happens to the processes that fit them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from forked import Forked, run, stand_in

from kdrun.cli import main
from kdrun.files import read_json
from kdrun.job.parallel_lab import ParallelLab
from kdrun.lab.lab import Lab
from kdrun.lab.stages.base import Result, Stage
from kdrun.lab.store import Store
from kdrun.learning.report import Report
from kdrun.problems import UserError

WORDS = (
    "teacher=mlp_64", "student=mlp_16", "seeds=2", "trainer.epochs=2", "data.limit.train=200", "hardware=cpu", "tracker=none",
    "card=false",
)  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = (sys.executable, "-m", "kdrun")


def kdrun(*words, folder: Path) -> subprocess.CompletedProcess:
    return run([*COMMAND, *words], folder=folder, env=ENVIRONMENT)


def record_of(folder: Path) -> dict:
    (path,) = folder.glob("outputs/runs/*/record.json")
    return read_json(path)


def lasting(folder: Path) -> tuple:
    """What must not depend on how stages were run: their order, names, figures and weights, decisions, the summary."""
    record = record_of(folder)
    summary = {key: value for key, value in record["summary"].items() if key not in ("seconds", "to_settle", "verdict")}
    for arm in summary["arms"].values():
        arm.pop("seconds")
    manifests = folder / "outputs" / "store" / "stages"
    stages = [
        (
            *(stage[key] for key in ("label", "role", "seed", "fingerprint", "source", "val", "test")),
            read_json(manifests / stage["fingerprint"][:2] / stage["fingerprint"] / "manifest.json")["files"][
                "best.safetensors"
            ],
        )
        for stage in record["stages"]
    ]
    return record["status"], summary, stages


def rows_of(folder: Path) -> dict[str, list[str]]:
    """Label of a stage -> its rows of metrics."""
    (path,) = folder.glob("outputs/runs/*/metrics.jsonl")
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        found.setdefault(line.split('"')[3], []).append(line)
    return found


@pytest.fixture(scope="module")
def one_after_another(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    done = kdrun(*WORDS, "jobs=1", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = kdrun(*WORDS, "jobs=2", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_the_same_bits_records_and_rows(one_after_another, side_by_side):
    folder, told = side_by_side
    assert lasting(folder) == lasting(one_after_another)
    assert list(rows_of(folder).items()) == list(rows_of(one_after_another).items())
    assert "2 at a time" in told and told.count("trained, ") == 5
    jobs = [{stage["cost"].get("jobs") for stage in record_of(path)["stages"]} for path in (one_after_another, folder)]
    assert jobs == [{None}, {2}]


def test_what_is_stored_is_found_and_no_process_is_started(side_by_side, tmp_path):
    folder, _ = side_by_side
    again = kdrun(*WORDS, "jobs=2", "trainer.log_every=3", f"paths.store={folder}/outputs/store", folder=tmp_path)
    assert again.returncode == 0 and "0 stages run (0.0 s), 5 found in the store" in again.stdout, (
        again.stdout + again.stderr
    )
    assert [stage["source"] for stage in record_of(tmp_path)["stages"]] == ["store"] * 5


def test_a_sweep_of_fewer_jobs_than_may_run_shares_them_out(one_after_another, tmp_path):
    done = kdrun("-m", *WORDS, "jobs=2", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lasting(tmp_path)[2] == lasting(one_after_another)[2]
    assert {stage["cost"].get("jobs") for stage in record_of(tmp_path)["stages"]} == {2}


def test_a_stop_saves_the_state_of_all_and_the_same_command_ends_in_the_same_numbers(one_after_another, tmp_path):
    words = [*WORDS, "trainer.checkpoint_seconds=0"]
    log = open(tmp_path / "log", "w+")  # noqa: SIM115
    process = Forked(
        [*COMMAND, *words, "jobs=2"], cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
    )
    unfinished = tmp_path / "outputs" / "store" / "unfinished"
    end = time.monotonic() + 120
    while time.monotonic() < end and not list(unfinished.glob("*/checkpoint.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    record = record_of(tmp_path)
    assert record["status"] == "interrupted" and len(record["stages"]) < 5
    again = kdrun(*words, "jobs=2", folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    status, summary, stages = lasting(tmp_path)
    expected = lasting(one_after_another)
    assert (status, summary) == expected[:2]
    assert [stage[:4] + stage[5:] for stage in stages] == [stage[:4] + stage[5:] for stage in expected[2]]
    assert {stage[4] for stage in stages} - {"trained"}, "nothing was kept"


def test_more_seeds_after_a_look(tmp_path):
    """seeds=auto asks for seeds in parts."""
    words = [word for word in WORDS if not word.startswith("seeds=")]
    found = []
    for jobs in (1, 2):
        (tmp_path / str(jobs)).mkdir()
        done = kdrun(*words, "seeds=auto:5", f"jobs={jobs}", folder=tmp_path / str(jobs))
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(lasting(tmp_path / str(jobs)))
    assert found[0] == found[1] and found[0][1]["sequential"]["made"][0]["seeds"] == 3


STRATEGY = """
from dataclasses import dataclass, replace
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import distil, supervised


@dataclass(frozen=True)
class Choosing(Strategy):
    def run(self, lab, cast):
        '''The better of two teachers teaches.'''
        teachers = {name: lab.get(supervised(learner)) for name, learner in (("a", cast.teacher), ("b", replace(cast.teacher, seed=5)))}
        return lab.get(distil(cast.student, teachers[lab.choose("teacher", teachers)]))
"""


def own(folder: Path) -> list[str]:
    """A package of the user's in `folder`, allowed."""
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "choosing.py").write_text(STRATEGY)
    return ["targets.mine=true"]


def test_a_strategy_that_decides_by_results(tmp_path):
    allowed, found = own(tmp_path), []
    words = [*WORDS, "strategy._target_=mine.choosing.Choosing", "strategy.controls=[alone]", *allowed]
    for jobs in (1, 2):
        where = f"paths.outputs={tmp_path}/{jobs}/outputs"
        done = run(
            [*COMMAND, *words, f"jobs={jobs}", where], folder=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(lasting(tmp_path / str(jobs)))
    assert found[0] == found[1]
    assert [decision["what"] for decision in found[0][1]["decisions"]] == ["teacher"]


@pytest.fixture
def killing(monkeypatch):
    """Jobs of this process; the process that begins `label` is killed, so many times."""
    from kdrun.processes import pool

    def kill(label: str, times: int) -> None:
        events, pids, left = pool.ProcessPool.events, {}, [label] * times

        def watched(self, timeout=0.5):
            for event in events(self, timeout):
                if event["kind"] == "start":
                    pids[event["number"]] = event["pid"]
                if event["kind"] == "stage" and event["label"] in left:
                    left.remove(label)
                    os.kill(pids[event["number"]], signal.SIGKILL)
                yield event

        monkeypatch.setattr(pool.ProcessPool, "events", watched)

    monkeypatch.setattr(pool, "subprocess", stand_in())
    return kill


def test_a_killed_process_costs_its_seed_only(one_after_another, tmp_path, killing, capsys):
    killing("student/seed=1", times=1)
    assert main([*WORDS, "jobs=2", f"paths.outputs={tmp_path}/outputs"]) == 1
    record, whole = record_of(tmp_path), record_of(one_after_another)
    assert record["status"] == "failed" and record["error"]["message"] == "its process ended by SIGKILL"
    arm, expected = record["summary"]["arms"]["student"], whole["summary"]["arms"]["student"]
    assert arm["seeds"]["0"] == expected["seeds"]["0"] and arm["missing"]["1"]["type"] == "Killed"
    told = capsys.readouterr()
    assert "seed 1 failed: Killed: its process ended by SIGKILL" in told.out


def test_what_memory_was_too_short_for_runs_again_by_itself(one_after_another, tmp_path, killing, monkeypatch, capsys):
    from kdrun.processes import pool

    killing("student/seed=1", times=1)
    kills = iter(range(1000))
    monkeypatch.setattr(pool, "oom_kills", lambda: next(kills))
    assert main([*WORDS, "jobs=2", f"paths.outputs={tmp_path}/outputs"]) == 0
    status, summary, stages = lasting(tmp_path)
    assert (status, summary, [stage[:4] for stage in stages]) == (
        *lasting(one_after_another)[:2],
        [stage[:4] for stage in lasting(one_after_another)[2]],
    )
    assert "stages run one after another from here on" in capsys.readouterr().out


def test_no_second_process_is_started_without_room_for_it(one_after_another, tmp_path, monkeypatch):
    from kdrun.job import stage_pool
    from kdrun.processes import pool

    started, start = [], pool.ProcessPool.start
    monkeypatch.setattr(pool, "subprocess", stand_in())
    monkeypatch.setattr(stage_pool, "_memory_available", lambda: 1)
    monkeypatch.setattr(
        pool.ProcessPool, "start", lambda self, *words, **more: started.append(words) or start(self, *words, **more)
    )
    assert main([*WORDS, "-q", "jobs=2", f"paths.outputs={tmp_path}/outputs"]) == 0
    assert len(started) == 1 and lasting(tmp_path) == lasting(one_after_another)


@pytest.mark.parametrize(
    ("text", "hardware", "number"),
    [
        (None, {"device": "cpu", "devices": 1, "threads": 1}, 8),
        ("auto", {"device": "cpu", "devices": 2, "threads": 2}, 2),
        ("auto", {"device": "cpu", "devices": 1, "threads": 16}, 1),
        ("auto", {"device": "cuda", "devices": 1, "threads": 4}, 3),
        ("auto", {"device": "auto", "devices": 2, "threads": 1}, 1),
        ("auto", {"device": "mps", "devices": 1, "threads": 1}, 1),
        ("5", {"device": "cuda", "devices": 2, "threads": 4}, 5),
    ],
)
def test_how_many_stages_run_at_a_time(text, hardware, number, monkeypatch):
    from kdrun.processes import pool

    monkeypatch.setattr(pool, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.delenv(pool.JOBS)
    assert pool.jobs_within(text, hardware) == number
    monkeypatch.setenv(pool.JOBS, "4")
    assert pool.jobs_within(text, hardware) == (4 if text is None else number)


def test_each_process_of_several_devices_has_gpus_of_its_own(monkeypatch, tmp_path):
    from kdrun.processes import pool

    monkeypatch.setattr(pool, "subprocess", stand_in())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    with pool.ProcessPool(2, devices=2) as running:
        told = []
        monkeypatch.setattr(running, "_tell", told.append)
        for number in range(2):
            running.start(number, "kdrun.job.stage_worker:serve", tmp_path / "log")
        assert [request["environment"]["CUDA_VISIBLE_DEVICES"] for request in told] == ["0,1", "2,3"]
        monkeypatch.undo()
        running._running.clear()


def test_memory_that_is_too_short_twice_costs_its_seed(tmp_path, killing, monkeypatch):
    from kdrun.processes import pool

    killing("student/seed=1", times=2)
    kills = iter(range(1000))
    monkeypatch.setattr(pool, "oom_kills", lambda: next(kills))
    assert main([*WORDS, "-q", "jobs=2", f"paths.outputs={tmp_path}/outputs"]) == 1
    assert record_of(tmp_path)["status"] == "out_of_memory"
    assert record_of(tmp_path)["summary"]["arms"]["student"]["missing"]["1"]["status"] == "out_of_memory"


@dataclass(frozen=True)
class Step(Stage):
    """A stage that is fitted in no time. end: of its name, or how it fails."""

    role: str
    seed: int
    inputs: tuple[Result, ...] = ()
    end: str = ""
    unfit: bool = False
    learner: ClassVar = {"name": "step"}
    data: ClassVar = {}

    def parts(self, context):
        return {
            "role": self.role.partition("_")[0],
            "seed": self.seed,
            "inputs": [result.fingerprint for result in self.inputs],
            "end": self.end,
        }

    def parts_after(self, tree, outcome):
        return {**tree, "unforeseen": True} if self.end == "other" else tree

    def check(self, result=None):
        if result is not None and self.unfit:
            raise RuntimeError(f"{self.role} is unfit")
        return []

    def run(self, execution):
        assert all(result.path.is_dir() and result.record["val"] for result in self.inputs)
        if self.end in ("fails", "mistake"):
            raise UserError(self.role) if self.end == "mistake" else RuntimeError(self.role)
        return {"val": {"best": {"accuracy": int(execution.fingerprint[:8], 16) / 2**32}}, "cost": {"seconds": 0.0}}


class Judging:
    """A workshop of stages without data."""

    metering = SimpleNamespace(idle_now=lambda: None)

    def main_metric(self, data):
        return "accuracy", "max"


class InstantPool:
    """Fits stages in this process, in an order of its own; at most `most` are begun."""

    def __init__(self, make_lab, most: int, chance: random.Random):
        self.make_lab, self.limit, self.chance = make_lab, most, chance
        self.begun: list[tuple[str, str, int]] = []
        self._tasks: list = []
        self.request, self.started, self.stopped = {}, False, False

    working = property(lambda self: len(self._tasks))
    free = property(lambda self: len(self._tasks) < self.limit)

    def run(self, task):
        self.started = True
        self._tasks.append(task)
        self.begun.append((task.key, task.stage.label, self.working))

    def events(self, timeout):
        assert self._tasks, "it would wait for ever"
        task = self._tasks.pop(self.chance.randrange(len(self._tasks)))
        sources: list[str] = []
        lab = self.make_lab(lambda item: sources.append(item.source))
        lab.check = lambda stage, result=None: None
        try:
            result = lab.get(task.stage)
        except Exception as error:
            yield task, error
        else:
            yield task, {"fingerprint": result.fingerprint, "source": sources[-1]}

    def stop(self):
        self._tasks.clear()
        self.stopped = True


def asks_of(chance: random.Random, seed: int, end: str):
    """A strategy over `seed`, with one control: stages upon stages, some chosen by their results, some that fail or are unfit.
    end: of a teacher that some have in common."""
    ends = [chance.choice(["", "", "", "", "", "", "fails", "other"]) for _ in range(8)]
    shape = [sorted(chance.sample(range(number), min(number, chance.randrange(3)))) for number in range(8)]
    picks, unfit, shared = {chance.randrange(2, 8)}, chance.randrange(20), chance.random() < 0.5

    def ask(lab, first, last, role):
        results: list[Result] = []
        for number in range(first, last):
            inputs = [results[before - first] for before in shape[number] if first <= before < number]
            if number in picks and len(results) > 1:
                named = {str(place): result for place, result in enumerate(results)}
                inputs = [named[lab.choose("input", named)], *inputs]
            if shared and number == first:
                results.append(lab.get(Step("teacher", 0, (), end)))
            else:
                results.append(lab.get(Step(role, seed, tuple(inputs), ends[number] or str(number), unfit == number)))
        return results[-1]

    return [lambda lab: ask(lab, 0, 5, "student"), lambda lab: ask(lab, 5, 8, "control")]


@pytest.mark.parametrize("case", range(60))
def test_any_order_of_ends_gives_what_one_after_another_gives(case, tmp_path):
    found = []
    for jobs in (1, 1 + case % 4):
        chance = random.Random(case)
        asks = {seed: asks_of(random.Random(case * 100 + seed), seed, "" if case % 3 else "fails") for seed in range(3)}
        store = Store(tmp_path / f"{len(found)}")
        options = {"workshop": Judging(), "paths": {}, "report": Report(), "store": store, "context": None}
        told: list = []
        taken = {
            "fitted": lambda item, told=told: told.append(
                (item.result.stage.label, item.result.fingerprint, item.source)
            )
        }
        if found:
            instant = InstantPool(lambda fitted, options=options: Lab(**options, fitted=fitted), jobs, chance)
            lab = ParallelLab(**options, **taken, pool=instant, ahead=lambda item: None)
        else:
            lab = Lab(**options, **taken)
        errors = []
        lab.expect(asks)
        for several in asks.values():
            try:
                for ask in several:
                    ask(lab)
            except Exception as error:
                errors.append(repr(error))
        found.append((told, errors, lab.decisions, lab.remarks))
    assert found[0] == found[1]
    keys = [key for key, _, _ in instant.begun]
    assert len(set(keys)) == len(keys), "a stage ran twice"
    assert max((working for _, _, working in instant.begun), default=0) <= jobs


def test_independent_stages_begin_together_and_a_mistake_ends_all(tmp_path):
    store = Store(tmp_path)
    options = {"workshop": Judging(), "paths": {}, "report": Report(), "store": store, "context": None}
    instant = InstantPool(lambda fitted: Lab(**options, fitted=fitted), 4, random.Random(0))
    lab = ParallelLab(**options, pool=instant, ahead=lambda item: None)

    def ask(lab):
        teachers = [lab.get(Step(name, 0)) for name in ("a", "b", "c")]
        return lab.get(Step("student", 0, tuple(teachers)))

    lab.expect({0: [ask, lambda lab: lab.get(Step("alone", 0)), lambda lab: lab.get(Step("wrong", 0, end="mistake"))]})
    with pytest.raises(UserError, match="wrong"):
        ask(lab)
        lab.get(Step("alone", 0))
        lab.get(Step("wrong", 0, end="mistake"))
    assert [begun[1:] for begun in instant.begun[:4]] == [
        ("a/seed=0", 1),
        ("b/seed=0", 2),
        ("c/seed=0", 3),
        ("alone/seed=0", 4),
    ]
