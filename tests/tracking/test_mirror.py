from __future__ import annotations

import json
import os
import signal
import time

import pytest
from tracking.support import TRACKER, alive, begin, feed, make_job, processes_with, python, wait_for

from kdrun.files import read_json
from kdrun.problems import UserError
from kdrun.report.push import Cursor, Tail
from kdrun.tracking import mirror as mirror_module
from kdrun.tracking.mirror import mirror_settings, read_state, send_command, start_mirror, upload_notice


def finished(run, status="done", **fields):
    run.finish(status, **fields)
    run.close()


def logged(calls):
    return [call["log"] for call in calls if "log" in call]


def test_a_whole_run_reaches_wandb_in_order(tmp_path, fake_wandb):
    _, calls = fake_wandb
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    feed(run, "teacher/seed=0")
    feed(run)
    summary = {"teacher": {"best": 0.9, "flops": None}, "gap_closed": {"best": float("nan")}}
    finished(run, summary=summary)
    assert mirror.finish() is None and mirror.finish() is None
    first, *rest = calls()
    assert first["init"]["id"] == "ab" * 8 and first["init"]["resume"] == "allow" and first["init"]["mode"] == "offline"
    assert first["init"]["config"]["trainer.optimizer.lr"] == 1e-4 and first["init"]["config"]["seeds"] == [0, 1]
    assert first["init"]["tags"] == ["owner=me", "paper"]
    assert {"define": "teacher/seed=0/*", "step": "teacher/seed=0/step"} in rest
    assert [row["student/seed=0/step"] for row in logged(rest)[3:]] == [0, 1, 2]
    assert logged(rest)[1] == {"teacher/seed=0/step": 1, "teacher/seed=0/epoch": 0, "teacher/seed=0/train/loss": 0.5}
    assert rest[-1]["finish"] == 0
    assert rest[-1]["summary"]["teacher/best"] == 0.9 and rest[-1]["summary"]["status"] == "done"
    assert "teacher/flops" not in rest[-1]["summary"], "missing is left out, not 0"
    assert read_state(run.dir)["rows"] == 6


def test_it_reads_nothing_from_the_terminal_and_stands_in_the_run_folder(tmp_path, fake_wandb):
    """P49."""
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    finished(run)
    mirror.finish()
    started = fake_wandb[1]()[0]
    assert started["stdin"] == "" and started["cwd"] == str(run.dir / "tracking")


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_the_exit_code_tells_how_it_ended(tmp_path, fake_wandb, status):
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    finished(run, status)
    assert mirror.finish() is None
    last = fake_wandb[1]()[-1]
    assert last["finish"] == 1 and last["summary"]["status"] == status


@pytest.mark.parametrize("behaviour", ["hang at import", "hang at init", "hang at finish"])
def test_a_tracker_that_hangs_costs_the_timeout_once_and_is_said_loudly(tmp_path, fake_wandb, behaviour):
    """P102."""
    fake_wandb[0](behaviour)
    run = begin(tmp_path)
    started = time.monotonic()
    mirror = start_mirror(run, {**TRACKER, "timeout": 0.6})
    feed(run)
    finished(run)
    assert time.monotonic() - started < 5.0, "the run itself never waits"
    notice = mirror.finish()
    assert time.monotonic() - started < 10.0
    assert "did not answer in 0.6 s" in notice and f"kdrun sync {run.id}" in notice and str(run.dir) in notice
    assert "\n" not in notice and mirror.finish() == notice
    assert not alive(mirror.process.pid)
    assert mirror.describe() == "not sent completely"


@pytest.mark.parametrize("behaviour", ["raise", "exit"])
def test_a_tracker_that_dies_is_noticed_at_the_end_only(tmp_path, fake_wandb, behaviour):
    fake_wandb[0](behaviour)
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    mirror.process.wait(10)
    feed(run)
    finished(run)
    assert "W&B failed" in mirror.finish()
    if behaviour == "raise":
        assert "no W&B today" in (run.dir / "tracking/mirror.log").read_text()
        assert "no W&B today" in read_state(run.dir)["problem"]


def test_a_mirror_that_cannot_be_started_is_a_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_module.sys, "executable", str(tmp_path / "absent"))
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    finished(run)
    assert "could not be started" in mirror.finish()


