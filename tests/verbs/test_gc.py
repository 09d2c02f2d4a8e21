from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from tracking.support import begin, make_job

from kdrun.cli import main
from kdrun.files import write_json
from kdrun.lab.garbage import References, delete, find
from kdrun.lab.store import Store
from kdrun.tracking.registry import plan_run

A, B, C, D, E = (letter * 64 for letter in "abcde")
LONG_AGO = time.time() - 10 * 86400


def keep(store, fingerprint, teacher=None, start=None):
    """A finished stage of ten days ago."""
    weights = store.work(fingerprint) / "best.safetensors"
    weights.write_bytes(b"x" * 1000)
    parts = {"start": start, "teacher": teacher and {"fingerprint": teacher}}
    folder = store.put(fingerprint, [weights], {"role": "student", "learner": "cnn", "seed": 0, "parts": parts})
    age(folder)
    return folder


def age(folder):
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    os.utime(folder, (LONG_AGO, LONG_AGO))


def cached(store, key, teacher=None):
    """Outputs of a teacher; unfinished without one."""
    folder = store.root / "outputs" / key
    folder.mkdir(parents=True)
    (folder / "logits.npy").write_bytes(b"x" * 500)
    if teacher:
        write_json(folder / "manifest.json", {"parts": {"teacher": teacher}})
    age(folder)
    return folder


def use(outputs, job_hash, *fingerprints, status="done", **config):
    run = begin(outputs, make_job(job_hash * 32, **config))
    run.finish(status, stages=[{"fingerprint": name, "label": "x", "teacher": None} for name in fingerprints])
    run.close()
    return run


@pytest.fixture
def outputs(tmp_path):
    """A run of B, which was taught by A; C and its outputs belong to nobody any more."""
    store = Store(tmp_path / "store")
    for name, teacher in ((A, None), (B, A), (C, None)):
        keep(store, name, teacher)
    cached(store, "11" * 32, teacher=A)
    cached(store, "22" * 32, teacher=C)
    use(tmp_path, "1a", A, B, status="failed")
    return tmp_path


def listed(outputs):
    return {(item.kind, item.path.name[:2]) for item in find(References(outputs))}


def collect(outputs, *flags):
    return main(["gc", *flags, "--outputs", str(outputs)])


def test_listed_is_what_no_run_refers_to_and_nothing_is_deleted_unasked(outputs, capsys):
    assert collect(outputs) == 0
    out = capsys.readouterr().out
    assert "student cnn, seed 0 (cccccccccccc)" in out and "no run refers to it" in out
    assert "no run refers to the teacher cccccccccccc" in out and "aaaaaaaaaaaa" not in out
    assert "2 to delete" in out and "kdrun gc --yes deletes without asking" in out
    assert listed(outputs) == {("stage", "cc"), ("outputs", "22")}


def test_json_deletes_only_with_yes(outputs, capsys):
    assert collect(outputs, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["deleted"] == [] and len(found["items"]) == 2 and found["bytes"] > 1500
    assert collect(outputs, "--json", "--yes") == 0
    assert len(json.loads(capsys.readouterr().out)["deleted"]) == 2
    assert listed(outputs) == set() and Store(outputs / "store").has(A)


def test_yes_deletes_and_the_rest_is_whole(outputs, capsys):
    assert collect(outputs, "--yes") == 0
    assert "deleted 2 (" in capsys.readouterr().out
    store = Store(outputs / "store")
    assert store.get(A) and store.get(B) and not store.folder(C).exists()
    assert sorted(path.name[:2] for path in (store.root / "outputs").iterdir()) == ["11"]
    assert not list((store.root / "trash").iterdir())
    assert collect(outputs) == 0
    assert "nothing to delete" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 2), ("", 2)])
def test_a_terminal_is_asked(outputs, answer, left):
    import pty

    leader, follower = pty.openpty()
    code = f"from kdrun.cli import main; raise SystemExit(main(['gc', '--outputs', {str(outputs)!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    text = b""
    while b"[y/N]" not in text:
        text += os.read(leader, 4096)
    os.write(leader, answer.encode() + b"\n")
    assert process.wait() == 0 and b"delete these (" in text
    os.close(leader)
    assert len(listed(outputs)) == left


