"""What happens around the steps: losses written down, the best epoch kept, state saved, signals obeyed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.fabric.plugins.io import TorchCheckpointIO

from kdrun.checksums import check_seal, keep_previous, mended, previous_of, sealing
from kdrun.files import Damaged, plain, sha256_file
from kdrun.learning import seeds
from kdrun.learning.background import Background, copied
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Interrupted, Leaving, Report
from kdrun.ledger.ledger import Ledger
from kdrun.ledger.spending import EVALUATE, TRAIN
from kdrun.networks.weights import load_state, save_state

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SHARE = 0.02
"""Largest share of the time that checkpoints take: those of large networks are written less often than `seconds` says."""
LOOK_SECONDS = 1.0
"""How often ranks ask each other whether to stop or to save."""
NOTE_SECONDS = 5.0
"""How often a try writes down what it has taken, so that the next one knows what a killed one lost."""


class TakenCheckpointIO(TorchCheckpointIO):
    """Checkpoints are copied to main memory (`taken`), where `Keeping` writes them from; they are read without unpickling anything but tensors
    and plain types."""

    taken: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options: Any = None) -> None:
        self.taken = copied(checkpoint)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)


def usable_state(work: Path, identity: dict[str, Any], label: str, first: bool = True) -> Path | None:
    """The checkpoint to go on from: the newest in a work folder that is whole and of this stage, with the weights that belong
    to it; None where there is none. One that is damaged is told and removed (by the first of several ranks)."""
    problems, usable = [], None
    for path in (work / CHECKPOINT, previous_of(work / CHECKPOINT)):
        if not path.is_file():
            continue
        try:
            _check_state(path, identity)
            usable = path
            break
        except (Damaged, OSError) as error:
            problems.append(str(error))
            if first:
                path.unlink(missing_ok=True)
    if problems and first:
        cure = "it starts again" if usable is None else "it continues from the state before"
        mended(f"{label}: {'; '.join(problems)}; {cure}")
    return usable


def _check_state(path: Path, identity: dict[str, Any]) -> None:
    check_seal(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["kdrun"]
    if state["identity"] != identity:
        raise Damaged(f"{path} is the state of another stage")
    for kept in (state, *(state.get("peers") or ())):
        if kept["best_file"] is not None:
            best = path.with_name(kept["best_file"])
            if not best.is_file() or sha256_file(best) != kept["best_sha256"]:
                raise Damaged(f"{best} is {'damaged' if best.is_file() else 'missing'}")


@dataclass
class Selection:
    """The epochs of one network, and which of them validation selects; ties keep the earlier one.

    name     of a network beside the student; "" of the student's
    history  validation of all epochs: {"epoch", "step", metric ...}
    best     {"epoch", "metrics"} of the selected one, and best_state its weights
    right    what the task says of single validation samples, of the selected and of the last epoch
    file     of the selected weights beside a checkpoint, and sha256 its hash
    """

    name: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    right: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"best": [], "last": []})
    file: str | None = None
    sha256: str | None = None

    def take(self, epoch: int, learner: LearnerModule, monitor: str, better: Callable[[float, float], bool]) -> None:
        """An epoch that was evaluated."""
        values = learner.evaluated
        self.history.append({"epoch": epoch, "step": learner.step, **values})
        self.right["last"] = learner.samples
        value = values[monitor]
        if value != value:
            of = f" of {self.name}" if self.name else ""
            raise FloatingPointError(f"val/{monitor}{of} became nan in epoch {epoch}")
        if self.best is None or better(value, self.best["metrics"][monitor]):
            self.best = {"epoch": epoch, "metrics": values}
            self.best_state = {k: v.detach().to("cpu", copy=True) for k, v in learner.network.state_dict().items()}
            self.right["best"] = learner.samples

    def write(self, work: Path, best: dict[str, Any] | None, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Write the selected weights, where they are new. best, weights: `best` and `best_state` as they were when a checkpoint was taken, which
        is to have what is returned."""
        if best is not None:
            name = ".".join(filter(None, (f"best-{best['epoch']}", self.name, "safetensors")))
            if self.file != name:
                save_state(weights, work / name)
                self.file, self.sha256 = name, sha256_file(work / name)
        return {"best_file": self.file, "best_sha256": self.sha256}

    def state(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best": self.best,
            "best_file": self.file,
            "best_sha256": self.sha256,
            "right": plain(self.right["best"]),  # numbers of numpy cannot be loaded again
        }

    def resume(self, state: dict[str, Any], work: Path) -> None:
        """Takes what `state` gave."""
        self.history, self.best = state["history"], state["best"]
        self.file, self.sha256 = state["best_file"], state["best_sha256"]
        self.right["best"] = state.get("right") or []
        if self.file is not None:
            self.best_state = load_state(work / self.file)


