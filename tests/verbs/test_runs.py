from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from tracking.support import SUMMARY, begin, feed, make_job

from kdrun.cli import main
from kdrun.present.results import percent, seeds_text
from kdrun.present.units import age, duration, share
from kdrun.tracking.overview import overview
from kdrun.tracking.registry import list_runs
from kdrun.verbs.runs import columns


@pytest.fixture
def outputs(tmp_path):
    """A finished run, a failed one and a broken record."""
    done = begin(tmp_path, make_job("1a" * 32))
    feed(done)
    done.finish(summary=SUMMARY)
    done.close()
    with pytest.raises(ValueError), begin(tmp_path, make_job("2b" * 32)):
        raise ValueError("boom")
    broken = tmp_path / "runs" / "broken-00000000"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    return tmp_path


def test_the_table_in_a_pipe_is_plain_whole_and_newest_first(outputs, capsys):
    assert main(["runs", "--outputs", str(outputs)]) == 0
    out, err = capsys.readouterr()
    header, failed, done, broken = out.splitlines()
    assert header.split() == [
        "run",
        "status",
        "strategy",
        "networks",
        "overrides",
        "data",
        "seeds",
        "result",
        "gap",
        "closed",
        "duration",
        "age",
    ]
    assert failed.startswith("digits-2b2b2b2b  failed") and "n/a" in failed
    assert "resnet20 -> resnet8" in done and "93.00 ± 0.50 %" in done and "43 %" in done and "0,1" in done
    assert broken.startswith("broken-00000000  broken")
    assert "broken-00000000" in err and "\x1b" not in out


def test_json_has_everything_and_null_for_what_is_not_known(outputs, capsys):
    assert main(["runs", f"paths.outputs={outputs}", "--json"]) == 0
    failed, done, broken = json.loads(capsys.readouterr().out)
    assert done["result"]["best"] == {"mean": 0.93, "sd": 0.005} and done["gap_closed"] == 0.43
    assert failed["result"] == {"best": None, "last": None} and failed["error"]["type"] == "ValueError"
    assert broken["status"] == "broken" and "record.json" in broken["problem"]


def test_no_runs_is_no_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "no runs in outputs/runs" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    assert capsys.readouterr().out.strip() == "[]"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_shows_every_run(outputs, width):
    """P59: a pseudo-terminal, lines intact."""
    import os
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    code = f"from kdrun.cli import main; main(['runs', '--outputs', {str(outputs)!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    text = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        text += piece
    process.wait()
    import re

    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r", "").splitlines()
    table = [line for line in lines if not line.startswith("broken record")]
    assert max(len(line.rstrip()) for line in table[:6]) <= width
    joined = "".join(line.split()[0] if line.split() else "" for line in table)
    assert "digits-1a1a1a1a" in joined and "interrupted" not in joined


@pytest.fixture
def many(tmp_path):
    """done (three weeks old, alone, lr 0.0001), diverged (two hours old, lr 0.5, a sweep's), planned, interrupted."""
    from kdrun.files import write_json
    from kdrun.tracking.registry import plan_run

    alone = make_job("1a" * 32, strategy={"_target_": "kdrun.strategies.alone.Alone"}, tags={"paper": False})
    alone.choices = {"strategy": "alone", "data": "digits", "trainer": "quick"}
    done = begin(tmp_path, alone)
    done.finish(created=(datetime.now(UTC) - timedelta(weeks=3)).isoformat())
    done.close()
    trainer = {"epochs": 5, "optimizer": {"lr": 0.5, "betas": [0.9, 0.99]}, "ema": None}
    job = make_job("2b" * 32, seeds=(3, 7), trainer=trainer, teacher={"name": "mine", "seed": 3}, name="ladder")
    job.cells[1]["teacher"] = {"name": "mine", "seed": 7}
    job.choices["teacher"] = "resnet20"
    diverged = begin(tmp_path, job)
    diverged.fail(FloatingPointError("the loss is nan"))
    diverged.update(created=(datetime.now(UTC) - timedelta(hours=2)).isoformat())
    diverged.close()
    plan_run(tmp_path, "later", "3c" * 32).close()
    begin(tmp_path, make_job("4d" * 32)).close()
    sweep = {"schema": 1, "id": "lr-12345678", "kind": "grid", "updated": "2026-01-01T00:00:00.000Z"}
    (tmp_path / "sweeps/lr-12345678").mkdir(parents=True)
    write_json(tmp_path / "sweeps/lr-12345678/sweep.json", sweep | {"points": [{"run": diverged.id}, {"run": None}]})
    return tmp_path


def found(outputs, capsys, *filters):
    """The first letters of the hashes of the runs that fit."""
    assert main(["runs", *filters, "--outputs", str(outputs), "--json"]) == 0
    return "".join(sorted(run["id"].rpartition("-")[2][0] for run in json.loads(capsys.readouterr().out)))


