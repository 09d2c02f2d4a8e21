"""One table of whether kdrun does on a GPU what it does on a CPU, and how fast: at most eight minutes on one device.

    python scripts/gpu_check.py [--device cuda] [--quick]

Every row is a run of `kdrun.run` on digits (no download), a ResNet-14 teaching a ResNet-8:
  fp32            the row that the others are compared with, teacher asked in every step
  bf16, fp16      the other number formats (fp16: GPUs alone)
  cached          outputs of the teacher from disk; the last line has its speed and accuracy against fp32, which asks the teacher
  compile         student and teacher compiled: by inductor, on a CPU by aot_eager, which needs no compiler
  recompute       activations computed again in the backward pass
  fused           one kernel for all parameters of the optimizer
  channels last   the other memory layout
  accumulate      each batch in two parts, gradients clipped
  workers         batches made ahead by two processes; test accuracy has to be that of fp32 to the bit on a CPU
  two devices     NCCL on GPUs, gloo on a CPU; where there are two
  teacher parts   the same, with the teacher's weights in parts over them
  plain loop      the same step by hand: teacher, student, loss, SGD; images a second alone
A row says how it ended, test accuracy, images a second of training (the first epoch's start-up included), the peak of memory and what
learning.footprint estimates of it (workspace of operators left out). Rows that are more than --tolerance below fp32 are marked, and the exit
code is then 1. With --device cpu the same code runs anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import kdrun
from kdrun.learning.device import available
from kdrun.learning.footprint import footprint, kept_bytes
from kdrun.ledger.roofline import on
from kdrun.networks.resnet import ResNet

ROWS = {
    "fp32": [],
    "bf16": ["hardware.precision=bf16"],
    "fp16": ["hardware.precision=fp16"],
    "cached": ["teacher.source=cached"],
    "compile": ["trainer.compile=inductor"],
    "recompute": ["trainer.activation_checkpointing=true"],
    "fused": ["+trainer.optimizer.fused=true"],
    "channels last": ["hardware.channels_last=true"],
    "accumulate": ["trainer.accumulate=2", "trainer.clip=1.0"],
    "workers": ["hardware.workers=2"],
    "two devices": ["hardware.devices=2"],
    "teacher parts": ["hardware.devices=2", "teacher.sharding=fsdp"],
}


ON_CPU = {"compile": ["trainer.compile=aot_eager"]}
"""Words in place of those above."""
DEPTHS = {True: ((8, 2), (8, 4)), False: ((8, 16), (14, 16))}
"""Depth and width of student and teacher, of a quick check and of a whole one."""


def estimate(extra: list[str], quick: bool) -> float | None:
    """Memory of a device in 10^6 bytes, of a batch of 64 digits; None where activations are not kept as a plain step keeps them."""
    if any("recompute" in word or "activation" in word for word in extra):
        return None
    said = dict(word.lstrip("+").split("=", 1) for word in extra)
    devices, parts = int(said.get("hardware.devices", 1)), int(said.get("trainer.accumulate", 1))
    student, teacher = (ResNet(depth, width, in_channels=1, image_size=8) for depth, width in DEPTHS[quick])
    samples, online = 64 / devices / parts, said.get("teacher.source") != "cached"
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
    hardware = {"devices": devices, "precision": said.get("hardware.precision", "fp32")}
    kept = kept_bytes(student, on((1, 8, 8), 1)) * samples
    taught = {"sharding": said.get("teacher.sharding", "none")}
    teachers = [teacher] if online else []
    found = footprint(student, teachers, {"optimizer": optimizer}, hardware, kept, 10 * samples, taught)
    return 1e3 * found["total"]


def words(device: str, outputs: Path, quick: bool) -> list[str]:
    size = ["student=resnet8_w2", "teacher=resnet8_w4"] if quick else ["student=resnet8", "teacher=resnet14"]
    common = [
        "data=digits",
        "teacher.source=online",
        "strategy.controls=[]",
        "tracker=none",
        "seed=0",
        "energy.reader=none",
    ]
    length = ["trainer.epochs=2", "data.limit.train=256"] if quick else ["trainer.epochs=20"]
    return [*common, *size, *length, "trainer.batch_size=64", f"hardware.device={device}", f"paths.outputs={outputs}"]


def row(name: str, extra: list[str], common: list[str], device: str, quick: bool) -> dict[str, Any]:
    """What became of a run: {"name", "status", "accuracy", "images_s", "memory_mb", "estimate_mb", "seconds"}."""
    begin = time.perf_counter()
    with peak(device) as memory:
        try:
            replaced = {word.partition("=")[0] for word in extra}
            done = kdrun.run(*(word for word in common if word.partition("=")[0] not in replaced), *extra)
            student = next(stage for stage in done.stages if stage["label"].startswith("student"))
            cost = student["cost"]
            seconds, images = cost.get("training_seconds") or cost.get("seconds"), cost["samples"]
            found = {
                "status": done.status,
                "accuracy": done.accuracy(),
                "images_s": images / seconds if seconds else None,
            }
        except Exception as error:  # the table is what is wanted, whatever a row does
            found = {"status": f"{type(error).__name__}: {str(error).splitlines()[0]}"[:60]}
    seconds = time.perf_counter() - begin
    return {"name": name, **found, "memory_mb": memory[0], "estimate_mb": estimate(extra, quick), "seconds": seconds}


def plain(device: str, quick: bool) -> dict[str, Any]:
    """Images a second of the same step by hand on made-up images of the same size."""
    begin, steps = time.perf_counter(), 8 if quick else 200
    student, teacher = (ResNet(depth, width, in_channels=1, image_size=8).to(device) for depth, width in DEPTHS[quick])
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    teacher.eval()
    images, labels = torch.randn(64, 1, 8, 8, device=device), torch.randint(10, (64,), device=device)
    with peak(device) as memory:
        for step in range(steps):
            if step == steps // 4:
                synchronise(device)
                started = time.perf_counter()
            with torch.no_grad():
                told = teacher(images)
            logits = student(images)
            soft = functional.kl_div(logits.div(4).log_softmax(-1), told.div(4).softmax(-1), reduction="batchmean")
            (0.1 * functional.cross_entropy(logits, labels) + 0.9 * 16 * soft).backward()
            optimizer.step()
            optimizer.zero_grad()
        synchronise(device)
    speed = 64 * (steps - steps // 4) / (time.perf_counter() - started)
    seconds = time.perf_counter() - begin
    return {"name": "plain loop", "status": "done", "images_s": speed, "memory_mb": memory[0], "seconds": seconds}


@contextlib.contextmanager
def peak(device: str) -> Iterator[list[float | None]]:
    """A list of one: most memory of the device that this process had inside, in 10^6 bytes; None on other devices than CUDA."""
    found: list[float | None] = [None]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        found[0] = torch.cuda.max_memory_allocated() / 1e6


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def skipped(name: str, device: str, have: dict[str, int]) -> str | None:
    if name == "fp16" and device == "cpu":
        return "not on a CPU"
    return "one device here" if "hardware.devices=2" in ROWS[name] and have[device] < 2 else None


def main() -> int:
    have = available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=next(iter(have)), choices=list(have))
    parser.add_argument("--quick", action="store_true", help="two epochs of few images: does every row run?")
    parser.add_argument("--rows", default=",".join(ROWS), help="names of rows, with commas")
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="test accuracy below that of fp32 that marks a row"
    )
    options = parser.parse_args()
    print(
        f"{options.device}: {torch.cuda.get_device_name() if options.device == 'cuda' else 'this CPU'}, torch {torch.__version__}"
    )
    print(f"{'':16}{'ended':<16}{'accuracy':>9}{'images/s':>10}{'peak MB':>9}{'est. MB':>9}{'seconds':>9}")
    found, marked = {}, False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.rows.split(","):
            # Of its own, teacher included: some rows differ in nothing that results are kept by.
            common = words(options.device, Path(folder) / name.replace(" ", "_"), options.quick)
            why = skipped(name, options.device, have)
            extra = ON_CPU.get(name, ROWS[name]) if options.device == "cpu" else ROWS[name]
            ran = why is None
            found[name] = (
                row(name, extra, common, options.device, options.quick) if ran else {"name": name, "status": why}
            )
            worse = why is None and not options.quick and is_worse(found[name], found.get("fp32"), options.tolerance)
            failed = why is None and found[name]["status"] != "done"
            marked |= worse or failed
            show(found[name], " <-- below fp32" if worse else " <--" if failed else "")
    show(plain(options.device, options.quick))
    compare(found)
    return 1 if marked else 0


def is_worse(one: dict[str, Any], fp32: dict[str, Any] | None, tolerance: float) -> bool:
    known = fp32 is not None and one.get("accuracy") is not None and fp32.get("accuracy") is not None
    return known and one["accuracy"] < fp32["accuracy"] - tolerance


def compare(found: dict[str, dict[str, Any]]) -> None:
    """The cached teacher against the one that is asked in every step."""
    online, cached = found.get("fp32", {}), found.get("cached", {})
    if online.get("images_s") and cached.get("images_s"):
        speed, accuracy = cached["images_s"] / online["images_s"], cached["accuracy"] - online["accuracy"]
        print(f"cached against online: {speed:.2f} times the images a second, accuracy {accuracy:+.4f}", flush=True)


def show(one: dict[str, Any], mark: str = "") -> None:
    keys, forms = (
        ("accuracy", "images_s", "memory_mb", "estimate_mb", "seconds"),
        (".4f", ",.0f", ",.0f", ",.1f", ".1f"),
    )
    cells = [
        "n/a" if value is None else f"{value:{form}}" for value, form in zip(map(one.get, keys), forms, strict=True)
    ]
    widths = zip(cells, (9, 10, 9, 9, 9), strict=True)
    print(
        f"{one['name']:16}{one['status']:<16}{''.join(f'{cell:>{width}}' for cell, width in widths)}{mark}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