class Keeping(Callback):
    """Rows of metrics, history, the selected epoch, checkpoints and interruption of one fit.

    monitor, mode     the validation metric that selects, and "max" or "min"; ties keep the earlier epoch; "last": none selects
    seconds           a checkpoint is written at most this often, for at most CHECKPOINT_SHARE of the time (0: after every step, whatever
                      that takes), and always when a signal asks to stop
    ledger            what the stage costs; goes on over tries
    selections        of the student and of the networks `peers` that are trained beside it
    asked             samples the teacher was asked for in this try before training; from then on: over all tries
    identity          what a checkpoint must agree on when it is loaded (the stage's and the teacher's fingerprints)
    """

    def __init__(
        self,
        work: Path,
        report: Report,
        label: str,
        *,
        monitor: str,
        mode: str,
        log_every: int,
        seconds: float,
        identity: dict[str, Any],
        epochs: int,
        ledger: Ledger,
        asked: int = 0,
        peers: Sequence[str] = (),
    ):
        self.work = work
        self.report = report
        self.label = label
        self.monitor = monitor
        better = {"max": lambda new, old: new > old, "min": lambda new, old: new < old, "last": lambda new, old: True}
        self.better: Callable[[float, float], bool] = better[mode]
        self.log_every = log_every
        self.seconds = seconds
        self.identity = identity
        self.epochs = epochs
        self.rows: list[dict[str, Any]] = []
        self.selections = [Selection(), *map(Selection, peers)]
        self.ledger = ledger
        self.asked = asked
        self.taught_earlier = 0
        self._saved = self._shown = self._looked = time.monotonic()
        self._writing, self._saving = Background(), 0.0  # seconds that training waited for the last checkpoint
        self._look = self._look_from = 0  # steps at which ranks decide next, and decided last
        self._random: dict | None = None
        self._leaving = Leaving(report)

    def taught(self, learner: LearnerModule) -> int:
        """Samples the teacher was asked for, over all tries."""
        return self.taught_earlier + (0 if learner.teacher is None else learner.teacher.samples)

    # Lightning calls these

    def on_train_start(self, trainer, learner: LearnerModule) -> None:
        for one in learner.learners:
            one.backend.leaving = self._leaving

    def on_train_batch_start(self, trainer, learner: LearnerModule, batch, batch_idx) -> None:
        if self._random is not None:  # as late as possible: nothing may draw between this and the first resumed step
            seeds.restore(self._random)
            self._random = None

    def on_train_batch_end(self, trainer, learner: LearnerModule, outputs, batch, batch_idx) -> None:
        log = learner.step % self.log_every == 0
        if log:
            self._write_losses(trainer, learner)
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            self.report.advance(learner.step)
            self.ledger.energy.note(NOTE_SECONDS)
        if trainer.world_size > 1 and not log and learner.step < self._look:
            return  # ranks decide together, which takes a moment: where they have just synchronised, and about every second
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the end of the epoch decides
        stop, due = self._decide(trainer, learner.step)
        if stop or due:
            self.save(trainer, learner)
        if stop:
            self._writing.wait()
            raise Interrupted

    def on_validation_batch_end(self, *_: Any) -> None:
        self._leaving()

    on_test_batch_end = on_validation_batch_end

    def on_validation_start(self, trainer, learner: LearnerModule) -> None:
        self.ledger.energy.enter(EVALUATE)

    def on_validation_end(self, trainer, learner: LearnerModule) -> None:
        self.ledger.energy.enter(TRAIN)

    def on_train_epoch_end(self, trainer, learner: LearnerModule) -> None:
        self._write_losses(trainer, learner)
        epoch = trainer.current_epoch
        each = list(zip(self.selections, learner.learners, strict=True))
        values = [_named(f"val/{kept.name}".rstrip("/"), one.evaluated) for kept, one in each]
        self._write(trainer, {"stage": self.label, "step": learner.step, "epoch": epoch, **_joined(values)})
        for kept, one in each:
            kept.take(epoch, one, self.monitor, self.better)
        if trainer.is_global_zero:
            self.report.advance(learner.step)
            self.report.epoch(self.label, epoch, self.epochs, learner.evaluated)
        stop, due = self._decide(trainer, learner.step)
        if stop or due:
            self.save(trainer, learner)
        if stop:
            self._writing.wait()
            raise Interrupted

    def on_save_checkpoint(self, trainer, learner: LearnerModule, checkpoint: dict[str, Any]) -> None:
        pairs = zip(self.selections, learner.learners, strict=True)
        states = [{**one.state(), **kept.state()} for kept, one in pairs]
        checkpoint["kdrun"] = {
            "identity": self.identity,
            "random": seeds.capture(),
            "rows": self.rows,
            **states[0],
            "peers": states[1:],
            "ledger": self.ledger.state(),
            "taught": self.taught(learner),
            "asked": self.asked,
        }

    def on_load_checkpoint(self, trainer, learner: LearnerModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["kdrun"]
        if state["identity"] != self.identity:
            raise RuntimeError(f"the checkpoint belongs to {state['identity']}, this stage is {self.identity}")
        self._random = state["random"]
        states = (state, *(state.get("peers") or ()))
        for kept, one, known in zip(self.selections, learner.learners, states, strict=True):
            one.resume(known)
            kept.resume(known, self.work)
        self.rows = state["rows"]
        self.ledger.resume(state["ledger"])
        self.taught_earlier = state["taught"]
        self.asked += state.get("asked", 0)
        if trainer.is_global_zero:
            self.report.rows(self.rows)

    # ours

    def save(self, trainer, learner: LearnerModule) -> None:
        """The whole state as it is now, written whole or not at all and with its checksum, beside the one before it; by a thread, unless a
        checkpoint after every step is asked for. Selected weights lie beside them and are written only when they are new."""
        begin, selected = time.monotonic(), [(kept, kept.best, kept.best_state) for kept in self.selections]
        self._writing.wait()
        trainer.save_checkpoint(self.work / CHECKPOINT)
        state, trainer.strategy.checkpoint_io.taken = trainer.strategy.checkpoint_io.taken, None
        if trainer.is_global_zero:
            self._writing.start(lambda: self._write_state(state, selected))
            if not self.seconds:
                self._writing.wait()
        self._saved = time.monotonic()
        self._saving = self._saved - begin

    def _write_state(self, state: dict[str, Any], selected: list[tuple[Selection, Any, Any]]) -> None:
        path, needed = self.work / CHECKPOINT, {kept.file for kept in self.selections}
        for (kept, best, weights), told in zip(selected, (state["kdrun"], *state["kdrun"]["peers"]), strict=True):
            told |= kept.write(self.work, best, weights)
        keep_previous(path)
        with sealing(path) as file:
            torch.save(state, file)
        for best in self.work.glob("best-*.safetensors"):
            if best.name not in needed | {kept.file for kept in self.selections}:
                best.unlink(missing_ok=True)

    def on_train_end(self, *_: Any) -> None:
        self._writing.wait()

    def on_exception(self, *_: Any) -> None:
        """A state that is being written is written before whoever asked for the stage hears what happened, be it that the disk is full."""
        try:
            self._writing.wait()
        except OSError:
            logging.getLogger(__name__).exception("the last checkpoint was not written")

    def _decide(self, trainer, step: int) -> tuple[bool, bool]:
        """(a signal asked to stop, a checkpoint is due), the same on all ranks; they say, too, when they ask each other again."""
        now = time.monotonic()
        taken = self._saving + self._writing.seconds  # of the processor, which is busy elsewhere where a GPU computes
        due = now - self._saved >= (max(self.seconds, taken / CHECKPOINT_SHARE) if self.seconds else 0)
        due = due and not self._writing.busy
        stop = self.report.stop_requested()
        if trainer.world_size == 1:
            return stop, due
        pace = (now - self._looked) / max(step - self._look_from, 1)
        stop, due, ahead = trainer.strategy.broadcast((stop, due, max(1, int(LOOK_SECONDS / max(pace, 1e-6)))), src=0)
        self._looked, self._look_from, self._look = now, step, step + ahead
        return stop, due

    def _write_losses(self, trainer, learner: LearnerModule) -> None:
        pairs = zip(self.selections, learner.learners, strict=True)
        values = _joined([_named(f"train/{kept.name}".rstrip("/"), one.flush_losses()) for kept, one in pairs])
        if values and learner.backend.rollout is not None:
            values |= _named("train", learner.backend.rollout.told())
        if values:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            row = {"stage": self.label, "step": learner.step, "epoch": trainer.current_epoch, **values}
            self._write(trainer, {**row, "train/learning_rate": rate})

    def _write(self, trainer, row: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            self.rows.append(row)
            self.report.rows([row])


def _named(split: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}


def _joined(each: list[dict[str, float]]) -> dict[str, float]:
    return {name: value for values in each for name, value in values.items()}