@pytest.mark.parametrize(
    ("filters", "fitting"),
    [
        ("", "1234"),
        ("status=failed", "2"),
        ("status=diverged", "2"),
        ("status=done,planned", "13"),
        ("status=out_of_memory", ""),
        ("since=12h", "234"),
        ("since=1d before=1h", "2"),
        ("before=2d", "1"),
        ("since=2020-01-01", "1234"),
        ("before=2020-01-01T12:00", ""),
        ("strategy=alone", "1"),
        ("strategy=alone,van*", "124"),
        ("teacher=resnet20", "24"),
        ("teacher=mine", "2"),
        ("student=resnet?", "124"),
        ("data=digits status=interrupted", "4"),
        ("name=ladder", "2"),
        ("name=later-*", "3"),
        ("seed=7", "2"),
        ("seed=0,3", "124"),
        ("sweep=lr", "2"),
        ("sweep=last", "2"),
        ("tag=paper", "24"),
        ("trainer=quick", "1"),
        ("trainer.epochs=5", "2"),
        ("trainer.optimizer.lr=0.50,1", "2"),
        ("trainer.optimizer.lr=1e-4", "14"),
        ("trainer.optimizer.betas=[0.9,0.99]", "2"),
        ("trainer.ema=null", "2"),
        ("teacher.seed=7", "2"),
        ("trainer.epochs=5 seed=3 status=done", ""),
    ],
)
def test_filters(many, capsys, filters, fitting):
    assert found(many, capsys, *filters.split()) == fitting


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("status=fail", "closest: failed"),
        ("since=2m", "since=30min, 12h, 2d, 3w or 2026-01-31"),
        ("since=99999999999w", "not a time"),
        ("trainer.epoch=5", "closest: trainer.epochs"),
        ("strateg=alone", "closest: strategy"),
        ("strategy=", "no value"),
        ("sweep=nothing", "no sweep 'nothing'"),
        ("failed", "meant: status=failed"),
        ("digits", "'digits' is not KEY=VALUE"),
        ("~seed", "not KEY=VALUE"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(many, capsys, word, says):
    assert main(["runs", word, "--outputs", str(many)]) == 2
    assert says in capsys.readouterr().err


def test_that_no_run_fits_is_said(many, capsys):
    assert main(["runs", "strategy=cascaded", "status=failed", "--outputs", str(many)]) == 0
    assert "no run fits strategy=cascaded status=failed (4 in " in capsys.readouterr().out


def test_seeds_that_are_missing_show_in_the_table(tmp_path, capsys):
    run = begin(tmp_path)
    arm = {"label": "distilled", "n": 4, "of": 5, "best": {"mean": 0.93, "sd": 0.01}}
    run.finish("failed", summary={"metric": "accuracy", "arms": {"student": arm}}, seeds=[0, 1, 2, 3, 4])
    run.close()
    main(["runs", "--outputs", str(tmp_path)])
    assert "0-4 (4 of 5)" in capsys.readouterr().out


def test_neither_torch_nor_hydra_is_imported(outputs):
    code = f"""
import sys
from kdrun.cli import main
main(["runs", "--outputs", {str(outputs)!r}]), main(["show", "digits-1a", "--outputs", {str(outputs)!r}])
heavy = {{"torch", "lightning", "torchmetrics", "wandb", "hydra", "omegaconf", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_alone_run_names_no_teacher(tmp_path):
    job = make_job()
    job.choices["strategy"] = "alone"
    run = begin(tmp_path, job)
    run.finish()
    run.close()
    assert columns(overview(list_runs(tmp_path)[0]))["networks"] == "resnet8"


def test_texts():
    assert [duration(value) for value in (None, 8.24, 185, 7800, 360000)] == [
        "n/a",
        "8.2 s",
        "3 min 5 s",
        "2 h 10 min",
        "4 d 4 h",
    ]
    moment = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert [age(text, moment) for text in ("2026-01-02T11:59:30.000Z", "2026-01-01T12:00:00.000Z", None)] == [
        "30 s ago",
        "1 d ago",
        "n/a",
    ]
    assert [seeds_text(seeds) for seeds in ([0, 1, 2], [3, 7], [5], [])] == ["0-2", "3,7", "5", "n/a"]
    assert [
        percent(value) for value in (None, 0.5, {"mean": 0.5, "sd": None}, {"mean": None, "sd": 1}, float("nan"))
    ] == [
        "n/a",
        "50.00 %",
        "50.00 %",
        "n/a",
        "nan %",
    ]
    assert percent(0.25, "loss") == "0.2500"
    assert (share(None), share(-0.1), share(0)) == ("n/a", "-10 %", "0 %")
