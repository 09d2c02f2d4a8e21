from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tracking.support import begin, feed, make_job

from kdrun.cli import main
from kdrun.files import write_json
from kdrun.tracking.registry import plan_run
from kdrun.verbs.status import last_row


@pytest.fixture
def outputs(tmp_path):
    """One run at work, one diverged, one interrupted, one planned, one failed and done later, and their sweeps."""
    student = {"name": "resnet8", "trainer": {"epochs": 9}}
    at_work = begin(tmp_path, make_job("1a" * 32, student=student))
    feed(at_work)
    diverged = begin(tmp_path, make_job("2b" * 32))
    diverged.fail(FloatingPointError("the loss is nan\nmore"))
    diverged.close()
    begin(tmp_path, make_job("3c" * 32)).close()
    plan_run(tmp_path, "digits", "4d" * 32).close()
    settled = begin(tmp_path, make_job("5e" * 32), fresh=True)
    settled.fail(ValueError("boom"))
    settled.close()
    done = begin(tmp_path, make_job("5e" * 32), fresh=True)
    done.finish()
    done.close()
    for number, runs in enumerate(([at_work.id, done.id], [diverged.id, done.id], [done.id], ["gone", None])):
        sweep = {
            "schema": 1,
            "id": f"lr-{number}",
            "kind": "grid",
            "updated": f"{number}",
            "command": f"kdrun -m lr={number}",
        }
        (tmp_path / f"sweeps/lr-{number}").mkdir(parents=True)
        write_json(tmp_path / f"sweeps/lr-{number}/sweep.json", sweep | {"points": [{"run": run} for run in runs]})
    yield tmp_path
    at_work.close()


def test_what_runs_what_stopped_and_how_to_go_on(outputs, capsys):
    assert main(["status", "--outputs", str(outputs)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "runs now"
    work = next(line for line in lines if line.startswith("digits-1a1a1a1a"))
    assert "student/seed=0 epoch 2 of 9, train/loss 0.3333" in work
    assert "planned, not started: 1" in lines
    again = "kdrun rerun digits-"
    assert f"digits-2b2b2b2b diverged FloatingPointError: the loss is nan {again}2b2b2b2b" in lines
    assert f"digits-3c3c3c3c interrupted its process was killed {again}3c3c3c3c" in lines
    assert not any("5e5e5e5e" in line for line in lines), "its job was done in another folder"
    assert "lr-0 done 1/2, running 1" in lines
    assert "lr-1 done 1/2, diverged 1 kdrun -m lr=1 --retry" in lines
    assert "lr-3 done 0/2, new 1, missing 1 kdrun -m lr=3" in lines
    assert "and 1 more" in lines
    assert lines[-1].startswith(f"store {outputs}/store: 0 bytes in 0 stages; ") and lines[-1].endswith(" free")


def test_json_has_all_of_it(outputs, capsys):
    assert main(["status", "--json", "--outputs", str(outputs)]) == 0
    found = json.loads(capsys.readouterr().out)
    (run,) = found["running"]
    assert run["stage"] == "student/seed=0" and run["epoch"] == 2 and run["epochs"] == 9 and run["elapsed"] > 0
    assert run["pid"] and run["value"] == {"train/loss": pytest.approx(1 / 3)} and run["finished"] is False
    assert {one["id"] for one in found["stopped"]} == {"digits-2b2b2b2b", "digits-3c3c3c3c"}
    assert found["planned"] == ["digits-4d4d4d4d"]
    assert [sweep["id"] for sweep in found["sweeps"]] == ["lr-3", "lr-2", "lr-1", "lr-0"]
    assert found["sweeps"][1]["command"] is None and found["store"]["free"] > 0


def test_every_seed_that_failed_is_a_reason(tmp_path, capsys):
    loss = {"status": "diverged", "type": "FloatingPointError", "message": "loss"}
    missing = {"3": loss, "4": {"status": "failed"}}
    run = begin(tmp_path)
    run.finish(
        "diverged", summary={"arms": {"student": {"missing": missing}, "alone": {"missing": {"4": missing["4"]}}}}
    )
    run.close()
    main(["status", "--json", "--outputs", str(tmp_path)])
    (one,) = json.loads(capsys.readouterr().out)["stopped"]
    assert one["reason"] == "seed 3: diverged FloatingPointError: loss; seed 4: failed"


def test_a_signal_and_a_broken_record(tmp_path, capsys):
    run = begin(tmp_path)
    run.fail(KeyboardInterrupt())
    run.close()
    (tmp_path / "runs" / "broken-00000000").mkdir()
    main(["status", "--json", "--outputs", str(tmp_path)])
    signal, broken = json.loads(capsys.readouterr().out)["stopped"]
    assert signal["reason"] == "stopped by a signal" and signal["status"] == "interrupted"
    assert broken["command"] is None and "has no record.json" in broken["reason"]


def test_a_search_has_the_trials_that_were_asked_for(outputs, capsys):
    path = outputs / "sweeps" / "lr-2" / "sweep.json"
    sweep = json.loads(path.read_text())
    write_json(path, sweep | {"search": {"n_trials": 3}})
    main(["status", "--outputs", str(outputs)])
    assert "lr-2   done 1/3, new 2" in capsys.readouterr().out


def test_the_last_row_of_a_file_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_text("")
    assert last_row(path) == {}
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert last_row(path) == {"step": 2}
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(20000)))
    assert last_row(path) == {"step": 19999}


def test_nothing_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "nothing runs now"
    assert main(["status", "now"]) == 2
    assert "does not take now" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "looking makes no folder"


def test_neither_torch_nor_hydra_is_imported(outputs):
    code = f"""
import sys
from kdrun.cli import main
main(["status", "--outputs", {str(outputs)!r}]), main(["runs", "sweep=last", "--outputs", {str(outputs)!r}])
heavy = {{"torch", "lightning", "torchmetrics", "wandb", "hydra", "omegaconf", "numpy", "optuna"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
