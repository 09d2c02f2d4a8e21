"""kdrun init: a project that runs at once, and nothing of one's own is written over."""

import os
import shutil
import subprocess
import sys

import pytest
from forked import run

from kdrun.cli import main


@pytest.mark.slow
def test_a_new_project_runs_and_its_tests_pass(tmp_path, capsys):
    assert main(["init", str(tmp_path / "mine")]) == 0
    assert "next: cd " in capsys.readouterr().out
    words = ["--conf", "conf", "experiment=mine", "-q", "seed=0", "trainer.epochs=1", "tracker=none", "card=false"]
    done = run([sys.executable, "-m", "kdrun", *words], folder=tmp_path / "mine", env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "mine",
    )
    assert done.returncode == 0, done.stdout


def test_what_is_there_is_not_written_over(tmp_path, capsys):
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "mine.yaml").write_text("width: 3\n")
    assert main(["init", str(tmp_path)]) == 2
    assert "mine.yaml is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.yaml"]
    shutil.rmtree(tmp_path / "conf")
    assert main(["init", str(tmp_path), "more"]) == 2
