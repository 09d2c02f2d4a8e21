from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from tracking.support import begin, make_job, python

from kdrun.problems import UserError
from kdrun.tracking import registry
from kdrun.tracking.registry import find_run, finished_run, list_runs, open_run, plan_run, read_run, slugify

HASH = "ab" * 32


def end(run, status="done"):
    run.finish(status)
    run.close()
    return run.id


@pytest.mark.parametrize(
    "text", ["a/b c=d", "../../etc", "résumé ñ", "x" * 300, "", "日本", "-rf", ".hidden", "a--b", "$(touch x);*"]
)
def test_slugs_are_safe_whatever_the_name(text, tmp_path):
    slug = slugify(text)
    assert 1 <= len(slug) <= 60
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert slug[0] not in "-." and "--" not in slug
    run = open_run(tmp_path, text, HASH)
    assert run.dir.parent == tmp_path / "runs" and run.id == f"{slug}-abababab"
    end(run)


def test_a_slug_that_ends_with_the_hash_gets_it_once(tmp_path):
    run = open_run(tmp_path, "digits-abababab", HASH)
    assert run.id == "digits-abababab"
    run.close()


def test_an_unfinished_run_is_continued_a_finished_one_is_not(tmp_path):
    first = end(open_run(tmp_path, "digits", HASH), "failed")
    again = open_run(tmp_path, "renamed", HASH)
    assert (again.id, again.attempt) == (first, 2)
    end(again)
    third = open_run(tmp_path, "digits", HASH)
    assert (third.id, third.attempt) == ("digits-abababab-2", 1)
    end(third, "interrupted")
    assert open_run(tmp_path, "digits", HASH, fresh=True).id == "digits-abababab-3"


def test_a_run_in_work_is_left_alone(tmp_path):
    one, two = open_run(tmp_path, "digits", HASH), open_run(tmp_path, "digits", HASH)
    assert one.dir != two.dir
    assert read_run(one.dir).status == read_run(two.dir).status == "running"
    one.close(), two.close()


def test_the_same_eight_letters_of_another_hash_are_another_job(tmp_path):
    end(open_run(tmp_path, "digits", HASH), "failed")
    other = open_run(tmp_path, "digits", HASH[:8] + "cd" * 28)
    assert (other.id, other.attempt) == ("digits-abababab-2", 1)
    other.close()
    assert open_run(tmp_path, "digits", HASH).id == "digits-abababab"


def test_a_planned_run_is_the_one_that_is_opened(tmp_path):
    planned = plan_run(tmp_path, "digits", HASH)
    planned.close()
    assert read_run(planned.dir).status == "planned"
    run = open_run(tmp_path, "digits", HASH)
    assert (run.dir, run.attempt) == (planned.dir, 1)
    end(run)
    assert finished_run(tmp_path, HASH).id == run.id
    assert finished_run(tmp_path, "cd" * 32) is None
    assert finished_run(tmp_path / "absent", HASH) is None


def test_a_damaged_record_is_not_overwritten(tmp_path):
    first = open_run(tmp_path, "digits", HASH)
    end(first, "failed")
    (first.dir / "record.json").write_text("{")
    assert open_run(tmp_path, "digits", HASH).id == "digits-abababab-2"
    assert (first.dir / "record.json").read_text() == "{"


def test_a_folder_whose_maker_died_at_once_is_used(tmp_path):
    (tmp_path / "runs" / "digits-abababab").mkdir(parents=True)
    run = open_run(tmp_path, "digits", HASH)
    assert (run.id, run.attempt) == ("digits-abababab", 1)


