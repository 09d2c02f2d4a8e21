"""Stopped anywhere and started again gives the numbers of a run that was never stopped, to the last bit."""

import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdrun.learning.background import Background, copied
from kdrun.learning.callbacks import Selection
from kdrun.learning.report import Interrupted
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab, teach

RESULTS = ("val", "test", "history", "first_step")


def same(one, other):
    assert {key: one.record[key] for key in RESULTS} == {key: other.record[key] for key in RESULTS}
    for which in ("best", "last"):
        a, b = load_file(one.weights(which)), load_file(other.weights(which))
        assert a.keys() == b.keys()
        assert all(bool((a[name] == b[name]).all()) for name in a)
    assert (one.path / "metrics.jsonl").read_text() == (other.path / "metrics.jsonl").read_text()


VARIANTS = {
    "plain": (),
    "ema, clip, accumulate": ("trainer.ema=0.9", "trainer.clip=1.0", "trainer.accumulate=2"),
    "random augmentation": ("data.augment.crop=1",),
    "cache filled in the first epoch": ("teacher.fill=first_epoch",),
    "parameter groups": (
        "trainer/groups=transformers",
        "trainer.optimizer.weight_decay=0.1",
        "trainer.groups.last={parameters: '3.weight', factor: 3.0}",
    ),
    "dropout": ("+student.network.dropout=0.2",),
}


@pytest.mark.parametrize(
    "variant", ["plain", "ema, clip, accumulate", "random augmentation", "cache filled in the first epoch"]
)
@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 7, 10, 14])
def test_stop_and_resume_equals_never_stopped(tmp_path, variant, stop_at):
    overrides = VARIANTS[variant]
    unbroken = teach(make_lab(tmp_path / "a"), *overrides)
    lab = make_lab(tmp_path / "b")
    cast = Cast(cell(*overrides))
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    stopping = make_lab(tmp_path / "b", Silent(stop_at))
    with pytest.raises(Interrupted):
        stopping.get(stage)
    told = Silent()
    resumed = make_lab(tmp_path / "b", told).get(stage)
    same(unbroken, resumed)
    assert resumed.record["cost"]["tries"] == 2
    written = [json.loads(line) for line in (resumed.path / "metrics.jsonl").read_text().splitlines()]
    assert told.told == written  # the rows of the first try come again, none twice


@pytest.mark.parametrize("variant", ["plain", "parameter groups"])
def test_stopped_many_times(tmp_path, variant):
    overrides = VARIANTS[variant]
    unbroken = teach(make_lab(tmp_path / "a"), *overrides)
    lab = make_lab(tmp_path / "b")
    cast = Cast(cell(*overrides))
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    tries = 0
    while True:
        try:
            resumed = make_lab(tmp_path / "b", Silent(2)).get(stage)
            break
        except Interrupted:
            tries += 1
            assert tries < 30
    assert tries > 3
    same(unbroken, resumed)


def test_a_checkpoint_of_another_stage_is_not_taken(tmp_path, caplog):
    cast = Cast(cell())
    stage = supervised(cast.student)
    with pytest.raises(Interrupted):
        make_lab(tmp_path, Silent(3)).get(stage)
    (work,) = (tmp_path / "unfinished").iterdir()
    other = supervised(Cast(cell("trainer.optimizer.lr=0.01")).student)
    lab = make_lab(tmp_path)
    from kdrun.lab.fingerprint import fingerprint

    work.rename(work.with_name(fingerprint(other.parts(lab.context))))
    same(lab.get(other), make_lab(tmp_path / "calm").get(other))
    assert "state of another stage; it starts again" in caplog.text


def test_finished_stages_are_not_fitted_again(tmp_path):
    used = []
    first = teach(make_lab(tmp_path))
    again = teach(make_lab(tmp_path, fitted=used.append))
    assert [item.source for item in used] == ["store", "store"]
    assert again.record == first.record
    forced = []
    anew = teach(make_lab(tmp_path, fitted=forced.append, force=True))
    assert [item.source for item in forced] == ["trained", "trained"]
    same(first, anew)


