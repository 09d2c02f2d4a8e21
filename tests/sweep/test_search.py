"""hydra/sweeper=optuna: exact numbers of trials whatever happens, and ends that are told as they were."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from forked import Forked
from sweep.fake_pool import Killed, World

from kdrun.problems import UserError
from kdrun.sweep import search_study
from kdrun.sweep.search import search

BASE = ["tracker=none", "seed=0", "student=mlp_8", "teacher=mlp_64", "trainer.epochs=6"]
TEMPERATURE = "objective.kd.temperature=interval(1,8)"


def quality(config):
    """Best at temperature 3."""
    return 1 - ((config["objective"]["kd"]["temperature"] - 3) / 8) ** 2


def smooth(config):
    return {"accuracy": [quality(config) * (1 - 0.5 ** (epoch + 1)) for epoch in range(config["trainer"]["epochs"])]}


@pytest.fixture
def world(monkeypatch, tmp_path):
    from kdrun.sweep import plan, pool
    from kdrun.tracking.provenance import Provenance

    found = World(smooth)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "Pool", found.pool)
    monkeypatch.setattr(Provenance, "collect", lambda arguments: Provenance("kdrun " + " ".join(arguments), None, {}))
    for owner, name in (
        (search_study.Study, "add"), (search_study.Study, "complete"), (search_study.Study, "prune"),
        (search_study.Study, "report"), (plan, "freeze_point"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, dangerous(found, getattr(owner, name)))
    return found


def dangerous(world, function):
    def wrapped(*arguments, **options):
        world.step()
        result = function(*arguments, **options)
        world.step()
        return result

    return wrapped


def run(*words, n=4, outputs="outputs", **options):
    settings = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={n}"]
    given = {word.partition("=")[0] for word in words}
    base = [word for word in BASE if word.partition("=")[0] not in given]
    options = {"quiet": True, "command_arguments": ["-m", *words], **options}
    return search([*settings, *base, f"paths.outputs={outputs}", *words], **options)


def record(outputs="outputs"):
    (path,) = Path(outputs, "sweeps").glob("*/sweep.json")
    return json.loads(path.read_text())


def trials(outputs="outputs"):
    return record(outputs)["search"]["trials"]


def test_a_search_runs_the_asked_number_of_trials_and_names_the_best(world):
    assert run(TEMPERATURE, n=6) == 0
    found = record()["search"]
    assert len(world.started) == len(found["trials"]) == len(record()["points"]) == 6
    assert [trial["number"] for trial in found["trials"]] == list(range(6))
    complete = [trial for trial in found["trials"] if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["values"][0])
    assert found["best"]["number"] == best["number"] and found["best"]["run"] == best["run"]
    assert f"objective.kd.temperature={best['params']['objective.kd.temperature']}" in found["best"]["command"]
    assert "hydra" not in found["best"]["command"] and "interval" not in found["best"]["command"]
    assert found["objectives"] == ["accuracy"] and found["directions"] == ["maximize"]
    assert [point["run"] for point in record()["points"]] == [trial["run"] for trial in found["trials"]]


def test_the_same_command_runs_nothing_again_and_a_larger_number_goes_on(world):
    assert run(TEMPERATURE, n=3) == 0
    before = trials()
    assert run(TEMPERATURE, n=3) == 0 and len(world.started) == 3 and trials() == before
    assert run(TEMPERATURE, n=5) == 0
    assert len(world.started) == 5 and trials()[:3] == before and len(trials()) == 5
    assert run(TEMPERATURE, n=2) == 0 and len(trials()) == 5
    assert run(TEMPERATURE, n=5, outputs="at_once") == 0
    assert what(trials("at_once")) == what(trials())


def what(found):
    return [(trial["params"], trial["values"], trial["state"], trial["job_hash"]) for trial in found]


@pytest.mark.slow
def test_a_search_that_is_killed_over_and_over_is_the_undisturbed_search(world):
    words = (TEMPERATURE, "trainer.optimizer.lr=tag(log,interval(1e-3,1))", "hydra.sweeper.warmup_epochs=1")
    world.outcome = lambda config: {
        "accuracy": [a * config["trainer"]["optimizer"]["lr"] for a in smooth(config)["accuracy"]]
    }
    assert run(*words, n=8, outputs="undisturbed") == 0
    world.kill_every, kills = 17, 0
    while True:
        try:
            assert run(*words, n=8, outputs="killed") == 0
            break
        except Killed:
            kills += 1
            assert kills < 200
            world.kill_every = 17 + random.Random(kills).randrange(17)
    assert kills >= 3
    assert what(trials("killed")) == what(trials("undisturbed"))
    assert {"complete", "pruned"} == {trial["state"] for trial in trials("killed")}
    assert len(os.listdir("killed/runs")) == len(os.listdir("undisturbed/runs"))
    statuses = {trial["state"]: status(trial, "killed") for trial in trials("killed")}
    assert statuses == {"complete": "done", "pruned": "pruned"}


def status(trial, outputs="outputs"):
    return json.loads(Path(outputs, "runs", trial["run"], "record.json").read_text())["status"]


def test_a_pruned_trial_stops_early_and_a_worker_faster_than_the_decision_changes_none(world):
    words = (TEMPERATURE, "hydra.sweeper.warmup_epochs=0")
    assert run(*words, n=9) == 0
    pruned = [trial for trial in trials() if trial["state"] == "pruned"]
    assert pruned and all(trial["values"] is None for trial in pruned)
    assert {status(trial) for trial in pruned} == {"pruned"}
    world.outcome = lambda config: {**smooth(config), "deaf": True}
    assert run(*words, n=9, outputs="deaf") == 0
    assert what(trials("deaf")) == what(trials())
    assert run(*words, "hydra.sweeper.pruner=none", n=7, outputs="all") == 0
    assert {trial["state"] for trial in trials("all")} == {"complete"}


def test_trials_that_fail_are_told_and_the_search_goes_on(world, capsys):
    def outcome(config):
        temperature = config["objective"]["kd"]["temperature"]
        bad = ["diverged", "failed", "out_of_memory", "done"][min(int(temperature) // 2, 3)]
        return {**smooth(config), "status": bad}

    world.outcome = outcome
    assert run(TEMPERATURE, n=8, quiet=False) == 3
    states = {status(trial): trial["state"] for trial in trials()}
    assert states == {"diverged": "failed", "failed": "failed", "out_of_memory": "failed", "done": "complete"}
    shown = capsys.readouterr().out
    assert all(f"{bad}: Error: of the test" in shown for bad in ("diverged", "out_of_memory")) and "run.log" in shown
    assert run(TEMPERATURE, n=8) == 3 and len(trials()) == len(world.started) == 8


def test_retry_runs_failed_trials_once_more_beside_the_others(world):
    world.outcome = lambda config: {**smooth(config), "status": "failed"}
    assert run(TEMPERATURE, n=3) == 3
    world.outcome = smooth
    assert run(TEMPERATURE, n=3, retry=True) == 0
    found = trials()
    assert [trial["state"] for trial in found] == ["failed"] * 3 + ["complete"] * 3
    assert [trial["params"] for trial in found[:3]] == [trial["params"] for trial in found[3:]]
    assert run(TEMPERATURE, n=3, retry=True) == 0 and len(world.started) == 6
    assert run(TEMPERATURE, n=4) == 0 and len(trials()) == 7


def test_a_value_that_is_not_finite_is_a_failed_trial(world):
    world.outcome = lambda config: {"accuracy": [0.5, float("inf")]}
    assert run(TEMPERATURE, "hydra.sweeper.pruner=none", n=2) == 3
    assert [trial["error"] for trial in trials()] == ["accuracy is inf"] * 2
    assert record()["search"]["best"] is None


def test_a_killed_worker_goes_on_once_and_is_given_up_the_second_time(world):
    world.outcome = lambda config: {**smooth(config), "killed": 1}
    assert run(TEMPERATURE, n=2) == 0 and len(world.started) == 4 and len(set(world.started)) == 2
    world.outcome = lambda config: {**smooth(config), "killed": 9}
    assert run(TEMPERATURE, n=2, outputs="hopeless") == 3
    assert [trial["state"] for trial in trials("hopeless")] == ["failed"] * 2


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_same_configuration_twice_runs_once_and_counts_twice(world, jobs):
    assert run("student=mlp_8,mlp_16", n=6, jobs=jobs) == 0
    found = trials()
    assert len(found) == 6 and len(world.started) == len(set(world.started)) == 2
    assert {trial["state"] for trial in found} == {"complete"}
    assert len({(trial["run"], trial["values"][0]) for trial in found}) == 2


def test_a_configuration_that_was_run_before_is_not_run_again(world):
    assert run("student=mlp_8,mlp_16", n=4) == 0
    assert run("student=mlp_16,mlp_8", "hydra.sweeper.sampler=random", n=4) == 0
    assert len(world.started) == 2
    assert run("student=mlp_16,mlp_8", "hydra.sweeper.sampler=nsgaii", n=4, force=True) == 0
    assert len(world.started) == 4 and len(os.listdir("outputs/sweeps")) == 3


def test_several_objectives_give_a_pareto_front(world, capsys):
    world.outcome = lambda config: {
        **smooth(config),
        "parameters": round(100 * config["objective"]["kd"]["temperature"]),
    }
    words = (TEMPERATURE, "hydra.sweeper.objective=[accuracy,parameters]", "hydra.sweeper.sampler=nsgaii")
    assert run(*words, n=8, quiet=False) == 0
    found = record()["search"]
    assert found["directions"] == ["maximize", "minimize"] and "best" not in found
    values = {trial["number"]: trial["values"] for trial in found["trials"]}
    beaten = {
        a for a in values for b in values
        if values[b] != values[a] and values[b][0] >= values[a][0] and values[b][1] <= values[a][1]
    }  # fmt: skip
    assert {entry["number"] for entry in found["pareto"]} == set(values) - beaten
    accuracies = [entry["values"][0] for entry in found["pareto"]]
    assert accuracies == sorted(accuracies, reverse=True)
    shown = capsys.readouterr().out
    assert "Pareto front" in shown and "no pruning" in shown and "kdrun show" in shown


def test_ctrl_c_stops_everything_and_the_same_command_goes_on(world, capsys):
    folders = []

    def interrupt(folder):
        folders.append(folder)
        if len(folders) == 2:
            signal.raise_signal(signal.SIGINT)

    world.on_start = interrupt
    assert run(TEMPERATURE, n=4, quiet=False) == 130
    err = capsys.readouterr().err
    assert "To continue:\nkdrun -m" in err and [trial["state"] for trial in trials()] == ["complete", "running"]
    world.on_start = lambda folder: None
    assert run(TEMPERATURE, n=4) == 0
    assert len(trials()) == 4 and len(set(world.started)) == 4 and len(world.started) == 5


def test_time_that_is_up_ends_the_asking_not_the_trials(world, capsys):
    assert run(TEMPERATURE, "hydra.sweeper.timeout_minutes=1e-9", n=3, quiet=False) == 0
    assert "3 trials left" in capsys.readouterr().out and trials() == []
    assert run(TEMPERATURE, n=3) == 0 and len(trials()) == 3


def test_one_process_at_a_time(world):
    import filelock

    assert run(TEMPERATURE, n=1) == 0
    (folder,) = Path("outputs/sweeps").iterdir()
    with filelock.FileLock(folder / ".lock"), pytest.raises(UserError, match=folder.name):
        run(TEMPERATURE, n=2)


def test_a_study_of_another_search_is_refused_with_what_differs(world):
    place = ("hydra.sweeper.storage=mine/study.db", "hydra.sweeper.study_name=mine")
    assert run(TEMPERATURE, *place, n=1) == 0 and Path("mine/study.db").is_file()
    assert run(TEMPERATURE, *place, n=2) == 0 and len(trials()) == 2
    with pytest.raises(UserError, match=r"1 to 8.*there.*1 to 9.*here"):
        run("objective.kd.temperature=interval(1,9)", *place, n=2)
    Path("text.db").write_text("no database " * 100)
    with pytest.raises(UserError, match=r"text\.db cannot be used"):
        run(TEMPERATURE, "hydra.sweeper.storage=text.db", n=1)


def test_a_study_that_was_damaged_is_refused_and_without_it_the_search_ends_as_it_did(world, tmp_path):
    run(TEMPERATURE)
    (path,) = tmp_path.rglob("*.db")
    first = best(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trial_values SET value = value + 0.5 WHERE trial_value_id = 1")
    with pytest.raises(UserError, match="is damaged: trial 0") as caught:
        run(TEMPERATURE)
    assert "mv " in caught.value.lines[-1]
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    with pytest.raises(UserError, match="cannot be used as the storage"):
        run(TEMPERATURE)
    path.unlink()
    jobs = len(world.jobs) if hasattr(world, "jobs") else None
    run(TEMPERATURE)
    assert best(tmp_path) == first and (jobs is None or len(world.jobs) == jobs)


def best(folder):
    """What sweep.json says was chosen, without times."""
    (record,) = (json.loads(path.read_text()) for path in folder.rglob("sweep.json"))
    return [(trial["number"], trial["overrides"]) for trial in record["points"]]


def test_editing_an_option_while_the_search_runs_changes_nothing(world):
    option = Path("own/student/mine.yaml")
    option.parent.mkdir(parents=True)
    option.write_text("network:\n  _target_: kdrun.networks.mlp.MLP\n  hidden: [5]\n")
    world.on_start = lambda folder: option.write_text("network:\n  _target_: kdrun.networks.mlp.MLP\n  hidden: [6]\n")
    assert run(TEMPERATURE, "student=mine", n=3, conf_dirs=["own"]) == 0
    configs = [json.loads(path.read_text())["config"] for path in Path("outputs/runs").glob("*/record.json")]
    assert [config["student"]["network"]["hidden"] for config in configs] == [[5]] * 3
    assert record()["search"]["best"]["command"].endswith("--conf own")
    assert run(TEMPERATURE, "student=mine", n=3, conf_dirs=["own"]) == 0  # other configs: another search
    assert len(os.listdir("outputs/sweeps")) == 2


def test_a_combination_that_does_not_compose_is_a_failed_trial(world, monkeypatch):
    from kdrun.sweep.plan import SweepPlan

    add = SweepPlan.add
    monkeypatch.setattr(
        SweepPlan, "add", lambda plan, words: refuse(words) if len(plan.points) == 1 else add(plan, words)
    )

    def refuse(words):
        raise UserError("these two do not go together", "take one of them")

    assert run(TEMPERATURE, n=3) == 3
    assert [trial["state"] for trial in trials()] == ["complete", "failed", "complete"]
    assert trials()[1]["error"] == "these two do not go together; take one of them" and trials()[1]["run"] is None
    assert run(TEMPERATURE, n=4) == 3 and len(trials()) == 4


def test_json_is_the_record_and_nothing_else(world, capsys):
    assert run(TEMPERATURE, n=2, json=True, quiet=False) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["search"] == record()["search"] and "trial 0 complete" in err


def test_the_table_shows_every_trial_and_what_is_shared_with_the_teacher(world, capsys):
    assert run(TEMPERATURE, "trainer.optimizer.lr=interval(0.01,0.1)", n=2, quiet=False) == 0
    shown = capsys.readouterr().out
    assert "trainer.optimizer.lr is the teacher's too" in shown and "* " in shown and "2 complete" in shown
    assert all(trial["job_hash"][:8] in shown for trial in trials())


def test_without_optuna_the_line_to_type_is_told(world, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install optuna"):
        run(TEMPERATURE)


@pytest.mark.slow
def test_a_real_search_killed_between_trials_ends_with_exactly_its_trials(tmp_path):
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.objective=[accuracy,latency]",
             "trainer.optimizer.lr=tag(log,interval(0.01,0.3))", "student=mlp_16", "strategy=alone", "data=digits",
             "trainer.epochs=2", "seed=0", "tracker=none", "-q"]  # fmt: skip
    command = [sys.executable, "-m", "kdrun", *words]
    first = Forked(command, cwd=tmp_path)
    end = time.monotonic() + 120
    try:
        while not done(tmp_path):
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.05)
    finally:
        first.kill()
        first.wait()
    before = done(tmp_path)
    assert Forked(command, cwd=tmp_path).wait(120) == 0
    found = record(tmp_path / "outputs")["search"]
    assert len(found["trials"]) == 3 == len(os.listdir(tmp_path / "outputs/runs")) - 1  # and the folder's lock
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    assert found["trials"][: len(before)] == before and found["pareto"]


def done(folder):
    found = trials(folder / "outputs") if list((folder / "outputs/sweeps").glob("*/sweep.json")) else []
    return [trial for trial in found if trial["state"] == "complete"]
