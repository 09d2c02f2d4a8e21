"""strategy.engine=flower from the usual command, in Flower's simulation: one run for all that is looked at here."""

import json
import os
import sys
from pathlib import Path

import pytest
from forked import run

pytest.importorskip("flwr")
pytest.importorskip("ray")

from kdrun.federation.flower import start
from kdrun.job.compose import compose
from kdrun.lab.fingerprint import fingerprint
from kdrun.lab.stages.federate import Federate
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.energy_gated import EnergyGated
from kdrun.strategies.federated import Baseline

WORDS = (
    "strategy=energy_gated", "model=clients_mixed", "tracker=none", "hardware=cpu", "hardware.threads=1", "seeds=1",
    "strategy.clients=3", "strategy.rounds=3", "strategy.controls=[]", "strategy.statistics=running",
    "strategy.faults={flip: {0: 0.4}, drop: {1: [1]}, nan: [2]}", "card=false", "paths.cache=cache",
)  # fmt: skip
LOOK = """
import sys
from kdrun.cli import main
code = main(sys.argv[1:])
assert not {"flwr", "ray"} & {name.partition(".")[0] for name in sys.modules}, "imported for nothing"
sys.exit(code)
"""


def ran(folder: Path, *words: str):
    """One command in a folder of its own, whose home is that folder, too."""
    folder.mkdir()
    environment = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = run([sys.executable, *words, *WORDS], folder=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (folder / "outputs" / "runs").glob("*/record.json")
    (stage,) = (folder / "outputs" / "store" / "stages").glob("??/*/record.json")
    return done, json.loads(record.read_text()), stage.parent


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same federation in one process and in Flower's simulation: (command, run record, stage folder) of each."""
    folder = tmp_path_factory.mktemp("flower")
    (folder / "look.py").write_text(LOOK)
    here = ran(folder / "here", str(folder / "look.py"), "strategy.engine=in_process")
    return here, ran(folder / "flower", "-m", "kdrun", "strategy.engine=flower")


def told(folder: Path):
    """The stage's record without clocks."""
    record = json.loads((folder / "record.json").read_text())
    for client in record["clients"]:
        client.pop("seconds"), client.pop("energy", None)
    return {name: value for name, value in record.items() if name not in ("cost", "created")}


@pytest.mark.slow
def test_the_simulation_ends_with_the_same_bits(both):
    (_, _, here), (_, _, flower) = both
    assert here.name == flower.name, "the engine is no part of the fingerprint"
    assert told(here) == told(flower)
    assert [row["came"] for row in told(flower)["rounds"]] == [2, 1, 2]
    files = sorted(path.name for path in here.iterdir() if path.suffix in (".safetensors", ".jsonl"))
    assert len(files) == 3 * 2 + 2 + 1
    for name in files:
        assert (here / name).read_bytes() == (flower / name).read_bytes(), name


@pytest.mark.slow
def test_the_record_says_what_is_known(both):
    (_, here, _), (_, flower, stage) = both
    assert flower["config"]["strategy"]["engine"] == "flower"
    scores = [record["summary"]["arms"]["student"]["best"]["mean"] for record in (here, flower)]
    assert scores[0] == scores[1] > 0.5
    assert json.loads((stage / "record.json").read_text())["cost"]["cpu_seconds"] is None  # it is other processes'


@pytest.mark.slow
def test_what_flower_says_is_in_the_log_and_nothing_is_left_behind(both):
    (_, _, _), (done, _, stage) = both
    assert done.stderr == ""
    assert "3 clients" in done.stdout and "gated" in done.stdout
    for word in ("flwr", "DEPRECATED", "INFO", "ray::", "raylet"):
        assert word not in done.stdout
    folder = stage.parents[4]
    (log,) = (folder / "outputs" / "runs").glob("*/run.log")
    assert "run_simulation" in log.read_text()
    assert not (folder / ".flwr").exists()
    assert not list((folder / "outputs" / "store").glob("unfinished/*"))


@pytest.fixture
def cast():
    return Cast(compose([*WORDS[:4], "seed=0", "strategy.engine=flower"]).cells[0])


def test_without_flower_it_is_said_before_anything_is_trained(cast, monkeypatch, tmp_path, capsys):
    from kdrun.cli import main

    monkeypatch.setattr(start, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        EnergyGated(engine="flower").check(cast)
    assert error.value.lines == ["strategy.engine=flower needs flwr and ray", "pip install 'flwr[simulation]'"]
    with pytest.raises(UserError, match="needs flwr\n"):
        EnergyGated(engine="flower", superlink="127.0.0.1:8000").check(cast)
    EnergyGated().check(cast)
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "strategy.engine=flower"]) == 2
    assert "pip install 'flwr[simulation]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("outputs/store/*/*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "flowr"}, "strategy.engine=flowr; closest: flower"),
        ({"superlink": "localhost:8000"}, "superlink=localhost:8000 is of strategy.engine=flower"),
        ({"engine": "flower", "timeout": 0}, "strategy.timeout=0"),
        ({"clip_norm": 0}, "strategy.clip_norm=0"),
        ({"clip_norm": float("inf")}, "strategy.clip_norm=inf"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Baseline(**options)


def test_the_engine_is_asked_for_beside_what_decides(cast):
    strategies = (Baseline(engine="flower", superlink="10.0.0.1:9092", timeout=5), Baseline(), Baseline(clip_norm=2.5))
    asked = [strategy.federate(cast, "student", "fedavg", {}).federation for strategy in strategies]
    engine = asked[0].pop("engine")
    assert engine == {"name": "flower", "superlink": "10.0.0.1:9092", "timeout": 5, "paths": engine["paths"]}
    assert set(engine["paths"]) == {"cache"} and asked[0] == asked[1]
    assert asked[2]["aggregation"] == {**asked[1]["aggregation"], "clip_norm": 2.5}


def test_what_happened_to_machines_makes_another_result():
    tree, stage = {"seed": 0}, Federate("student", {}, {}, {}, {}, {}, 0)
    assert stage.parts_after(tree, {}) == tree
    assert fingerprint(stage.parts_after(tree, {"incidents": [[1, 2, "no answer"]]})) != fingerprint(tree)


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    before = dict(os.environ)
    with start.environment({**start.QUIET, "FLWR_HOME": "x"}):
        os.environ["PYTHONPATH"] = "changed"
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == "1" and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert dict(os.environ) == before