def test_a_long_evaluation_is_left_and_the_numbers_are_those_of_a_run_that_was_never_stopped(tmp_path, monkeypatch):
    from kdrun.learning import callbacks, report

    unbroken = teach(make_lab(tmp_path / "a"), "trainer.eval_batch_size=16")
    lab = make_lab(tmp_path / "b")
    cast = Cast(cell("trainer.eval_batch_size=16"))
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    left = []

    class InEvaluation(Silent):
        def stop_requested(self):
            return bool(left)

    def evaluate(*_, look=callbacks.Keeping.on_validation_batch_end):
        left.append(True)  # the signal comes while validation runs
        look(*_)

    monkeypatch.setattr(report, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(callbacks.Keeping, "on_validation_batch_end", evaluate)
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", InEvaluation()).get(stage)
    assert len(left) == 2  # batches of the first validation, which has more
    monkeypatch.undo()
    same(unbroken, make_lab(tmp_path / "b").get(stage))


def test_a_long_step_is_left_between_its_parts_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    """The signal comes in the second of four parts of the fourth step, after the checkpoint of the third."""
    from kdrun.learning import report

    words = (
        "trainer.accumulate=4",
        "trainer.checkpoint_seconds=0",
        "trainer.epochs=1",
        "trainer.optimizer.momentum=0.9",
    )
    stage = supervised(Cast(cell(*words)).student)
    unbroken, parts = make_lab(tmp_path / "a").get(stage), []

    class InStep(Silent):
        def stop_requested(self):
            return len(parts) >= 10

    def leave(self, look=report.Leaving.__call__):
        parts.append(None)
        look(self)

    monkeypatch.setattr(report, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(report.Leaving, "__call__", leave)
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", InStep()).get(stage)
    monkeypatch.undo()
    (checkpoint,) = (tmp_path / "b" / "unfinished").glob("*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["kdrun"]["step"] == 3
    assert len(parts) == 11  # seen after the tenth, left at the next
    same(unbroken, make_lab(tmp_path / "b").get(stage))


def test_checkpoints_that_take_long_are_written_seldom(tmp_path, monkeypatch):
    from kdrun.learning import callbacks

    saved = []

    def save(self, trainer, learner):
        saved.append(learner.step)
        self._saving = 3600.0

    monkeypatch.setattr(callbacks.Keeping, "save", save)
    make_lab(tmp_path).get(supervised(Cast(cell("trainer.checkpoint_seconds=0.001")).student))
    assert saved == [1]


def test_a_checkpoint_that_is_written_while_training_goes_on_is_the_state_it_was_taken_at(tmp_path, monkeypatch):
    """The writer waits until two more steps were taken; the stage is then cut off, and ends with the same bits."""
    from kdrun.learning import callbacks, learner

    config = cell("trainer.checkpoint_seconds=0.001", "trainer.optimizer.momentum=0.9", "trainer.ema=0.9")
    stage = supervised(Cast(config).student)
    unbroken = make_lab(tmp_path / "a").get(stage)
    steps, write, step = [], callbacks.Keeping._write_state, learner.LearnerModule.training_step

    def late(self, state, selected):
        end = time.monotonic() + 30
        while len(steps) < 7 and time.monotonic() < end:
            time.sleep(0.001)
        write(self, state, selected)

    def counted(self, batch, index):
        if len(steps) == 8:
            raise KeyboardInterrupt
        step(self, batch, index)
        steps.append(1)
        self.trainer.callbacks[0].seconds = 0.001 if len(steps) == 5 else 3600.0  # one checkpoint, after the fifth

    monkeypatch.setattr(callbacks.Keeping, "_write_state", late)
    monkeypatch.setattr(learner.LearnerModule, "training_step", counted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_lab(tmp_path / "b").get(stage)
    monkeypatch.undo()
    (checkpoint,) = (tmp_path / "b" / "unfinished").glob("*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["kdrun"]["step"] == 5 and len(steps) == 8
    same(unbroken, make_lab(tmp_path / "b").get(stage))


def test_copies_are_in_memory_of_their_own_and_share_it_as_before():
    tensor = torch.arange(6.0).view(2, 3).t()
    made = copied({"a": tensor, "b": [tensor[1:], {"c": tensor}], "d": (1, "e")})
    tensor += 1
    assert torch.equal(made["a"], tensor - 1) and made["a"].stride() == tensor.stride() and made["d"] == (1, "e")
    made["a"][1, 0] = 9
    assert made["b"][0][0, 0] == 9 and made["b"][1]["c"][1, 0] == 9


def test_what_a_writer_raises_is_raised_where_it_is_waited_for():
    writing = Background()
    writing.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writing.wait()
    writing.wait()
    assert not writing.busy


def test_checkpoints_hold_plain_numbers_alone(tmp_path):
    """Scores of single samples of a language model were numpy's, which torch.load refuses: no run of one went on after its first epoch."""
    kept = Selection("")
    kept.right["best"] = [{"id": np.int64(3), "right": np.float64(0.25)}]
    torch.save(kept.state(), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["right"] == [{"id": 3, "right": 0.25}]
