from __future__ import annotations

import pytest
from tracking.support import begin, make_job

import kdrun.run
from kdrun.cli import main
from kdrun.config.compose import Job
from kdrun.job.compose import compose
from kdrun.tracking.jobs import job_from_record
from kdrun.tracking.provenance import Provenance, write_start
from kdrun.tracking.registry import open_run, read_run
from kdrun.verbs.rerun import version_changes


@pytest.fixture
def started(monkeypatch):
    """Jobs that would have been run."""
    jobs = []
    monkeypatch.setattr(kdrun.run, "run_job", lambda job, **options: jobs.append((job, options)) or 7)
    return jobs


def test_the_job_of_a_real_config_comes_back_exactly(tmp_path):
    job = compose([f"paths.outputs={tmp_path}", "seeds=[3,7]", "teacher.seed=5"])
    run = open_run(tmp_path, job.slug, job.hash)
    write_start(run, job, Provenance.collect([]))
    run.close()
    again = job_from_record(read_run(run.dir).record)
    assert isinstance(again, Job)
    assert (again.cells, again.hash, again.slug, again.choices, again.overrides) == (
        job.cells,
        job.hash,
        job.slug,
        job.choices,
        job.overrides,
    )


def test_rerun_hands_over_the_stored_cells(tmp_path, started):
    outputs = tmp_path / "outputs"
    paths = {"outputs": str(outputs), "store": str(outputs / "store"), "cache": "/c"}
    job = make_job(seeds=(3, 7), paths=paths)
    run = begin(outputs, job)
    run.close()
    assert main(["rerun", "last", "--outputs", str(outputs), "-q"]) == 7
    ((again, options),) = started
    assert again.cells == job.cells and again.hash == job.hash and options["quiet"]


def test_a_registry_that_was_moved_runs_where_it_is_now(tmp_path, started):
    run = begin(tmp_path)
    run.close()
    main(["rerun", "last", "--outputs", str(tmp_path)])
    paths = started[0][0].config["paths"]
    assert paths == {"outputs": str(tmp_path), "store": str(tmp_path / "store"), "cache": "/nowhere/cache"}


def test_other_versions_are_named(tmp_path, started, capsys):
    begin(tmp_path).close()
    main(["rerun", "last", "--outputs", str(tmp_path)])
    assert "recorded with kdrun 0.0.1, here is" in capsys.readouterr().err
    assert version_changes({"versions": {}}) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], "which run"), (["last", "trainer.epochs=3"], "as it was stored"), (["nothing"], "no run 'nothing'")],
)
def test_mistakes(tmp_path, started, capsys, arguments, text):
    begin(tmp_path).close()
    assert main(["rerun", *arguments, "--outputs", str(tmp_path)]) == 2
    assert text in capsys.readouterr().err and started == []


def test_a_run_that_ended_before_its_config_was_stored(tmp_path, started, capsys):
    open_run(tmp_path, "digits", "ab" * 32).close()
    assert main(["rerun", "last", "--outputs", str(tmp_path)]) == 2
    assert "nothing to run again" in capsys.readouterr().err
