"""Cost of a training step of each vision loss relative to plain KD: ratios of time and of peak memory, on this machine's CPU.

    python scripts/bench_objectives.py [--names dkd,crd] [--steps 2] [--repeats 25] [--quick]

One line per objective, for the networks and data of table objectives (teacher resnet8, student resnet8_w4, digits, batches of 128):
  time     processor seconds of a step: the teacher's forward pass, the student's passes, losses and the optimizer; the median over
           repeats of the ratio to plain KD, which is measured again beside each repeat, so that load of the machine cancels out
  spread   between the quartiles of these ratios
  memory   what steps add to the peak of resident memory, each objective in a process of its own, over what plain KD adds; Linux only
Weights by schedule have their largest value. The teacher runs in every step, though kdrun keeps its logits where it can: ratios of
losses on logits are then larger.
--quick: one step, twice, for a test.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import nn

from kdrun.config.groups import conf_dirs, tables
from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.learning import seeds
from kdrun.learning.backend import Backend
from kdrun.learning.step import compared
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.wiring import capture_of, of_data, reuse_classifier, shapes_of, wire
from kdrun.networks.build import build_network
from kdrun.objectives.terms import build_objective
from kdrun.strategies.cast import Cast

KD = "kd"


def rows() -> dict[str, list[str]]:
    """Name of an objective -> its overrides, from the table of objectives: those that have a teacher."""
    content = yaml.safe_load(Path(tables(conf_dirs()[0])["objectives"].file).read_text())
    chosen = {row["id"]: row["overrides"] for row in content["rows"]}
    return {name: words for name, words in chosen.items() if words[0] == f"objective={name}" and name != "tf_kd"}


def prepared(words: list[str]) -> Callable[[], None]:
    """One step of training at a time, always on the same batch."""
    config = compose(["experiment=transfer", "hardware=cpu", "seed=0", "tracker=none", *words]).cells[0]
    cast, module = Cast(config), load_data(config["data"], config["paths"])
    objective, task, batch_size = build_objective(config["objective"]), module.task(), config["trainer"]["batch_size"]
    student = build_network(cast.student.config["network"], module.spec, seeds.derive(0, "weights"))
    network = build_network(cast.teacher.config["network"], module.spec, seeds.derive(1, "weights"))
    task.prepare(objective.wanted)
    teacher = FrozenTeacher(network, task, "teacher")
    teacher.capture = capture_of(teacher.network, objective, "teacher")
    reuse_classifier(objective, student, [teacher.network])
    shapes = [
        shapes_of(net, objective, who, task, module.spec)
        for who, net in (("student", student), ("teacher", teacher.network))
    ]
    objective, adaptor = wire(objective, shapes[0], [shapes[1]], None, 0, **of_data(module, batch_size))
    beside = {"terms": nn.ModuleDict(objective.modules)} if objective.modules else {}
    capture = capture_of(student, objective, "student")
    backend = Backend(task, student.train(), adaptor=adaptor, capture=capture, beside=beside)
    learning = [student, *backend.beside.values()]
    trained = [p for part in learning for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
    batch = next(iter(module.train_loader(batch_size, 0)))
    count = batch.get("sizes", batch["size"])

    def step() -> None:
        total, _ = objective(compared(student, teacher, objective, batch, 0, backend), count)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None], steps: int) -> float:
    """Seconds of processor time of this process, which other processes do not lengthen as they do the time of a clock."""
    started = time.process_time()
    for _ in range(steps):
        step()
    return time.process_time() - started


def added_memory(words: list[str], steps: int) -> float:
    """MiB that steps add to the peak of resident memory, in a forked process; NaN where Linux does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            step = prepared(words)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed would serve the steps unseen
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            seconds(step, steps)
            os.write(writing, str(resident("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return float(text or "nan")


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default="")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a fork of a process with a pool of threads would wait for them
    steps, repeats = (1, 2) if asked.quick else (asked.steps, asked.repeats)
    known = rows()
    names = asked.names.split(",") if asked.names else [name for name in known if name != KD]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--names {','.join(unknown)}: choose among {', '.join(known)}")
    # All of them from the same state of this process, which has not yet run a step.
    memory = {name: added_memory(known[name], steps) for name in dict.fromkeys([KD, *names])}
    plain = prepared(known[KD])
    plain()
    milliseconds = 1000 * seconds(plain, steps) / steps
    print(f"plain KD: {milliseconds:.1f} ms a step, which adds {memory[KD]:.1f} MiB; the others as multiples of it")
    print(f"{'objective':20} {'time':>6} {'spread':>7} {'memory':>7}")
    for name in names:
        step = prepared(known[name])
        step()
        ratios = [seconds(step, steps) / seconds(plain, steps) for _ in range(repeats)]
        low, _, high = statistics.quantiles(ratios, n=4)
        spread = high - low
        print(f"{name:20} {statistics.median(ratios):6.2f} {spread:7.2f} {memory[name] / memory[KD]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
