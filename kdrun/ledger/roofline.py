"""How long a forward pass, or a step of training, would take on a device that is not here: a roofline over the operators of the network.

    time of an operator = launch + max(operations / (peak * utilisation), bytes / bandwidth)       (Williams et al., 2009)
    time of a pass      = sum over operators; operators run one after another
    energy of a pass    = time * power of the usual mode

Operations are counted as in ledger.flops (matrix products, convolutions, attention). Bytes of an operator are those of its inputs,
weights and outputs, each read or written once, in the bytes of the number format; what lies between (norms, activations, copies) is
taken as fused into the operators and costs nothing. `error` measures on this machine how far the model is off. All of it is an
estimate and is called so wherever it is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from kdrun.ledger.figures import DeviceFigures
from kdrun.ledger.flops import watched

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}
PASSES = 3
"""Forward passes that a step of training takes as long as: one forward, two for both gradients."""
CONVOLUTION = "convolution"
NORM_PASSES = 4 / 3
"""How much more batch normalisation moves in training than reading and writing once in each of PASSES: it reads its input twice forward
(statistics, then values), and input and gradient twice backward: 8 in place of 6."""
STARTS = 100
"""Operators that are timed together, since to read a clock takes as long as to start one."""
METHOD = "roofline over operators: launch + max(operations / (peak * utilisation), bytes / bandwidth)"


@dataclass(frozen=True)
class Operator:
    """One operator of a forward pass. elements: numbers that it reads and writes, of which `fixed` are of parameters, however many samples
    there are."""

    name: str
    flops: float
    elements: float
    fixed: int = 0

    def over(self, samples: float) -> Operator:
        """Of an operator over one sample: over so many."""
        moved = (self.elements - self.fixed) * samples + self.fixed
        return Operator(self.name, self.flops * samples, moved, self.fixed)


@dataclass(frozen=True)
class Estimate:
    """A forward pass on a device; None: a figure it needs is not published.

    ms               milliseconds
    joules           at the power of the usual mode
    compute_bound    share of the time that arithmetic takes where it bounds an operator; the rest is memory and launches
    memory_mb        weights and the largest inputs and outputs of an operator, in 10^6 bytes
    method           the model, in words
    """

    ms: float | None
    joules: float | None
    compute_bound: float | None
    memory_mb: float
    method: str = METHOD


def operators(network: nn.Module, forward: Callable[[nn.Module], object], everything: bool = False) -> list[Operator]:
    """The operators with counted operations of `forward`, called with a copy of the network on the meta device in eval mode.

    everything: norms, activations and sums as well, as where they are started one by one (training without a compiler); their
    operations are 0, their bytes and their start count.
    Raises whatever the network raises where its forward pass needs values.
    """
    return watched(network, forward, _Watch(everything)).found


class _Watch(TorchDispatchMode):
    """Writes down every operator that the FLOP counter knows; others are taken apart where they can be."""

    def __init__(self, everything: bool = False) -> None:
        super().__init__()
        self.found, self.everything = [], everything
        self.own: set[int] = set()  # storages of parameters

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                apart = func.decompose(*args, **kwargs)
            if apart is not NotImplemented:
                return apart
        result = func(*args, **kwargs)
        if packet in flop_registry or (self.everything and not func.is_view and func.namespace == "aten"):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            size = sum(tensor.numel() for tensor in tensors) * (NORM_PASSES if "batch_norm" in str(packet) else 1.0)
            fixed = sum(tensor.numel() for tensor in tensors if tensor.untyped_storage()._cdata in self.own)
            self.found.append(Operator(str(packet), int(flops), size, fixed))
        return result


def on(shape: Sequence[int], batch: int = 1) -> Callable[[nn.Module], object]:
    """A forward pass on `batch` inputs of `shape`, for `operators`."""
    return lambda shadow: shadow(torch.empty((batch, *shape), device="meta"))


def estimate(
    network: nn.Module,
    forward: Callable[[nn.Module], object] | Sequence[int],
    figures: DeviceFigures,
    precision: str = "fp32",
) -> Estimate | None:
    """The pass on the device of `figures`; `forward` as in `operators`, or the shape of one input.

    None where the network cannot be run on the meta device.
    """
    try:
        found = operators(network, forward if callable(forward) else on(forward))
    except Exception:  # any network of a user's own; a missing figure must not stop a run
        return None
    return of(found, sum(one.numel() for one in network.parameters()), figures, precision) if found else None


def of(found: Sequence[Operator], parameters: int, figures: DeviceFigures, precision: str) -> Estimate:
    """`estimate` from operators that were counted before."""
    size, peak, bandwidth = BYTES[precision], figures.peak_tflops.get(precision), figures.bandwidth_gb_s
    memory = (parameters + max((one.elements for one in found), default=0)) * size / 1e6
    if peak is None or bandwidth is None:
        return Estimate(None, None, None, memory)
    reached = peak * 1e12 * figures.utilisation
    arithmetic = [one.flops / reached / (figures.convolutions if CONVOLUTION in one.name else 1.0) for one in found]
    moving = [one.elements * size / (bandwidth * 1e9) for one in found]
    seconds = sum(map(max, arithmetic, moving)) + len(found) * figures.launch_us * 1e-6
    bound = sum(a for a, m in zip(arithmetic, moving, strict=True) if a >= m)
    power = next(iter(figures.power_w.values()), None)
    joules = None if power is None else seconds * power
    return Estimate(1e3 * seconds, joules, bound / seconds if seconds else None, memory)


def step_seconds(
    student: Sequence[Operator],
    teachers: Sequence[Operator],
    samples: float,
    figures: DeviceFigures,
    precision: str,
    accumulate: int = 1,
) -> float | None:
    """A step of training on so many samples: PASSES passes of the student and one of the teachers over each of its `accumulate` parts.
    Loading, the optimizer, and communication of several devices are left out. None where figures are not published.

    student, teachers: operators of a pass over one sample (`operators(everything=True)`).
    """
    share = samples / accumulate
    passes = [(PASSES, student), (1, teachers)]
    scaled = [(number, [operator.over(share) for operator in ops]) for number, ops in passes]
    times = [(number, of(ops, 0, figures, precision).ms) for number, ops in scaled]
    return None if any(ms is None for _, ms in times) else accumulate * sum(n * ms for n, ms in times) / 1e3


def measured_figures(threads: int = 1, seconds: float = 0.3) -> DeviceFigures:
    """What this machine's CPU reaches with so many threads: float32 matrix products of 1,024 squared, copies of 256 MB (read and
    written), passes forward and backward of convolutions of 3 x 3 over 32 channels, and products of 1 x 4 numbers, which take what it takes to
    start one; the best of as many as fit into `seconds` each. One thread is timed by its own clock, which other work on the machine does not
    move. utilisation is 1, for these are reached, not printed.
    """
    before, clock = torch.get_num_threads(), time.thread_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    try:
        one, other = torch.rand(1024, 1024), torch.rand(1024, 1024)
        product = torch.empty(1024, 1024)
        peak = 2 * 1024**3 / _best(lambda: torch.mm(one, other, out=product), seconds, clock) / 1e12
        source = torch.zeros(64_000_000)
        sink = torch.empty_like(source)
        bandwidth = 2 * 4 * source.numel() / _best(lambda: sink.copy_(source), seconds, clock) / 1e9
        images, kernels = torch.rand(16, 32, 16, 16, requires_grad=True), torch.rand(32, 32, 3, 3, requires_grad=True)
        operations = PASSES * 2 * images.numel() * kernels[0].numel()

        @torch.enable_grad()
        def convolve() -> None:
            torch.autograd.grad(torch.nn.functional.conv2d(images, kernels, padding=1).sum(), [images, kernels])

        convolutions = operations / _best(convolve, seconds, clock) / 1e12 / peak
        little, few = torch.rand(1, 4), torch.rand(4, 4)
        launch = _best(lambda: [torch.mm(little, few) for _ in range(STARTS)], seconds, clock) / STARTS * 1e6
    finally:
        torch.set_num_threads(before)
    said = f"measured: matrix products, convolutions and copies on this CPU, threads: {threads}"
    return DeviceFigures(
        "local",
        {"fp32": peak},
        None,
        bandwidth,
        said,
        utilisation=1.0,
        launch_us=launch,
        convolutions=min(convolutions, 1.0),
    )


def _best(work: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> float:
    work()  # memory is touched, kernels are chosen
    best, end = float("inf"), clock() + seconds
    while True:
        start = clock()
        work()
        now = clock()
        best = min(best, now - start)
        if now > end:
            return best


def error(estimated_ms: float | None, measured_ms: float | None) -> float | None:
    """Relative error of the model where both are known, here: estimate / measured - 1."""
    return None if not estimated_ms or not measured_ms else estimated_ms / measured_ms - 1
