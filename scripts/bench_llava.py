"""Steps per second of vision-language training in kdrun against a loop written by hand; one thread, ratios in one process.

    python scripts/bench_llava.py [--repeats 9] [--questions 3200] [--batch 64] [--part supervised] [--part distilled] [--part cached]

Data, networks and trainer are those of `model=llava` with cached features of the tower, on fewer questions. Both contenders
have the same batches (captions among them), networks from the same seed, optimizer, learning rates and gradient clipping;
the hand-written loop takes its batches from kdrun's loader. Medians over repeats that alternate in who comes first:
  supervised  llava_w16 and llava_w64 on labels
  distilled   both taught by an online llava_w64 with the four terms of `objective=llava`
  cached      kdrun alone: llava_w16, its teacher's outputs from disk against the teacher online, and what they take there
`apart` is the largest difference between the two loops' weights after the epoch: they do the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.learning.callbacks import Keeping
from kdrun.learning.learner import LearnerModule
from kdrun.learning.positions import CachedPositions, PositionCache, cache_bytes
from kdrun.learning.report import Report
from kdrun.learning.schedule import schedule
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.teaching import moved
from kdrun.learning.trainer import Epochs, make_trainer
from kdrun.ledger.ledger import Ledger, clocks
from kdrun.networks.build import build_network
from kdrun.networks.parts import select_parts
from kdrun.objectives.terms import build_objective
from kdrun.targets import build

HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}
SKIPPED = 5  # steps that are not timed: allocations, and the no-op detector of the first step
LABELS = {"ce": {"weight": 1.0}}


def clock() -> tuple[float, float]:
    """(wall seconds, CPU seconds of this process)."""
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True)
class Pace:
    """Seconds per step of one epoch: of the wall's clock, of the processor."""

    wall: float
    processor: float

    @classmethod
    def between(cls, begun: tuple[float, float], ended: tuple[float, float], steps: int) -> Pace:
        return cls(*((end - begin) / steps for begin, end in zip(begun, ended, strict=True)))


class Bench:
    """The config of `model=llava` on `questions` questions of data=shapes_vqa, all with an answer, features and caches below `folder`."""

    def __init__(self, questions: int, folder: Path, batch: int | None = None):
        sizes = ["data=shapes_vqa", f"data.train={questions}", "data.val=64", "data.test=64", "data.further=0"]
        size = [f"trainer.batch_size={batch or 64}"]
        self.config = compose(["model=llava", "hardware=cpu", *sizes, *size]).config
        self.folder = folder
        self.module = load_data(self.config["data"], {"cache": str(folder)})
        self.module.prepare()
        self.trainer = self.config["trainer"]
        self.steps = len(self.loader())
        if self.steps <= SKIPPED:
            raise SystemExit(f"{questions} questions are {self.steps} steps, of which {SKIPPED} are not timed")

    def loader(self):
        return self.module.train_loader(self.trainer["batch_size"], 0)

    def network(self, name: str, seed: int = 0) -> nn.Module:
        node = compose([f"student={name}", "model=llava"]).config["student"]["network"]
        network = build_network(node, self.module.spec, seed)
        select_parts(network, self.trainer["parts"])
        return network

    def optimizer(self, parameters) -> torch.optim.Optimizer:
        return build(self.trainer["optimizer"], params=parameters)

    def rate(self) -> Callable[[int], float]:
        return schedule(self.trainer["schedule"], 1, self.steps)

    def objective(self, taught: bool) -> dict:
        return self.config["objective"] if taught else LABELS

    def frozen(self, name: str) -> FrozenTeacher:
        return FrozenTeacher(self.network(name, seed=1), self.module.task(), name)


def by_hand(bench: Bench, student: nn.Module, teacher: FrozenTeacher | None) -> Pace:
    """The loop a person would write."""
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    update = bench.optimizer(learned)
    rates = torch.optim.lr_scheduler.LambdaLR(update, bench.rate())
    student.train()
    for step, batch in enumerate(bench.loader()):
        if step == SKIPPED:
            begun = clock()
        inputs, mask, slots = batch["inputs"], batch["mask"], batch["visual_mask"]
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = teacher.network(**inputs)
        logits = student(**inputs)
        loss = functional.cross_entropy(logits[mask], batch["targets"][mask])
        if taught is not None:
            loss = loss + soft(logits[mask], taught[mask]) + soft(logits[slots], taught[slots])
            loss = loss + 0.5 * related(logits[slots], taught[slots], len(inputs["image_features"]))
        update.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, bench.trainer["clip"])
        update.step()
        rates.step()
    return Pace.between(begun, clock(), bench.steps - SKIPPED)


