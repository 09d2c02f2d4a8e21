from __future__ import annotations

import json
import os
import stat
import sys

import pytest
from tracking.support import TRACKER, begin, feed, make_job

from kdrun.tracking.mirror import start_mirror
from kdrun.tracking.registry import read_run
from kdrun.tracking.sync import FAILED, NOTHING, SENT, SKIPPED, pending, sync_run, wandb_command

FAKE_COMMAND = """#!{python}
import json, os, sys
from pathlib import Path
with open({calls!r}, "a") as file:
    stdin = os.read(0, 10).decode()
    file.write(json.dumps({{"arguments": sys.argv[1:], "stdin": stdin, "mode": os.environ.get("WANDB_MODE")}}) + "\\n")
if Path({down!r}).exists():
    print("wandb: ERROR network is down")
    sys.exit(int(Path({down!r}).read_text()))
for folder in sys.argv[2:]:
    for path in Path(folder).glob("*.wandb"):
        path.with_name(path.name + ".synced").touch()
"""


@pytest.fixture
def wandb_on_path(tmp_path, monkeypatch):
    """A `wandb` command. Returns (calls so far, set the exit status of an outage or None)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls, down = tmp_path / "sync_calls.jsonl", tmp_path / "down"
    command = folder / "wandb"
    command.write_text(FAKE_COMMAND.format(python=sys.executable, calls=str(calls), down=str(down)))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def outage(status):
        down.unlink() if status is None else down.write_text(str(status))

    return lambda: [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else [], outage


def offline_run(outputs, letters="ab", folders=1, finished=True):
    """A run as a mirror leaves it, without the work of a mirror."""
    run = begin(outputs, make_job(letters * 32))
    (run.dir / "tracking").mkdir()
    settings = {"mode": "offline", "id": letters * 8, "timeout": 5.0, "name": "n", "project": "p", "entity": None}
    (run.dir / "tracking/mirror.json").write_text(json.dumps({**settings, "group": None, "tags": []}))
    if finished:
        state = {"finished": True, "mode": "offline", "attempt": 1, "exit_code": 0}
        (run.dir / "tracking/state.json").write_text(json.dumps(state))
    for number in range(folders):
        folder = run.dir / "wandb" / f"offline-run-2026010{number + 1}_000000-{letters * 8}"
        folder.mkdir(parents=True)
        (folder / f"run-{letters * 8}.wandb").touch()
    run.finish()
    run.close()
    return read_run(run.dir)


def test_a_repeated_sync_does_nothing(tmp_path, wandb_on_path):
    """P47."""
    calls, _ = wandb_on_path
    run = offline_run(tmp_path / "out", folders=2)
    outcome = sync_run(run)
    assert (outcome.status, outcome.folders, outcome.problem) == (SENT, 2, None)
    (call,) = calls()
    assert call["arguments"][0] == "sync" and call["stdin"] == ""
    assert [name[-35:-17] for name in call["arguments"][1:]] == sorted(name[-35:-17] for name in call["arguments"][1:])
    assert sync_run(run).status == NOTHING
    assert len(calls()) == 1


def test_what_was_sent_is_known_without_wandbs_marker_too(tmp_path, wandb_on_path):
    run = offline_run(tmp_path / "out")
    sync_run(run)
    for marker in run.dir.rglob("*.synced"):
        marker.unlink()
    assert sync_run(run).status == NOTHING and len(wandb_on_path[0]()) == 1


def test_a_failure_is_reported_and_the_next_sync_sends(tmp_path, wandb_on_path):
    calls, outage = wandb_on_path
    run = offline_run(tmp_path / "out")
    outage(1)
    outcome = sync_run(run)
    assert outcome.status == FAILED and "network is down" in outcome.problem
    assert "network is down" in (run.dir / "tracking/sync.log").read_text()
    outage(None)
    assert sync_run(run).status == SENT and len(calls()) == 2


def test_status_0_without_a_marker_is_not_believed(tmp_path, wandb_on_path):
    wandb_on_path[1](0)
    outcome = sync_run(offline_run(tmp_path / "out"))
    assert outcome.status == FAILED and "left 1 of 1" in outcome.problem


def test_a_session_that_is_offline_still_sends_when_asked(tmp_path, wandb_on_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    sync_run(offline_run(tmp_path / "out"))
    assert wandb_on_path[0]()[0]["mode"] is None


def test_only_what_came_after_the_last_sync_is_sent(tmp_path, wandb_on_path):
    run = offline_run(tmp_path / "out")
    sync_run(run)
    later = run.dir / "wandb" / "offline-run-20270101_000000-abababababababab"
    later.mkdir()
    (later / "run-abababababababab.wandb").touch()
    assert pending(run.dir) == [later]
    assert sync_run(run).status == SENT
    assert wandb_on_path[0]()[1]["arguments"] == ["sync", str(later)]


def test_runs_without_tracker_running_or_broken(tmp_path, wandb_on_path):
    untracked = begin(tmp_path / "out", make_job("cd" * 32))
    assert sync_run(read_run(untracked.dir)).status == NOTHING
    (untracked.dir / "tracking").mkdir()
    (untracked.dir / "tracking/mirror.json").write_text("{}")
    assert sync_run(read_run(untracked.dir)).status == SKIPPED
    untracked.close()
    (untracked.dir / "record.json").write_text("{")
    assert sync_run(read_run(untracked.dir)).status == FAILED
    assert wandb_on_path[0]() == []


def test_what_a_hanging_mirror_never_wrote_is_sent_later(tmp_path, fake_wandb, wandb_on_path):
    """P102. Nothing of the run is at W&B nor in an offline folder: it is written from the record."""
    behave, calls = fake_wandb
    behave("hang at init")
    run = begin(tmp_path / "out")
    mirror = start_mirror(run, {**TRACKER, "timeout": 0.5})
    feed(run)
    run.finish(summary={"teacher": {"best": 0.5}})
    run.close()
    assert "kdrun sync" in mirror.finish()
    behave("log")
    sync_run(read_run(run.dir))
    assert [row["log"]["student/seed=0/step"] for row in calls() if "log" in row] == [0, 1, 2]
    assert calls()[-1]["finish"] == 0 and calls()[-1]["summary"]["teacher/best"] == 0.5
    sync_run(read_run(run.dir))
    assert len([row for row in calls() if "log" in row]) == 3, "a second sync writes nothing again"


def test_a_replay_that_fails_is_reported(tmp_path, fake_wandb, wandb_on_path):
    fake_wandb[0]("raise")
    outcome = sync_run(offline_run(tmp_path / "out", finished=False))
    assert outcome.status == FAILED and "no W&B today" in outcome.problem


def test_an_online_run_that_was_cut_off_is_sent_from_its_folder(tmp_path, wandb_on_path):
    run = offline_run(tmp_path / "out", folders=0)
    folder = run.dir / "wandb" / "run-20260101_000000-abababababababab"
    folder.mkdir(parents=True)
    (folder / "run-abababababababab.wandb").touch()
    (run.dir / "wandb" / "latest-run").symlink_to(folder)
    assert sync_run(run).status == SENT
    assert wandb_on_path[0]()[0]["arguments"] == ["sync", "--include-online", str(folder)]


def test_an_online_run_that_ended_well_has_nothing_to_send(tmp_path, fake_wandb, wandb_on_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    run = begin(tmp_path / "out")
    mirror = start_mirror(run, {**TRACKER, "mode": "online"})
    (run.dir / "wandb" / "run-20260101_000000-abababababababab").mkdir(parents=True)
    run.finish()
    run.close()
    assert mirror.finish() is None
    assert sync_run(read_run(run.dir)).status == NOTHING and wandb_on_path[0]() == []


def test_the_command_on_path_is_preferred_else_that_beside_python(tmp_path, wandb_on_path, monkeypatch):
    assert wandb_command() == [str(tmp_path / "bin" / "wandb")]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wandb_command() in (
        [os.path.join(os.path.dirname(sys.executable), "wandb")],
        [sys.executable, "-P", "-m", "wandb"],
    )
