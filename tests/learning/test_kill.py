"""kill -9 at random points of a real process, and then the same work again: six points, with KDRUN_FAULTS=200 twenty."""

import json
import os
import random
import signal
import time

import pytest

from .stages import make_lab, teach

WORK = ("trainer.epochs=30", "trainer.checkpoint_seconds=0", "teacher.trainer.epochs=10")
KILLS = max(6, int(os.environ.get("KDRUN_FAULTS", 0)) // 10)


def attempt(root):
    """A child made by fork has torch imported already, so a try costs what its training costs."""
    child = os.fork()
    if child == 0:
        try:
            teach(make_lab(root), *WORK)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    calm = teach(make_lab(tmp_path / "calm"), *WORK)
    started = time.monotonic()
    teach(make_lab(tmp_path / "timed"), *WORK)
    whole = time.monotonic() - started
    choice = random.Random(0)
    kills, root = 0, tmp_path / "rough"
    for number in range(200):
        if kills == KILLS:
            break
        if number % 5 == 4:  # start over now and then, so that early points are hit as well as late ones
            root = tmp_path / f"rough{number}"
        child = attempt(root)
        time.sleep(choice.uniform(0.02, whole))
        done, code = os.waitpid(child, os.WNOHANG)
        if done == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        else:
            assert code == 0
            check(root, calm)
            root = tmp_path / f"rough{number}-next"
    assert kills == KILLS
    for folder in tmp_path.glob("rough*"):
        check(folder, calm)


def check(root, calm):
    child = attempt(root)
    assert os.waitpid(child, 0)[1] == 0
    record = json.loads((root / "stages" / calm.fingerprint[:2] / calm.fingerprint / "record.json").read_text())
    for key in ("val", "test", "history", "first_step"):
        assert record[key] == calm.record[key], key
    assert not list((root / "unfinished").glob("*/*"))