def test_no_server_turns_online_into_offline(tmp_path, fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    fake_wandb[0]("offline only")
    run = begin(tmp_path)
    mirror = start_mirror(run, {**TRACKER, "mode": "auto"})
    finished(run)
    assert mirror.finish() is None
    assert [call["init"]["mode"] for call in fake_wandb[1]() if "init" in call] == ["online", "offline"]
    assert read_state(run.dir)["mode"] == "offline" and mirror.describe() == "offline, not sent"
    assert send_command(run.dir) == f"kdrun sync {run.id}"


def test_an_online_run_is_described_by_its_address(tmp_path, fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    run = begin(tmp_path)
    mirror = start_mirror(run, {**TRACKER, "mode": "online"})
    finished(run)
    assert mirror.finish() is None and mirror.describe() == "https://wandb.test/run"


def test_no_tracker_and_no_key(tmp_path, monkeypatch):
    run = begin(tmp_path)
    assert start_mirror(run, {"name": "none"}) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start_mirror(run, {**TRACKER, "mode": "auto"}) is None
    with pytest.raises(UserError, match="wandb login"):
        start_mirror(run, {**TRACKER, "mode": "online"})
    assert not (run.dir / "tracking").exists()
    run.close()


RUN_UNTIL_KILLED = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    from pathlib import Path
    from tracking.support import TRACKER, begin, feed
    from kdrun.tracking.mirror import start_mirror
    run = begin(Path(sys.argv[1]))
    mirror = start_mirror(run, {**TRACKER, "timeout": 2.0})
    feed(run)
    print(run.dir, mirror.process.pid, flush=True)
    time.sleep(1000)
"""


def test_a_killed_run_is_ended_at_wandb_as_failed(tmp_path, fake_wandb):
    parent = python(RUN_UNTIL_KILLED, tmp_path)
    _, pid = parent.stdout.readline().split()
    wait_for(lambda: len(logged(fake_wandb[1]())) == 3)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: not alive(int(pid)), 10)
    last = fake_wandb[1]()[-1]
    assert last["finish"] == 1 and last["summary"]["status"] == "interrupted"


def test_a_killed_run_is_noticed_although_its_worker_lives_on(tmp_path, fake_wandb):
    """The worker keeps the pipe open: only the change of the parent tells."""
    code = RUN_UNTIL_KILLED.replace(
        "    time.sleep", "    if os.fork() == 0:\n        print(os.getpid(), flush=True)\n    time.sleep"
    )
    parent = python("    import os" + code, tmp_path)
    _, pid = parent.stdout.readline().split()
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    try:
        wait_for(lambda: not alive(int(pid)), 10)
        assert fake_wandb[1]()[-1]["finish"] == 1 and alive(worker)
    finally:
        os.kill(worker, signal.SIGKILL)
        parent.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_stays_behind_a_dead_run(tmp_path, fake_wandb, how):
    """P60. The tracker hangs, and nobody is there any more to end it."""
    fake_wandb[0]("hang at init")
    parent = python(RUN_UNTIL_KILLED, tmp_path, start_new_session=True)
    folder, pid = parent.stdout.readline().split()
    wait_for(lambda: fake_wandb[1]())
    os.killpg(parent.pid, how)
    parent.communicate()
    wait_for(lambda: not alive(int(pid)), 10)
    assert processes_with(folder) == []


def test_ctrl_c_in_the_terminal_does_not_reach_the_mirror(tmp_path, fake_wandb):
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    assert os.getpgid(mirror.process.pid) == mirror.process.pid != os.getpgid(0)
    wait_for(lambda: fake_wandb[1]())
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(mirror.process.pid, signal_number)
    feed(run)
    finished(run)
    assert mirror.finish() is None and len(logged(fake_wandb[1]())) == 3


def test_a_worker_that_outlives_the_run_does_not_hide_its_end(tmp_path, fake_wandb):
    """A forked worker holds a copy of the pipe, so its closing alone would not be seen."""
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    try:
        finished(run)
        assert mirror.finish(10) is None
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_continued_attempt_sends_only_what_is_new_under_the_same_id(tmp_path, fake_wandb):
    for status, steps in (("failed", range(4)), ("done", range(2, 6))):
        run = begin(tmp_path)
        mirror = start_mirror(run, TRACKER)
        feed(run, steps=range(2)) if status == "done" else None  # what the store brings back
        feed(run, steps=steps)
        run.metrics.write("student/seed=0", 3, 1, {"val/accuracy": 0.5}) if status == "done" else None
        finished(run, status)
        assert mirror.finish() is None
    calls = fake_wandb[1]()
    assert [call["init"]["id"] for call in calls if "init" in call] == ["ab" * 8] * 2
    steps = [row["student/seed=0/step"] for row in logged(calls) if "student/seed=0/train/loss" in row]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert [row["student/seed=0/step"] for row in logged(calls) if "student/seed=0/val/accuracy" in row] == [3]


def test_two_folders_of_one_job_are_two_wandb_runs(tmp_path):
    settings = []
    for _ in range(2):
        run = begin(tmp_path)
        settings.append(mirror_settings(run.dir, run.record, TRACKER, "offline"))
        finished(run)
    assert [one["id"] for one in settings] == ["ab" * 8, "ab" * 8 + "-2"]


def test_jobs_of_one_process_are_separate_runs_also_when_one_fails(tmp_path, fake_wandb):
    """P42, P96."""
    mirrors = []
    for number, status in enumerate(("done", "failed", "interrupted")):
        run = begin(tmp_path, make_job(f"{number}f" * 32))
        mirrors.append(start_mirror(run, TRACKER))
        feed(run, f"student/seed={number}")
        finished(run, status)
        mirrors[-1].end()
    assert [mirror.finish() for mirror in mirrors] == [None] * 3
    calls = fake_wandb[1]()
    assert len({call["init"]["id"] for call in calls if "init" in call}) == 3
    assert sorted(call["finish"] for call in calls if "finish" in call) == [0, 1, 1]
    assert len(logged(calls)) == 9


def test_the_training_process_imports_no_wandb(tmp_path, fake_wandb):
    """P41: ranks and seeds of one job are one run, because only the mirror of that job ever imports wandb."""
    process = python(
        """
        import sys
        from pathlib import Path
        from tracking.support import TRACKER, begin, feed
        from kdrun.tracking.mirror import start_mirror
        import kdrun.tracking.credentials, kdrun.report.push, kdrun.tracking.sync
        run = begin(Path(sys.argv[1]))
        mirror = start_mirror(run, TRACKER)
        feed(run), run.finish(), run.close()
        assert mirror.finish() is None
        print(sorted({"wandb", "torch", "lightning", "hydra"} & set(sys.modules)))
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=60)
    assert out == "[]\n", err


def test_rows_are_counted_as_sent_only_after_a_while(tmp_path):
    (tmp_path / "tracking").mkdir()
    cursor = Cursor(tmp_path, "id")
    row = {"stage": "s", "step": 4, "loss": 1.0, "gone": None}
    assert cursor.unsent(row) == {"loss": 1.0}
    cursor.sent(row, {"loss": 1.0})
    cursor.save(sure=False)
    assert Cursor(tmp_path, "id").unsent(row) == {"loss": 1.0}
    cursor.save(sure=True)
    assert Cursor(tmp_path, "id").unsent(row) == {}
    assert Cursor(tmp_path, "id").unsent({**row, "step": 5}) == {"loss": 1.0}
    assert Cursor(tmp_path, "other").unsent(row) == {"loss": 1.0}


def test_tail_waits_for_whole_lines(tmp_path):
    path = tmp_path / "m"
    tail = Tail(path)
    assert tail.read() == []
    line = json.dumps({"stage": "s", "step": 1, "x": "nan"})
    path.write_text(line + "\n" + line[:9])
    (row,) = tail.read()
    assert row["x"] != row["x"]
    with open(path, "a") as file:
        file.write(line[9:] + "\n")
    assert len(tail.read()) == 1 and tail.read() == []


def test_settings_are_written_without_folders_or_keys(tmp_path, fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 8)
    run = begin(tmp_path)
    mirror = start_mirror(run, {**TRACKER, "mode": "online"})
    finished(run)
    mirror.finish()
    text = (run.dir / "tracking/mirror.json").read_text()
    assert "secret" not in text and str(tmp_path) not in text
    assert read_json(run.dir / "tracking/mirror.json")["project"] == "kdrun-test"


def test_the_first_upload_that_nobody_asked_for_is_told_once(tmp_path, monkeypatch):
    from kdrun.files import write_json

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    asked = {"name": "wandb", "project": "mine", "mode": "auto"}
    assert upload_notice(tmp_path, asked) == [], "without a key nothing is sent"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    told = "\n".join(upload_notice(tmp_path, asked))
    assert "sent to Weights & Biases" in told and "mine" in told and "tracker=none" in told and "WANDB_MODE" in told
    for other in ({"name": "none"}, asked | {"mode": "online"}, asked | {"mode": "offline"}):
        assert upload_notice(tmp_path, other) == []
    for mode, silent in (("offline", False), ("online", True)):
        (tmp_path / mode / "tracking").mkdir(parents=True)
        write_json(tmp_path / mode / "tracking" / "mirror.json", {"mode": mode})
        assert (upload_notice(tmp_path, asked) == []) is silent
