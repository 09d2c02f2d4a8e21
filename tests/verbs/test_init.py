"""kdrun init: a project that runs at once, and nothing of one's own is written over."""

import shutil
import subprocess
import sys

from kdrun.cli import main


def test_a_new_project_runs_and_its_tests_pass(tmp_path, monkeypatch, capsys):
    assert main(["init", str(tmp_path / "mine")]) == 0
    assert "next: cd " in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert (
        main(["--conf", "conf", "experiment=mine", "-q", "seed=0", "trainer.epochs=1", "tracker=none", "card=false"])
        == 0
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], capture_output=True, text=True
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
