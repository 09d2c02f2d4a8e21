from __future__ import annotations

import subprocess

import pytest
import yaml
from tracking.support import PROVENANCE, make_job

from kdrun.tracking.provenance import (
    Provenance,
    cells_of,
    config_text,
    differences,
    git_state,
    machine,
    package_versions,
    repository,
    write_start,
)
from kdrun.tracking.record import read_record
from kdrun.tracking.registry import open_run


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "net.py").write_text("width = 1\n")
    return folder


def test_start_is_complete_before_work_starts(tmp_path):
    job = make_job(seeds=(3, 7))
    run = open_run(tmp_path, job.slug, job.hash)
    write_start(run, job, PROVENANCE)
    record = read_record(run.dir)
    assert record["config"] == job.cells[0] == yaml.safe_load((run.dir / "config.yaml").read_text())
    assert record["seeds"] == [3, 7] and record["command"] == "kdrun data=digits"
    assert cells_of(record) == job.cells
    assert record["cells"] == {"3": {}, "7": {"seed": 7}}
    run.close()


def test_cells_that_differ_deep_inside_come_back_exactly(tmp_path):
    job = make_job(seeds=(0, 1))
    job.cells[1] = {**job.cells[1], "teacher": {"name": "resnet20", "seed": 1}, "name": None}
    run = open_run(tmp_path, job.slug, job.hash)
    write_start(run, job, PROVENANCE)
    run.close()
    assert cells_of(read_record(run.dir)) == job.cells


def test_one_and_true_are_different_values():
    assert differences({"a": 1, "b": 0.0}, {"a": True, "b": 0.0}) == {"a": True}
    with pytest.raises(ValueError, match="same top-level keys"):
        differences({"a": 1}, {})


def test_yaml_keeps_numbers_and_texts_apart():
    config = {
        "lr": 1e-5,
        "big": 1e20,
        "text": "1e-5",
        "yes": "yes",
        "null": None,
        "list": [1, "a: b"],
        "u": "ü",
        "e": {},
    }
    assert yaml.safe_load(config_text(config)) == config


def test_git_before_the_first_commit(checkout):
    state, diff = git_state(checkout)
    assert state == {"commit": None, "dirty": True, "untracked": 1, "diff_sha256": None} and diff == b""


def test_git_knows_clean_dirty_and_untracked(checkout):
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    state, diff = git_state(checkout)
    assert len(state["commit"]) == 40 and not state["dirty"] and diff == b""
    (checkout / "net.py").write_text("width = 2\n")
    (checkout / "new.py").write_text("")
    state, diff = git_state(checkout)
    assert state["dirty"] and state["untracked"] == 1 and len(state["diff_sha256"]) == 64
    assert b"+width = 2" in diff


def test_the_changes_of_the_users_repository_lie_in_the_run_folder(checkout, tmp_path):
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    (checkout / "net.py").write_text("width = 3\n")
    (checkout / "deep").mkdir()
    provenance = Provenance.collect(["student=mine", "name=a b"], checkout / "deep")
    assert provenance.command == "kdrun student=mine 'name=a b'"
    run = open_run(tmp_path / "out", "digits", "ab" * 32)
    write_start(run, make_job(), provenance)
    run.close()
    assert "+width = 3" in (run.dir / "user.diff").read_text()
    assert read_record(run.dir)["git"]["user"]["dirty"]


def test_a_git_hook_does_not_mislead(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert repository(checkout) == checkout


def test_nothing_runs_that_a_repository_names(checkout, tmp_path):
    program = f"touch {tmp_path / 'RAN'}; cat"
    (checkout / ".gitattributes").write_text("*.py filter=a=b diff=own\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    (tmp_path / "outer").mkdir()
    git(tmp_path / "outer", "init", "-q")
    git(tmp_path / "outer", "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(checkout), "inner")
    git(tmp_path / "outer", "commit", "-qm", "with a submodule")
    for folder in (checkout, tmp_path / "outer" / "inner"):
        for key in ("core.fsmonitor", "filter.a=b.clean", "filter.a=b.process", "diff.own.textconv", "diff.external"):
            git(folder, "config", key, program)
        git(folder, "config", "filter.a=b.required", "true")
        (folder / "net.py").write_text("width = 4\n")
    state, diff = git_state(checkout)
    assert state["dirty"] and b"+width = 4" in diff
    assert git_state(tmp_path / "outer")[0]["dirty"]  # its submodule is
    assert not (tmp_path / "RAN").exists()


def test_without_git_and_outside_a_repository(tmp_path, monkeypatch):
    assert repository(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Provenance.collect([], tmp_path).git is None


def test_versions_and_machine_say_none_for_what_they_do_not_know():
    versions = package_versions()
    assert versions["torch"] and versions["kdrun"] and None not in (versions["python"], versions["lightning"])
    facts = machine({"device": "cpu"})
    assert facts["cores"] >= 1 and facts["device"] == "cpu" and facts["threads"] is None
    assert "host" not in facts
