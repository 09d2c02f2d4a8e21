"""What a search may look for: names that are declared, values that come from validation or cost, and the best of them."""

import os
import subprocess
import sys

import pytest

from kdrun import kinds
from kdrun.sweep.objectives import (
    DECLARED,
    Unmeasured,
    measure,
    read_objectives,
)
from kdrun.sweep.search_study import Study


@pytest.mark.parametrize(
    ("directions", "values", "best"),
    [
        (["minimize"], [[2], [1], [1]], [1, 2]),
        (["maximize", "minimize"], [[0.7, 5], [0.9, 9], [0.6, 6], [0.9, 8]], [3, 0]),
        (["minimize", "minimize"], [], []),
    ],
)
def test_the_best_trials_come_in_the_order_of_the_first_objective(directions, values, best):
    import optuna

    study = Study.__new__(Study)
    study._study, study._directions = optuna.create_study(directions=directions), directions
    study._study.add_trials([optuna.trial.create_trial(values=found) for found in values])
    assert study.best() == best


WRONG = """
import sys
from kdrun.problems import UserError
from kdrun.sweep.search import search
cases = {
    "acuracy": ["hydra.sweeper.objective=acuracy"],
    "test/accuracy": ["hydra.sweeper.objective=test/accuracy"],
    "test_accuracy": ["hydra.sweeper.objective=[accuracy,test_accuracy]"],
    "energy": ["hydra.sweeper.objective=energy", "energy.reader=none"],
    "twice": ["hydra.sweeper.objective=[loss,loss]"],
    "brackets": ["hydra.sweeper.objective=accuracy,loss"],
    "gain": ["hydra.sweeper.objective=gain", "strategy=alone,vanilla"],
    "median": ["hydra.sweeper.objective=[accuracy,latency]", "hydra.sweeper.pruner=median"],
    "median of cost": ["hydra.sweeper.objective=flops", "hydra.sweeper.pruner=median"],
    "direction": ["hydra.sweeper.direction=maximise"],
    "directions": ["hydra.sweeper.direction=[maximize,minimize]"],
    "n_trials": ["hydra.sweeper.n_trials=0"],
    "n_trails": ["hydra.sweeper.n_trails=5"],
    "n_jobs": ["hydra.sweeper.n_jobs=5"],
    "sampler": ["hydra.sweeper.sampler=nsga2"],
    "storage": ["hydra.sweeper.storage=mysql://host/db"],
    "launcher": ["hydra/launcher=ray"],
    "timeout": ["hydra.sweeper.timeout_minutes=-1"],
    "key": ["objective.kd.temprature=interval(1,2)"],
    "jobs": ["hydra.sweeper.objective=latency"],
    "nothing": [],
}
for name, words in cases.items():
    space = [] if name == "nothing" else ["objective.kd.temperature=interval(1,8)"]
    try:
        search(["hydra/sweeper=optuna", *space, *words], jobs=2 if name == "jobs" else 1)
        print(name, "|", "accepted")
    except UserError as error:
        print(name, "|", " / ".join(error.lines))
print(sorted({"torch", "optuna", "lightning"} & set(sys.modules)))
"""


def test_mistakes_are_told_before_anything_heavy_is_imported_or_written(tmp_path):
    result = subprocess.run([sys.executable, "-c", WRONG], cwd=tmp_path, capture_output=True, text=True)
    *lines, modules = result.stdout.splitlines()
    told = dict(line.split(" | ") for line in lines)
    assert modules == "[]" and os.listdir(tmp_path) == [] and not result.stderr
    telling = {
        "acuracy": "closest: accuracy", "test/accuracy": "choose nothing", "test_accuracy": "choose nothing",
        "energy": "joules will not be known", "twice": "twice", "brackets": "[accuracy,loss]",
        "gain": "strategy=alone", "median": "several objectives", "median of cost": "flops is not known",
        "direction": "closest: maximize", "directions": "1 needed", "n_trials": "at least 1",
        "n_trails": "closest: n_trials", "n_jobs": "jobs=N", "sampler": "tpe, random, nsgaii",
        "storage": "SQLite", "launcher": "on this machine", "timeout": "minutes", "key": "temperature",
        "jobs": "latency", "nothing": "something to search",
    }  # fmt: skip
    assert told.keys() == telling.keys()
    assert {name: text for name, text in told.items() if telling[name] not in text} == {}