def test_sixteen_simultaneous_starts_make_sixteen_folders(tmp_path):
    """P29."""
    code = """
    import sys, time
    from pathlib import Path
    from kdrun.tracking.registry import open_run
    print("ready", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.001)
    run = open_run(sys.argv[1], "digits", "ab" * 32)
    print(run.id, flush=True)
    sys.stdin.read()
    run.finish()
    run.close()
    """
    go = tmp_path / "go"
    processes = [python(code, tmp_path / "out", go, stdin=-1) for _ in range(16)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    go.touch()
    names = [process.stdout.readline().strip() for process in processes]
    assert sorted(names) == sorted(["digits-abababab", *(f"digits-abababab-{n}" for n in range(2, 17))])
    assert {run.status for run in list_runs(tmp_path / "out")} == {"running"}
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert [run.status for run in list_runs(tmp_path / "out")] == ["done"] * 16


def test_a_killed_run_is_shown_as_interrupted_and_continued(tmp_path):
    process = python(
        """
        import sys, time
        from kdrun.tracking.registry import open_run
        run = open_run(sys.argv[1], "digits", "ab" * 32)
        print(run.id, flush=True)
        time.sleep(1000)
        """,
        tmp_path,
    )
    name = process.stdout.readline().strip()
    assert find_run(tmp_path, name).status == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert find_run(tmp_path, name).status == "interrupted"
    run = open_run(tmp_path, "digits", HASH)
    assert (run.id, run.attempt) == (name, 2)
    assert run.record["attempts"][0]["status"] == "interrupted" and run.record["attempts"][0]["ended"] is None
    end(run)


def test_asking_about_runs_never_makes_a_start_believe_they_are_in_work(tmp_path):
    end(open_run(tmp_path, "digits", HASH), "failed")
    record = json.loads((tmp_path / "runs/digits-abababab/record.json").read_text())
    (tmp_path / "runs/digits-abababab/record.json").write_text(json.dumps({**record, "status": "running"}))
    prober = python(
        """
        import sys
        from kdrun.tracking.registry import list_runs
        print("ready", flush=True)
        while True:
            list_runs(sys.argv[1])
        """,
        tmp_path,
    )
    prober.stdout.readline()
    try:
        for attempt in range(2, 42):
            run = open_run(tmp_path, "digits", HASH)
            assert (run.id, run.attempt) == ("digits-abababab", attempt)
            run.close()
    finally:
        prober.kill()
        prober.communicate()


def test_a_run_is_probed_only_while_nobody_can_be_choosing_a_folder(tmp_path, monkeypatch):
    run = open_run(tmp_path, "digits", HASH)
    asked = []
    real = registry.try_lock

    def probing(folder):
        asked.append(real(tmp_path / "runs"))
        return real(folder)

    monkeypatch.setattr(registry, "try_lock", probing)
    assert read_run(run.dir).status == "running"
    assert asked == [None], "the lock of the registry was held"
    run.close()


def test_newest_first_and_broken_ones_by_name(tmp_path):
    assert list_runs(tmp_path) == []
    names = []
    for number in range(3):
        names.append(end(open_run(tmp_path, f"job{number}", f"{number}" * 64)))
        time.sleep(0.002)
    (tmp_path / "runs" / names[0] / "record.json").write_text("{")
    (tmp_path / "runs" / "stray").mkdir()
    runs = list_runs(tmp_path)
    assert [run.id for run in runs[:2]] == [names[2], names[1]]
    assert {run.id: run.status for run in runs[2:]} == {names[0]: "broken", "stray": "broken"}
    assert all(run.id in run.problem for run in runs[2:])


def test_runs_are_listed_from_their_records_alone(tmp_path):
    run = begin(tmp_path, make_job(seeds=tuple(range(5))))
    end(run)
    record = (run.dir / "record.json").read_text()
    for number in range(99):
        folder = tmp_path / "runs" / f"digits-{number:08x}"
        folder.mkdir()
        (folder / "record.json").write_text(record)
        (folder / "metrics.jsonl").mkdir()  # whoever reads it fails
    assert len([run for run in list_runs(tmp_path) if not run.problem]) == 100


@pytest.fixture
def three(tmp_path):
    jobs = {"one": "1a" * 32, "two": "2b" * 32, "twin": "3c" * 32}
    return tmp_path, [end(open_run(tmp_path, name, job_hash)) for name, job_hash in jobs.items()]


def test_runs_are_found_by_what_people_type(three):
    outputs, (one, two, twin) = three
    assert find_run(outputs, two).id == two
    assert find_run(outputs, "on").id == one
    assert find_run(outputs, "3c3c3c").id == twin
    assert find_run(outputs, "last").id == list_runs(outputs)[0].id
    assert find_run(outputs, str(outputs / "runs" / two)).id == two


def test_a_hash_finds_the_newest_run_of_that_job(three):
    outputs, (one, *_) = three
    time.sleep(0.002)
    second = end(open_run(outputs, "one", "1a" * 32))
    assert second == f"{one}-2"
    assert find_run(outputs, "1a1a").id == second
    assert find_run(outputs, one).id == one


@pytest.mark.parametrize(
    ("text", "expected"), [("tw", "could be 2 runs"), ("onee", "closest: one-1a1a1a1a"), ("zzz", "no run 'zzz'")]
)
def test_ambiguous_and_unknown_names(three, text, expected):
    with pytest.raises(UserError, match=expected) as error:
        find_run(three[0], text)
    assert len(error.value.lines) <= 4


def test_an_empty_registry_says_where_it_looked(tmp_path):
    with pytest.raises(UserError, match="no runs in"):
        find_run(tmp_path, "last")


def test_a_copied_registry_keeps_working(three, tmp_path):
    shutil.copytree(three[0] / "runs", tmp_path / "copy" / "runs")
    assert len(list_runs(tmp_path / "copy")) == 3


def test_last_is_the_newest_run_that_was_not_refused(tmp_path):
    trained = open_run(tmp_path, "digits", HASH)
    trained.record["stages"] = [{"stage": "student"}]
    end(trained)
    refused = open_run(tmp_path, "digits", "cd" * 32)
    refused.fail(UserError("a mistake in what was typed"))
    refused.close()
    assert find_run(tmp_path, refused.id).status == "failed"
    assert find_run(tmp_path, "last").id == trained.id
