"""The reader, and with it what the real wandb has written of a mirrored run. No network, no account."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tracking.support import TRACKER, begin, feed, processes_with, python, wait_for
from tracking.wandb_reader import messages, read_wandb

from kdrun.tracking.flatten import flatten
from kdrun.tracking.mirror import start_mirror


def offline_folders(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A failed run of two stages and its continuation, mirrored by the real wandb, started from an empty folder."""
    outputs, here = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("here")
    before = Path.cwd()
    os.chdir(here)
    try:
        for attempt, steps in enumerate((range(3), range(5))):
            run = begin(outputs)
            mirror = start_mirror(run, TRACKER)
            feed(run, "teacher/seed=0", range(2))
            feed(run, "student/seed=0", steps)
            if attempt:
                run.metrics.write("student/seed=0", 4, 2, {"val/accuracy": math.nan})
            summary = {"arms": {"student": {"best": {"mean": 0.9, "sd": None}}}, "gap_closed": {"best": math.nan}}
            run.finish("done" if attempt else "failed", summary=summary if attempt else {})
            run.close()
            assert mirror.finish() is None
    finally:
        os.chdir(before)
    return run, here


def test_history_has_its_own_step_for_each_stage(mirrored):
    run, _ = mirrored
    first = read_wandb(offline_folders(run.dir)[0])
    assert [row["_step"] for row in first.history] == list(range(5)), "nothing was dropped"
    for stage, count in (("teacher/seed=0", 2), ("student/seed=0", 3)):
        rows = [row for row in first.history if f"{stage}/step" in row]
        assert [row[f"{stage}/step"] for row in rows] == list(range(count))
        assert [row[f"{stage}/train/loss"] for row in rows] == [1 / (1 + step) for step in range(count)]
        assert first.step_of[f"{stage}/*"] == f"{stage}/step"


def test_config_is_flat_resolved_and_equal_to_the_record(mirrored):
    """P44."""
    run, _ = mirrored
    config = read_wandb(offline_folders(run.dir)[0]).config
    assert config == flatten(run.record["config"])
    assert config["trainer.optimizer.betas"] == [0.9, 0.999]


def test_the_continued_attempt_is_the_same_run_with_only_new_rows(mirrored):
    run, _ = mirrored
    first, second = map(read_wandb, offline_folders(run.dir))
    assert first.id == second.id == "ab" * 8
    losses = [row for row in second.history if "student/seed=0/train/loss" in row]
    assert [row["student/seed=0/step"] for row in losses] == [3, 4]
    assert math.isnan(second.history[-1]["student/seed=0/val/accuracy"])


def test_exit_codes_and_summary(mirrored):
    """P43: a failed job must not look finished."""
    run, _ = mirrored
    first, second = map(read_wandb, offline_folders(run.dir))
    assert (first.exit_code, first.summary["status"]) == (1, "failed")
    assert (second.exit_code, second.summary["status"]) == (0, "done")
    assert second.summary["arms/student/best/mean"] == 0.9 and second.summary["gap_closed/best"] == "NaN"
    assert "arms/student/best/sd" not in second.summary


def test_neither_host_nor_folder_nor_code_leaves_the_machine(mirrored):
    run, here = mirrored
    assert os.listdir(here) == [], "nothing is written where the user stands"
    (folder, _) = offline_folders(run.dir)
    assert read_wandb(folder).host == ""
    files = {path.name for path in (folder / "files").rglob("*") if path.is_file()}
    assert files <= {"requirements.txt"}
    assert str(here).encode() not in next(folder.glob("*.wandb")).read_bytes()


def test_the_reader_agrees_with_wandbs_own(mirrored):
    run, _ = mirrored
    folder = offline_folders(run.dir)[1]
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    entries = [json.loads(line) for line in output.splitlines()]
    ours = read_wandb(folder)
    history = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]

    def comparable(rows):
        return json.dumps(rows, sort_keys=True).replace('"NaN"', "NaN")

    assert comparable(history) == comparable(ours.history) and len(history) == len(ours.history) > 0
    (started,) = [entry["run"] for entry in entries if entry["type"] == "run"]
    assert started["run_id"] == ours.id and started["project"] == ours.project == "kdrun-test"
    assert {key: value for key, value in started["config"]["update"].items() if key != "_wandb"} == ours.config
    assert [entry["exit"].get("exit_code", 0) for entry in entries if entry["type"] == "exit"] == [ours.exit_code]


def test_a_torn_end_is_no_error_damage_is(mirrored, tmp_path):
    run, _ = mirrored
    content = next(offline_folders(run.dir)[0].glob("*.wandb")).read_bytes()
    whole = list(messages(content))
    assert list(messages(content[:-3])) == whole[:-1]
    damaged = bytearray(content)
    damaged[40] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(messages(bytes(damaged)))
    with pytest.raises(ValueError, match="not a"):
        list(messages(b"something"))


def test_a_record_longer_than_a_block_is_joined():
    import struct
    import zlib

    body, content = bytes(range(256)) * 400, bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    left = body
    kind = 2
    while left:
        room = 32768 - len(content) % 32768 - 7
        piece, left = left[:room], left[room:]
        kind = kind if left else 4
        content += struct.pack("<IHB", zlib.crc32(piece, zlib.crc32(bytes([kind]))), len(piece), kind) + piece
        kind = 3
    assert list(messages(bytes(content))) == [body]


def test_after_kill_9_the_run_is_failed_and_no_process_is_left(tmp_path):
    """P60 with the real service of wandb."""
    parent = python(
        """
        import sys, time
        from pathlib import Path
        from tracking.support import TRACKER, begin, feed
        from kdrun.tracking.mirror import start_mirror
        run = begin(Path(sys.argv[1]))
        mirror = start_mirror(run, {**TRACKER, "timeout": 15.0})
        feed(run)
        print(run.dir, mirror.process.pid, flush=True)
        time.sleep(1000)
        """,
        tmp_path,
    )
    folder, pid = parent.stdout.readline().split()
    wait_for(lambda: offline_folders(Path(folder)), 20)
    wait_for(lambda: processes_with(f"--pid\0{pid}"))  # wandb's service
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: not processes_with(folder) and not processes_with(f"--pid\0{pid}"), 20)
    (offline,) = offline_folders(Path(folder))
    mirrored = read_wandb(offline)
    assert mirrored.exit_code == 1 and mirrored.summary["status"] == "interrupted" and len(mirrored.history) == 3


def test_wandbs_service_ends_with_a_mirror_that_is_killed(tmp_path):
    run = begin(tmp_path)
    mirror = start_mirror(run, TRACKER)
    service = wait_for(lambda: processes_with(f"--pid\0{mirror.process.pid}"), 20)
    mirror.process.kill()
    run.finish()
    run.close()
    assert "W&B failed" in mirror.finish()
    wait_for(lambda: not set(service) & set(processes_with("wandb-core")), 10)