def test_unfinished_work_is_kept_while_a_run_may_go_on(outputs, capsys):
    store = Store(outputs / "store")
    (store.work(D) / "checkpoint.pt").write_bytes(b"x")
    age(store.work(D))
    cached(store, "33" * 32)
    (store.work(E) / "checkpoint.pt").write_bytes(b"x")  # of today
    unfinished = {("unfinished", "dd"), ("unfinished", "33")}
    assert unfinished <= listed(outputs) and ("unfinished", "ee") not in listed(outputs)
    with FileLock(store.root / "locks" / f"{D}.lock"):
        assert ("unfinished", "dd") not in listed(outputs)
    plan_run(outputs, "later", "9f" * 32).close()
    assert not unfinished & listed(outputs)
    collect(outputs)
    assert "unfinished stages are kept: later-9f9f9f9f may continue them" in capsys.readouterr().out


def test_stages_made_while_an_unfinished_run_was_at_work_are_kept(outputs):
    """Going on, its record lists only what it has come to again."""
    use(outputs, "2b", status="interrupted")
    assert ("stage", "cc") in listed(outputs), "older than the run"
    os.utime(Store(outputs / "store").folder(C) / "manifest.json")
    assert ("stage", "cc") not in listed(outputs) and ("outputs", "22") not in listed(outputs)


def test_starts_and_teachers_of_what_a_run_lists_are_kept(tmp_path):
    store = Store(tmp_path / "store")
    for name, teacher, start in ((A, None, None), (B, A, None), (C, None, B), (D, C, None), (E, D, None)):
        keep(store, name, teacher, start)
    use(tmp_path, "1a", D)
    assert listed(tmp_path) == {("stage", "ee")}


def test_what_is_damaged_or_left_over_is_listed(outputs):
    store = Store(outputs / "store")
    (store.folder(B) / "best.safetensors").write_bytes(b"y")
    with pytest.raises(RuntimeError):
        store.get(B)
    for ending in ("replaced-1", "something-else"):
        shutil.copytree(store.folder(A), store.folder(A).with_name(f"{A}.{ending}"))
    shutil.copytree(store.folder(A), store.folder(B).with_name(f"{B}.replaced-1"))
    found = listed(outputs)
    assert ("damaged", "bb") in found and ("leftover", "aa") in found
    assert ("leftover", "bb") not in found, "the only copy that is left of a stage that a run refers to"
    assert collect(outputs, "--yes") == 0
    assert store.has(A) and store.folder(A).with_name(f"{A}.something-else").exists()


def test_what_is_locked_or_needed_by_now_is_skipped(outputs, capsys):
    store, references = Store(outputs / "store"), References(outputs)
    items = find(references)
    use(outputs, "3c", C)
    assert {reason for _, reason in delete(items, references)} == {"by now a run may need it"}
    shutil.rmtree(outputs / "runs" / "digits-3c3c3c3c")
    with FileLock(store.root / "locks" / f"{C}.lock"):
        assert collect(outputs, "--yes") == 1
    assert "another process uses it" in capsys.readouterr().err
    assert store.get(C) and listed(outputs) == {("stage", "cc")}


def test_a_deletion_cut_short_leaves_no_half_stage_and_is_finished_later(outputs, monkeypatch):
    def cut(path):
        (path / "best.safetensors").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kdrun.lab.garbage.shutil.rmtree", cut)
        assert collect(outputs, "--yes") == 130
    assert not Store(outputs / "store").folder(C).exists()
    assert ("leftover", "cc") in listed(outputs)
    assert collect(outputs, "--yes") == 0 and listed(outputs) == set()


def test_an_unreadable_record_stops_it(outputs, capsys):
    run = use(outputs, "2b", B)
    (run.dir / "record.json").write_text("{")
    (outputs / "runs" / "lost-00000000").mkdir()
    assert collect(outputs, "--yes") == 2, "nothing but a lock lies in lost: that one was killed at its start"
    err = capsys.readouterr().err
    assert "nothing was deleted" in err and run.id in err and "lost" not in err
    (run.dir / "record.json").unlink()
    assert collect(outputs) == 2
    assert f"{run.id} has no record.json" in capsys.readouterr().err


def test_other_stores_and_a_folder_without_runs_are_told(outputs, capsys):
    elsewhere = {"outputs": str(outputs), "store": "/elsewhere/store", "cache": ""}
    use(outputs, "2b", C, paths=elsewhere)
    collect(outputs)
    assert "not looked at: /elsewhere/store" in capsys.readouterr().out
    shutil.rmtree(outputs / "runs")
    collect(outputs)
    assert "everything counts as not referred to" in capsys.readouterr().out


def test_no_store_and_mistakes(tmp_path, capsys):
    assert collect(tmp_path, "--yes") == 0
    assert "no store in" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert collect(tmp_path, "everything") == 2
    assert "does not take everything" in capsys.readouterr().err
