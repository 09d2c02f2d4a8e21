from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from tracking.support import SUMMARY, begin, feed, make_job

from kdrun.cli import main
from kdrun.tracking.registry import list_runs
from kdrun.verbs.runs import age, columns, duration, overview, percent, seeds_text, share


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