def test_declared_validation_objectives_are_what_kinds_of_data_measure():
    declared = {o.name: o.direction for o in DECLARED.values() if o.kind == "validation" and o.name != "gain"}
    measured = {name: mode for domain in kinds.shipped().values() for name, mode in domain.metrics.items()}
    assert declared == {name: f"{mode}imize" for name, mode in measured.items()}


def stage(role, seed, accuracy, **more):
    val = {"best": {"accuracy": accuracy}, "last": {"accuracy": 0.0}}
    cost = {"seconds": 9.0, "training_seconds": 2.0 + seed}
    return {"label": f"{role}/seed={seed}", "role": role, "seed": seed, "val": val, "cost": cost, **more}


def test_values_are_means_over_seeds_of_validation_and_paired():
    stages = [stage("teacher", 0, 0.99), *(stage("student", s, 0.8 + s / 10, parameters=7, flops=None) for s in (0, 1))]
    finished = {"seeds": [0, 1], "stages": [*stages, stage("alone", 0, 0.5), stage("alone", 1, 0.8)]}
    names = ["accuracy", "gain", "parameters", "seconds"]
    assert measure(read_objectives(names), finished) == pytest.approx([0.85, 0.2, 7, 2.5])
    for number, one in enumerate(stages[1:]):
        one["cost"]["energy"] = {"joules": 3.0 + number, "estimate": True}
    assert measure(read_objectives(["energy"]), finished) == [3.5]
    stages[1]["cost"]["energy"] = None
    for names, reason in ((["flops"], "no flops"), (["top5"], "no val/top5"), (["energy"], "no energy")):
        with pytest.raises(Unmeasured, match=reason):
            measure(read_objectives(names), finished)
    with pytest.raises(Unmeasured, match="no student for seed 2"):
        measure(read_objectives(["accuracy"]), {**finished, "seeds": [0, 1, 2]})
    alone = {"seeds": [0], "stages": [stage("alone", 0, 0.5)]}
    assert measure(read_objectives(["accuracy"]), alone) == [0.5]
    with pytest.raises(Unmeasured, match="nan"):
        measure(read_objectives(["accuracy"]), {"seeds": [0], "stages": [stage("alone", 0, float("nan"))]})


def test_latency_is_measured_on_the_stored_student_which_stays_as_it_is(tmp_path):
    import torch

    from kdrun.domains.images.spec import DataSpec
    from kdrun.hardware.exports.load import open_network
    from kdrun.hardware.exports.measure import latency_of
    from kdrun.networks.build import build_network
    from kdrun.networks.weights import save_weights

    spec = DataSpec("d", ("a", "b"), (1, 8, 8), {}, (0.5,), (0.2,))
    node = {"_target_": "kdrun.networks.mlp.MLP", "hidden": [16]}
    network = build_network(node, spec, 3)
    save_weights(network, tmp_path / "best.safetensors", spec, node)
    loaded, spec, _ = open_network(tmp_path / "best.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    threads = torch.get_num_threads()
    found = latency_of(loaded.train(), spec.shape, "cpu", 2, 20)
    assert 0 < found["p50_ms"] <= found["p95_ms"] and found["repeats"] == 20
    assert loaded.training and torch.get_num_threads() == threads
    one = {**stage("student", 0, 0.5), "path": str(tmp_path)}
    config = {"hardware": {"device": "cpu", "threads": 1}, "student": {"network": node}, "data": {}}
    finished, known = {"seeds": [0], "stages": [one], "config": config}, {}
    first = measure(read_objectives(["latency"]), finished, known)
    one["path"] = str(tmp_path / "gone")
    assert first[0] > 0 and measure(read_objectives(["latency"]), finished, known) == first
    with pytest.raises(Unmeasured, match="no latency"):
        measure(read_objectives(["latency"]), finished)


def test_energy_says_estimate_where_no_sensor_can_be_read(monkeypatch):
    for sensors, title in (([], "energy, J, estimate"), (["rapl"], "energy, J")):
        monkeypatch.setattr("kdrun.ledger.reader.here", lambda found=sensors: found)
        assert read_objectives(["energy"])[0].title == title
