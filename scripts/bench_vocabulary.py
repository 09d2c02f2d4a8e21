"""Losses over a large vocabulary, chunk by chunk, against their dense form: ratios of peak memory and of time.

    python scripts/bench_vocabulary.py [--positions 512] [--vocabulary 128000] [--widths 64,256] [--repeats 5]

One line per width and loss, value and gradients of the student's hidden states and output layer:
  memory   what a step adds to the peak of resident memory, each form in a fresh process of its own
  time     CPU seconds of a step, medians over repeats that alternate in one process
  error    largest deviation of values and gradients (hidden states, layer), relative to the largest of the dense form
The dense form is `linear` and kdrun's dense terms, whose gradients are written out as well. Lines with `weighted` sum the
positions with different weights, so that the output layer's gradient cannot be computed ahead; others take the mean, as
training does; `frozen` ones want no gradient of the output layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

LOSSES = ("ce", "forward", "reverse", "jsd", "ce+forward", "ce+forward T=2", "ce+forward weighted", "ce+forward frozen")


def tensors(positions: int, vocabulary: int, width: int) -> dict:
    """Random states and layers whose logits have a standard deviation of about 2; a teacher of the same width."""
    import torch

    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    head = normal(vocabulary, width) * (2 / width**0.5)
    return {
        "student_hidden": normal(positions, width).requires_grad_(),
        "student_head": head.requires_grad_(),
        "teacher_hidden": normal(positions, width),
        "teacher_head": normal(vocabulary, width) * (2 / width**0.5),
        "targets": torch.randint(vocabulary, (positions,), generator=random),
        "weights": torch.rand(positions, generator=random) / positions,
    }


def settings(loss: str) -> tuple[float, float, str, float]:
    """(factor of the cross-entropy, of the divergence, its kind, its temperature)."""
    name, _, temperature = loss.split(" weighted")[0].split(" frozen")[0].partition(" T=")
    parts = name.split("+")
    kind = next((part for part in parts if part != "ce"), "forward")
    return float("ce" in parts), float(parts != ["ce"]), kind, float(temperature or 1)


def dense(given: dict, loss: str):
    """[N] values as they are without this: all logits of both networks, and the terms on them."""
    from torch.nn.functional import linear

    from kdrun.objectives.ce import ce
    from kdrun.objectives.jsd import jsd
    from kdrun.objectives.kd import kd
    from kdrun.objectives.kl_reverse import kl_reverse

    for_ce, for_kd, kind, temperature = settings(loss)
    student = linear(given["student_hidden"], given["student_head"])
    values = ce(student, given["targets"]) if for_ce else 0.0
    if for_kd:
        term = {"forward": kd, "reverse": kl_reverse, "jsd": jsd}[kind]
        values = values + term(student, linear(given["teacher_hidden"], given["teacher_head"]), temperature=temperature)
    return values


def chunked(given: dict, loss: str):
    from kdrun.objectives.vocabulary import Settings, vocabulary_values

    for_ce, for_kd, kind, temperature = settings(loss)
    names = ("student_hidden", "student_head", "teacher_hidden", "teacher_head", "targets")
    asked = Settings(ce=for_ce, kd=for_kd, kind=kind, temperature=temperature, recompute="weighted" in loss)
    return vocabulary_values(*(given[name] for name in names), settings=asked)


FORMS = {"dense": dense, "chunked": chunked}


def step(form: str, given: dict, loss: str):
    """(values, gradient of hidden states, gradient of the output layer) of a sum over positions."""
    import torch

    learning = [given["student_hidden"]]
    if "frozen" in loss:
        given = {**given, "student_head": given["student_head"].detach()}
    else:
        learning.append(given["student_head"])
    values = FORMS[form](given, loss)
    summed = values * given["weights"] if "weighted" in loss else values / len(values)
    return values.detach(), *torch.autograd.grad(summed.sum(), learning)


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(form: str, sizes: tuple[int, int, int], loss: str) -> float:
    """MiB that a step adds to resident memory at its peak, measured in this process, which must be a fresh one."""
    small = tensors(4, 64, sizes[2])
    step(form, small, loss)  # imports, threads and libraries' own buffers
    given = tensors(*sizes)
    before = resident("VmRSS")
    step(form, given, loss)
    return resident("VmHWM") - before


def fresh_peak(form: str, sizes: tuple[int, int, int], loss: str) -> float:
    command = [sys.executable, __file__, "--peak", json.dumps([form, sizes, loss])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(sizes: tuple[int, int, int], loss: str, repeats: int) -> str:
    given = tensors(*sizes)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    found = {}
    for repeat in range(repeats + 1):
        for form in sorted(FORMS, reverse=bool(repeat % 2)):
            started = time.process_time()
            found[form] = step(form, given, loss)
            if repeat:  # the first allocates
                seconds[form].append(time.process_time() - started)
            if repeat < repeats:
                found.clear()
    errors = [
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(found["chunked"], found["dense"], strict=True)
    ]
    found.clear()
    times = {form: statistics.median(values) for form, values in seconds.items()}
    peaks = {form: fresh_peak(form, sizes, loss) for form in FORMS}
    return (
        f"D={sizes[2]:<4} {loss:<20}"
        f" memory: {peaks['chunked']:6.0f} of {peaks['dense']:6.0f} MiB, ratio {ratio(peaks)}"
        f"   time: {times['chunked']:.2f} of {times['dense']:.2f} s, ratio {ratio(times)}"
        f"   error: {', '.join(f'{error:.0e}' for error in errors)}"
    )


def ratio(of: dict[str, float]) -> str:
    return f"{of['chunked'] / of['dense']:.3f}" if of["dense"] > 0 else "n/a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--widths", default="64,256")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        form, sizes, loss = json.loads(given.peak)
        print(peak(form, tuple(sizes), loss))
        return
    import torch

    print(f"N={given.positions} V={given.vocabulary} float32, {torch.get_num_threads()} thread(s)", flush=True)
    for width in map(int, given.widths.split(",")):
        for loss in given.losses.split(","):
            print(compare((given.positions, given.vocabulary, width), loss, given.repeats), flush=True)


if __name__ == "__main__":
    main()
