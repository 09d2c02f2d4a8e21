"""Steps per second of kdrun against a hand-written PyTorch loop: same networks, data, batches; ratios in one process.

    python scripts/bench_core.py [--repeats 15] [--steps 25,300]

Prints three comparisons, medians over interleaved repeats:
  large   a step of 20 ms and more (ResNet-8 of width 8 taught by ResNet-14, 28x28): ratio of steps per second
  tiny    an MLP on digits: added milliseconds per step, with losses written and a bar's report attached
  cached  a step with cached teacher outputs against a step without a teacher
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from kdrun.domains.images.module import ImageDataModule
from kdrun.domains.images.source import Images
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.learning.cache import CachedTeacher, OutputCache
from kdrun.learning.callbacks import Keeping
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Report
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.trainer import Epochs, make_trainer
from kdrun.ledger.ledger import Ledger, clocks
from kdrun.networks.mlp import MLP
from kdrun.networks.resnet import ResNet
from kdrun.objectives.terms import build_objective

HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}
KD = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}}
BATCH = 64
SKIPPED = 5  # steps that are not timed: allocations, and the no-op detector of the first step


def data(samples: int, side: int) -> ImageDataModule:
    """Random pixels: speed does not depend on what is on the images."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (samples + 128, 1, side, side), np.uint8)
    y = random.integers(0, 10, samples + 128)
    split = np.r_[np.zeros(samples, np.int8), np.ones(64, np.int8), np.full(64, 2, np.int8)]
    ids = np.arange(samples + 128)
    images = Images(
        x=x, y=y, split=split, ids=ids, classes=tuple(map(str, range(10))), name="bench", source_hash="0" * 64
    )
    sizes = {"train": samples, "val": 64, "test": 64}
    return ImageDataModule(images, split, DataSpec("bench", images.classes, (1, side, side), sizes, (0.5,), (0.3,)))


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def hand_loop(module, student, teacher) -> float:
    """Seconds per step of the loop a person would write; teacher=None trains on labels alone."""
    loader, steps = module.train_loader(BATCH, 0), 0
    update = optimizer(student.parameters())
    student.train()
    for batch in loader:
        if steps == SKIPPED:
            started = time.perf_counter()
        with torch.no_grad():
            taught = None if teacher is None else teacher(batch["inputs"])
        logits = student(batch["inputs"])
        loss = functional.cross_entropy(logits, batch["targets"])
        if taught is not None:
            soft = functional.kl_div(
                functional.log_softmax(logits / 4, -1), functional.log_softmax(taught / 4, -1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            loss = 0.1 * loss + 0.9 * 16 * soft
        update.zero_grad(set_to_none=True)
        loss.backward()
        update.step()
        steps += 1
    return (time.perf_counter() - started) / (steps - SKIPPED)


class Clock(Keeping):
    """kdrun's own callback, which also notes when the first timed step begins and the last one ends."""

    begun = ended = 0.0

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if batch_idx == SKIPPED:
            self.begun = time.perf_counter()
        super().on_train_batch_start(trainer, learner, batch, batch_idx)

    def on_train_batch_end(self, trainer, learner, *rest):
        super().on_train_batch_end(trainer, learner, *rest)
        self.ended = time.perf_counter()


def kdrun_loop(module, student, teacher, objective=KD) -> float:
    """Seconds per step of the learner under its Lightning trainer, with everything a run has on."""
    learner = LearnerModule(
        student, Classification(module.spec), build_objective(objective), optimizer=optimizer, teacher=teacher
    )
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(
            Path(folder),
            Report(),
            "bench",
            monitor="accuracy",
            mode="max",
            log_every=20,
            seconds=1e9,
            identity={},
            epochs=1,
            ledger=Ledger(clocks()),
        )
        trainer = make_trainer(HARDWARE, callbacks=[clock], max_epochs=1)
        loader = module.train_loader(BATCH, 0)
        trainer.fit(learner, Epochs(loader, learner), module.eval_loader("val", 64))
    return (clock.ended - clock.begun) / (len(loader) - SKIPPED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--steps", default="25,300", help=f"of an epoch: large, tiny; the first {SKIPPED} are not timed"
    )
    given = parser.parse_args()
    repeats, (large, tiny) = given.repeats, map(int, given.steps.split(","))
    torch.set_num_threads(1)
    cases = {
        "large": (
            data(BATCH * large, 28),
            lambda: ResNet(depth=8, width=8, in_channels=1),
            lambda: ResNet(depth=14, width=16, in_channels=1),
        ),
        "tiny": (data(BATCH * tiny, 8), lambda: MLP(hidden=[128]), lambda: MLP(hidden=[512, 512])),
    }
    for name, (module, make_student, make_teacher) in cases.items():
        teacher = make_teacher().eval()
        frozen = FrozenTeacher(teacher, Classification(module.spec), "t")
        hand, ours = [], []
        for repeat in range(repeats):
            # Who comes first changes every time: a machine that others use drifts by more than the difference.
            for who in ("hand", "ours") if repeat % 2 else ("ours", "hand"):
                if who == "hand":
                    hand.append(hand_loop(module, make_student(), teacher))
                else:
                    ours.append(kdrun_loop(module, make_student(), frozen))
        one, other = statistics.median(hand), statistics.median(ours)
        print(
            f"{name}: hand {1e3 * one:.3f} ms, kdrun {1e3 * other:.3f} ms a step; "
            f"speed {one / other:.3f} of the hand loop, {1e3 * (other - one):+.3f} ms; "
            f"hand loop from {1e3 * min(hand):.1f} to {1e3 * max(hand):.1f} ms"
        )
    module = cases["large"][0]
    frozen = FrozenTeacher(cases["large"][2](), Classification(module.spec), "t")
    with tempfile.TemporaryDirectory() as folder:
        cache = OutputCache(Path(folder), module.train_ids, 1, 10, {})
        cache.build(frozen, module.inputs, torch.device("cpu"))
        cache.finish()
        source = CachedTeacher(cache, "t")
        alone, cached = [], []
        for repeat in range(repeats):
            for who in ("alone", "cached") if repeat % 2 else ("cached", "alone"):
                if who == "alone":
                    alone.append(kdrun_loop(module, cases["large"][1](), None, {"ce": {"weight": 1.0}}))
                else:
                    cached.append(kdrun_loop(module, cases["large"][1](), source))
    ratio = statistics.median(cached) / statistics.median(alone)
    print(
        f"cached: a step with a cached teacher takes {ratio:.3f} of one without; "
        f"without from {1e3 * min(alone):.1f} to {1e3 * max(alone):.1f} ms, with from {1e3 * min(cached):.1f} to {1e3 * max(cached):.1f} ms"
    )


if __name__ == "__main__":
    main()
