"""Damaged files, full and read-only disks, in a small job: it ends in the numbers of an undisturbed run, or in a message that names what
to do, and never in other numbers.

KDRUN_FAULTS=200 python -m pytest tests/test_faults.py    so many seeds of damage, and a disk that fails at every single write
"""

import errno
import os
import re
import shutil
import time

import faults
import pytest
from faults import ALONE, DISTIL, FEDERATED, Disk, Scene, copied, damage, interrupted, numbers, readings, run, unlike

from kdrun.files import read_json
from kdrun.lab.stages.fit import Fit
from kdrun.tracking.registry import open_run

SEEDS = int(os.environ.get("KDRUN_FAULTS", 20))
EVERY_WRITE = SEEDS > 20


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Jobs that were stopped in a student's second epoch, in a federation's second round, and one that is done."""
    found = {}
    for name, words, after in (("student", DISTIL, 20), ("federation", FEDERATED, 4)):
        calm, stopped = (tmp_path_factory.mktemp(f"{name}-{state}") / "outputs" for state in ("calm", "stopped"))
        assert run(words, calm) == 0
        interrupted(words, stopped, after)
        found[name] = Scene(words, stopped, numbers(calm))
        found[f"{name} done"] = Scene(words, calm, found[name].numbers)
    return found


def test_scenes_hold_every_kind_of_state(scenes):
    student = {path.name for path in (scenes["student"].folder / "store" / "unfinished").rglob("*")}
    assert {"checkpoint.pt", "previous-checkpoint.pt", "energy.json"} <= student
    assert any(name.startswith("best-") for name in student)
    federation = {path.name for path in (scenes["federation"].folder / "store" / "unfinished").rglob("*")}
    assert {"state.json", "previous-state.json"} <= federation
    assert list((scenes["student"].folder / "store" / "outputs").glob("*/logits.npy"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_damage_to_any_file(scenes, seed, tmp_path, capsys):
    scene = list(scenes.values())[seed % len(scenes)]
    outputs = copied(scene.folder, tmp_path)
    before = readings(outputs)
    done = damage(outputs, seed)
    changed = unlike(outputs, before)
    for verb in ("runs", "show"):
        faults.main([verb, *(["last"] if verb == "show" else []), "--outputs", str(outputs)])
    code = run(scene.words, outputs)
    told = capsys.readouterr().err
    print("FAULT", done, code)
    assert "bug in kdrun" not in told and "Traceback" not in told, (done, told)
    assert numbers(outputs) == scene.numbers if code == 0 else str(outputs) in told, (done, told)
    if "_swap" not in done and "_other" not in done:  # whole files of other runs are what they say
        assert not changed, done


@pytest.fixture(scope="module")
def writes(tmp_path_factory):
    """How many writes a small job makes, and its numbers."""
    outputs = tmp_path_factory.mktemp("writes") / "outputs"
    with Disk(outputs).mounted() as disk:
        assert run(ALONE, outputs) == 0
    return disk.count, numbers(outputs)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize("part", range(10))
def test_a_disk_that_fails_at_any_write(writes, number, part, tmp_path, capsys):
    count, calm = writes
    for limit in range(1, count + 1)[part::10] if EVERY_WRITE else [1 + (count - 1) * part // 9]:
        outputs = tmp_path / str(limit) / "outputs"
        with Disk(outputs, number, limit).mounted():
            code = run(ALONE, outputs)
        told = capsys.readouterr().err
        print("WRITE", limit, "of", count, code)
        if code:
            assert str(outputs) in told and "bug in kdrun" not in told and "Traceback" not in told, told
            assert ("full" if number == errno.ENOSPC else "read-only") in told and "same command" in told
        if number == errno.ENOSPC:
            assert not [path for path in outputs.rglob("*") if re.search(r"\.(tmp|partial|writing)$", path.name)]
        assert run(ALONE, outputs) == 0
        assert numbers(outputs) == calm
        shutil.rmtree(outputs)


def test_what_is_mended_is_told_once_on_the_terminal_and_in_the_log(scenes, tmp_path, capsys):
    outputs = copied(scenes["student"].folder, tmp_path)
    (checkpoint,) = outputs.glob("store/unfinished/*/checkpoint.pt")
    faults._flip(checkpoint, faults.random.Random(0))
    assert faults.main([*DISTIL, f"paths.outputs={outputs}"]) == 0
    shown = capsys.readouterr().out
    (log,) = outputs.glob("runs/*/run.log")
    for text in (shown, log.read_text()):
        assert text.count("continues from the state before") == 1 and str(checkpoint) in text
    assert numbers(outputs) == scenes["student"].numbers


def test_gc_finds_what_is_broken(scenes, tmp_path, capsys):
    outputs = copied(scenes["student done"].folder, tmp_path)
    (logits,) = outputs.glob("store/outputs/*/logits.npy")
    weights = next(iter(outputs.glob("store/stages/*/*/best.safetensors")))
    for path in (logits, weights):
        faults._flip(path, faults.random.Random(1))
    faults.main(["gc", "--outputs", str(outputs)])
    shown = " ".join(capsys.readouterr().out.split())
    assert logits.parent.name[:12] in shown and weights.parent.name[:12] in shown
    assert faults.main(["gc", "--yes", "--outputs", str(outputs)]) == 0
    assert run(DISTIL, outputs) == 0 and numbers(outputs) == scenes["student done"].numbers


def test_stopped_in_the_second_try_of_a_partly_failed_run(tmp_path, monkeypatch, capsys):
    words = (*(word for word in ALONE if word != "seed=0"), "seeds=2", "trainer.epochs=2")
    real = Fit.run

    def breaks(stage, execution):
        if stage.seed == 1:
            raise RuntimeError("a broken card")
        return real(stage, execution)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "run", breaks)
        assert run(words, tmp_path / "outputs") == 1
    interrupted(words, tmp_path / "outputs", 3)  # which asserts the exit code 130
    assert "UnboundLocalError" not in capsys.readouterr().err
    (record,) = (read_json(path) for path in tmp_path.glob("outputs/runs/*/record.json"))
    assert record["status"] == "interrupted" and [one["status"] for one in record["attempts"]] == [
        "failed",
        "interrupted",
    ]


@pytest.mark.parametrize("ends", ["done", "killed"])
def test_the_same_command_waits_and_makes_no_second_run(scenes, ends, tmp_path, capsys):
    outputs = copied(scenes["student"].folder, tmp_path)
    (record,) = (read_json(path) for path in outputs.glob("runs/*/record.json"))
    child = os.fork()
    if child == 0:
        held = open_run(outputs, record["name"], record["job_hash"])
        (tmp_path / "held").touch()
        time.sleep(1.0)
        if ends == "done":
            held.finish(summary=record["summary"])
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert faults.main([*DISTIL, f"paths.outputs={outputs}"]) == 0
    os.waitpid(child, 0)
    shown = capsys.readouterr().out
    assert f"waiting for process {child} on " in shown and f"if it hangs: kill {child}, and this goes on" in shown
    assert len([path for path in (outputs / "runs").iterdir() if path.is_dir()]) == 1
    if ends == "killed":
        assert numbers(outputs) == scenes["student"].numbers