def soft(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    log_q, log_p = functional.log_softmax(student, -1), functional.log_softmax(teacher, -1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def related(student: torch.Tensor, teacher: torch.Tensor, images: int) -> torch.Tensor:
    """1 - cos of Z Z^T; every sample has one image."""
    z, z_teacher = student.view(images, -1, student.shape[-1]), teacher.view(images, -1, teacher.shape[-1])
    relations, given = (x @ x.transpose(1, 2) for x in (z, z_teacher))
    return (1 - functional.cosine_similarity(relations.flatten(1), given.flatten(1))).mean()


class Clock(Keeping):
    """kdrun's own callback, which also notes when the first timed step begins and the last one ends."""

    begun = ended = (0.0, 0.0)

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if batch_idx == SKIPPED:
            self.begun = clock()
        super().on_train_batch_start(trainer, learner, batch, batch_idx)

    def on_train_batch_end(self, trainer, learner, *rest):
        super().on_train_batch_end(trainer, learner, *rest)
        self.ended = clock()


def by_kdrun(bench: Bench, student: nn.Module, teacher=None) -> Pace:
    """The learner under its Lightning trainer, with everything a run has on (see learning/fit.py)."""
    task, objective = bench.module.task(), build_objective(bench.objective(teacher is not None))
    task.prepare(objective.wanted)
    settings = {name: bench.trainer[name] for name in ("accumulate", "clip", "ema")}
    learner = LearnerModule(
        student, task, objective, optimizer=bench.optimizer, rate=bench.rate(), teacher=teacher, **settings
    )
    options = {"monitor": "loss", "mode": "min", "log_every": bench.trainer["log_every"], "seconds": 1e9}
    with tempfile.TemporaryDirectory() as folder:
        kept = Clock(Path(folder), Report(), "bench", ledger=Ledger(clocks()), identity={}, epochs=1, **options)
        trainer = make_trainer(HARDWARE, callbacks=[kept], max_epochs=1)
        trainer.fit(learner, Epochs(bench.loader(), learner), bench.module.eval_loader("val", 64))
    return Pace.between(kept.begun, kept.ended, bench.steps - SKIPPED)


def alternating(repeats: int, contenders: dict[str, Callable[[], Pace]]) -> dict[str, list[Pace]]:
    """Paces of each; who comes first changes every time, since a machine that others use drifts by more than a difference."""
    found: dict[str, list[Pace]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            found[name].append(contenders[name]())
    return found


def told(found: dict[str, list[Pace]], one: str, other: str) -> str:
    """Medians of both, the median over repeats of how fast `other` is in units of `one`, how far `one` alone varies."""
    middle = {name: statistics.median(pace.wall for pace in paces) for name, paces in found.items()}
    pairs = list(zip(found[one], found[other], strict=True))
    wall = statistics.median(first.wall / second.wall for first, second in pairs)
    processor = statistics.median(first.processor / second.processor for first, second in pairs)
    walls = [1e3 * pace.wall for pace in found[one]]
    return (
        f"{one} {1 / middle[one]:.1f} steps/s, {other} {1 / middle[other]:.1f}, ratio {wall:.3f} (of CPU seconds "
        f"{processor:.3f}); {one} from {min(walls):.1f} to {max(walls):.1f} ms a step"
    )


def against_hand(bench: Bench, repeats: int, name: str, teacher: str | None) -> None:
    frozen = None if teacher is None else bench.frozen(teacher)
    left: dict[str, nn.Module] = {}

    def run(who: str, loop) -> Pace:
        left[who] = bench.network(name)
        return loop(bench, left[who], frozen)

    found = alternating(repeats, {"hand": lambda: run("hand", by_hand), "kdrun": lambda: run("kdrun", by_kdrun)})
    hand, ours = (left[who].state_dict() for who in ("hand", "kdrun"))
    apart = max(float((hand[key] - ours[key]).abs().max()) for key in hand)
    what = f"supervised: {name}" if teacher is None else f"distilled: {name} taught by {teacher}"
    print(f"{what}: {told(found, 'hand', 'kdrun')}; apart {apart:.0e}", flush=True)


def cached(bench: Bench, repeats: int, name: str, teacher: str) -> None:
    frozen, started = bench.frozen(teacher), clock()
    cache = PositionCache(bench.folder / f"outputs-{teacher}", bench.module, {})
    cache.build(frozen, torch.device("cpu"), lambda done: None, moved)
    cache.finish()
    seconds, samples = clock()[1] - started[1], len(bench.module.train_ids)
    stored = CachedPositions(cache, teacher)
    found = alternating(
        repeats,
        {
            "online": lambda: by_kdrun(bench, bench.network(name), frozen),
            "cached": lambda: by_kdrun(bench, bench.network(name), stored),
            "alone": lambda: by_kdrun(bench, bench.network(name)),
        },
    )
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    middle = {who: statistics.median(pace.wall for pace in paces) for who, paces in found.items()}
    print(
        f"cached: {name} taught by {teacher}: {told(found, 'online', 'cached')}; without a teacher {1 / middle['alone']:.1f} "
        f"steps/s; {size / 1e6:.1f} MB for {samples} samples ({size / samples / 1e3:.2f} kB each, {cache_bytes(bench.module)} "
        f"bytes foreseen), built in {seconds:.1f} CPU seconds",
        flush=True,
    )


def loading(bench: Bench) -> None:
    """What a batch costs before any network sees it: part of a step of both contenders."""
    started = clock()
    for _ in bench.loader():
        pass
    pace = Pace.between(started, clock(), bench.steps)
    spec = bench.module.spec
    print(
        f"data: {len(bench.module.train_ids)} samples, {bench.steps} steps of {bench.trainer['batch_size']}, vocabulary "
        f"{spec.vocabulary}, {spec.image_tokens} slots of {spec.feature_width} features; a batch takes "
        f"{1e3 * pace.processor:.2f} CPU ms",
        flush=True,
    )


PARTS = ("supervised", "distilled", "cached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--questions", type=int, default=3200)
    parser.add_argument("--batch", type=int, help="samples of a step; 64 if not given")
    parser.add_argument("--students", default="llava_w16,llava_w64")
    parser.add_argument("--teachers", default="llava_w64,llava_w128", help="of the part `cached`")
    parser.add_argument("--part", choices=PARTS, action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts, students = given.part or PARTS, given.students.split(",")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.questions, Path(folder), given.batch)
        loading(bench)
        for part, teacher in (("supervised", None), ("distilled", "llava_w64")):
            for name in students if part in parts else ():
                against_hand(bench, given.repeats, name, teacher)
        for teacher in given.teachers.split(",") if "cached" in parts else ():
            cached(bench, given.repeats, students[0], teacher)


if __name__ == "__main__":
    main()
