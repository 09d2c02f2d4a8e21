"""Memory, operations and hours of training, estimated from parameter and token counts before anything is loaded.

N: parameters of a part of a network. D: tokens that pass through it = samples * epochs * its tokens in a sample.

    FLOPs   6 N D of a trained part (2 forward, 2 for gradients of inputs, 2 for gradients of weights), 4 N D of a frozen part
            that gradients pass through, 2 N D of a frozen part before everything that trains, and of every teacher
    hours   FLOPs / (devices * peak of the device in this number format * utilisation) / 3600
    memory of one device, in bytes
            weights      4 a trained parameter, `frozen_bytes` (2 in 16-bit formats, else 4) a frozen one    / shards
            gradients    4 a trained parameter                                                               / shards
            optimizer    `optimizer_bytes` (Adam: 8) a trained parameter                                     / shards
            buckets      4 a trained parameter, of several devices that train whole copies
            activations  34 * width * layers a token in 16-bit formats, else 68 (arXiv 2205.05198, attention scores not kept)
            vocabulary   4 * vocabulary * (2 + teachers) a position: log-probabilities and their gradient, and each teacher's;
                         positions: the tokens in memory, or `chunk` of them where the losses are chunked
            teachers     `frozen_bytes` a parameter                                                          / teacher_shards

Left out: attention scores (12 * layers * width * tokens^2 FLOPs a sample), evaluation, loading, communication, what the
allocator wastes. These are estimates and are called so wherever they are shown; what cannot be known is None, shown as n/a.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.ledger.figures import UTILISATION, DeviceFigures
from kdrun.problems import UserError

FACTORS = {"trained": 6, "passed": 4, "frozen": 2}
"""FLOPs per parameter and token of a part: it trains; it is frozen and gradients pass through it; it is frozen."""

GB = 1e9
TOWER, PROJECTOR, LANGUAGE_MODEL = "vision_tower", "projector", "language_model"


@dataclass(frozen=True)
class ParameterGroup:
    """Some parameters that see the same tokens. tokens: in one sample; kind: a key of FACTORS."""

    name: str
    parameters: int
    tokens: float
    kind: str = "frozen"

    @property
    def flops(self) -> float:
        """Of one sample."""
        return FACTORS[self.kind] * self.parameters * self.tokens


@dataclass(frozen=True)
class StageWork:
    """One stage of training.

    teachers     for each teacher its parts (all frozen)
    batch        samples of an optimizer step, over all devices and accumulated parts
    tokens       of one sample in the language model; width, layers: of it; None: memory of activations is not known
    vocabulary   rows of the head; None: there is none. chunk: positions whose distributions are in memory at once; None: all
    passes       gradients that a step computes (SAM: 2), each with all forward passes, the teachers' included
    shards       devices over which weights, gradients and optimizer are split; teacher_shards: the teachers' weights
    """

    name: str
    parts: Sequence[ParameterGroup]
    samples: int
    epochs: int
    batch: int
    tokens: float
    teachers: Sequence[Sequence[ParameterGroup]] = ()
    precision: str = "fp32"
    width: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    chunk: int | None = None
    optimizer_bytes: float = 8
    frozen_bytes: int | None = None
    devices: int = 1
    accumulate: int = 1
    passes: int = 1
    shards: int = 1
    teacher_shards: int = 1

    @property
    def resident(self) -> float:
        """Tokens in the memory of one device at a time."""
        return -(-self.batch // (self.devices * self.accumulate)) * self.tokens


def llava_parts(
    counts: Mapping[str, int],
    trained: Collection[str] | None,
    *,
    tokens: float,
    image_tokens: float,
    lora: int = 0,
    cached: bool = False,
) -> list[ParameterGroup]:
    """Parts of a vision-language network, or of a language model alone, each with its kind.

    counts        part -> its parameters: vision_tower, projector, language_model
    trained       names of the parts that train; None: all but the tower
    tokens        of a sample in the language model, image slots included; image_tokens: in tower and projector
    lora          parameters of adapters in the language model, which is then frozen itself
    cached        the tower's outputs are kept on disk: it costs nothing
    """
    trained = [name for name in (PROJECTOR, LANGUAGE_MODEL) if name in counts] if trained is None else trained
    if unknown := [name for name in trained if name not in counts]:
        raise UserError(f"no part {unknown[0]!r} in the network; parts: {', '.join(counts)}")
    parts, above = [], False
    for name, seen in ((TOWER, image_tokens), (PROJECTOR, image_tokens), (LANGUAGE_MODEL, tokens)):
        if name not in counts or (name == TOWER and cached):
            continue
        adapted = name == LANGUAGE_MODEL and lora > 0 and name in trained
        own = name in trained and not adapted
        parts.append(
            ParameterGroup(name, counts[name], seen, "trained" if own else "passed" if above or adapted else "frozen")
        )
        parts += [ParameterGroup("adapters", lora, seen, "trained")] if adapted else []
        above = above or name in trained
    return parts


def flops(work: StageWork) -> dict[str, float]:
    """Operations of the whole stage: by kind, of the teachers, and total."""
    passes = work.passes * work.samples * work.epochs
    found = {kind: passes * sum(part.flops for part in work.parts if part.kind == kind) for kind in FACTORS}
    found["teachers"] = passes * sum(part.flops for teacher in work.teachers for part in teacher)
    return {**found, "total": sum(found.values())}


def memory(work: StageWork) -> dict[str, float | None]:
    """GB (10^9 bytes) on one device: each item and their total; None where it is not known."""
    half = work.precision in ("bf16", "fp16")
    frozen_bytes = work.frozen_bytes or (2 if half else 4)
    trained = sum(part.parameters for part in work.parts if part.kind == "trained")
    frozen = sum(part.parameters for part in work.parts if part.kind != "trained")
    taught = sum(part.parameters for teacher in work.teachers for part in teacher)
    positions = work.resident if work.chunk is None else min(work.chunk, work.resident)
    sized = work.width is not None and work.layers is not None
    found: dict[str, float | None] = {
        "weights": (4 * trained + frozen_bytes * frozen) / work.shards,
        "gradients": 4 * trained / work.shards,
        "optimizer": work.optimizer_bytes * trained / work.shards,
        "buckets": 4 * trained if work.devices > 1 and work.shards == 1 else 0.0,
        "activations": (34 if half else 68) * work.width * work.layers * work.resident if sized else None,
        "vocabulary": 4 * (work.vocabulary or 0) * (2 + len(work.teachers)) * positions,
        "teachers": frozen_bytes * taught / work.teacher_shards,
    }
    found = {name: None if value is None else value / GB for name, value in found.items()}
    known = None not in found.values()
    return {**found, "total": sum(found.values()) if known else None}


def hours(
    operations: float, figures: DeviceFigures, precision: str, devices: int = 1, utilisation: float = UTILISATION
):
    """Wall time; None where no peak is published for this number format."""
    peak = figures.peak_tflops.get(precision)
    return None if peak is None else operations / (devices * peak * 1e12 * utilisation) / 3600


def rows(
    works: Iterable[StageWork], targets: Mapping[str, DeviceFigures], utilisation: float = UTILISATION
) -> list[dict[str, Any]]:
    """One entry for each stage, in JSON types: {"name", "flops", "memory_gb", "targets": {name: {"hours", "fits", ...}}}.

    utilisation: share of the peak that is reached, above 0 and at most 1, or UserError.
    """
    if not 0 < utilisation <= 1:
        raise UserError(f"utilisation={utilisation}: a share of the peak, above 0 and at most 1")
    found = []
    for work in works:
        operations, needed = flops(work), memory(work)
        entry = {"name": work.name, "estimate": True, "precision": work.precision, "devices": work.devices}
        entry |= {"utilisation": utilisation, "flops": operations, "memory_gb": needed, "targets": {}}
        for name, figures in targets.items():
            time = hours(operations["total"], figures, work.precision, work.devices, utilisation)
            known = needed["total"] is not None and figures.memory_gb is not None
            fits = needed["total"] <= figures.memory_gb if known else None
            entry["targets"][name] = {"hours": time, "fits": fits, "memory_gb": figures.memory_gb}
        found.append(entry)
    return found


def lines(
    works: Sequence[StageWork], targets: Mapping[str, DeviceFigures], utilisation: float = UTILISATION
) -> list[str]:
    """The same for people: three kinds of line for each stage, and a sum for each target where there are several stages."""
    found = rows(works, targets, utilisation)
    if not found:
        return []
    text = [
        f"estimates from parameter and token counts alone, at {100 * utilisation:g} % of the published peak; nothing was measured",
        "FLOPs: 6 N D trained, 4 N D frozen with gradients passing, 2 N D frozen and teachers (N parameters, D tokens)",
    ]
    for entry in found:
        parts = [f"{name} {amount(value)}" for name, value in entry["flops"].items() if name != "total" and value]
        text.append(f"{entry['name']}: estimate {amount(entry['flops']['total'])}FLOP ({', '.join(parts)})")
        needed = entry["memory_gb"]
        parts = [f"{name} {gigabytes(value)}" for name, value in needed.items() if name != "total" and value != 0]
        text.append(f"  memory of a device, estimate: {gigabytes(needed['total'])} GB ({', '.join(parts)})")
        for name, target in entry["targets"].items():
            room = {None: "n/a whether it fits", True: "fits", False: "does not fit"}[target["fits"]]
            size = "" if target["memory_gb"] is None else f" {target['memory_gb']:g} GB"
            where = f"{name}, {entry['devices']} x {entry['precision']}"
            text.append(f"  {where}: estimate {said_hours(target['hours'])}, {room}{size}")
    if len(found) > 1:
        for name in targets:
            times = [entry["targets"][name]["hours"] for entry in found]
            whole = None if None in times else sum(times)
            text.append(f"all {len(found)} stages on {name}: estimate {said_hours(whole)}")
    return text


def amount(value: float | None) -> str:
    """`1.2 E`: three digits at most and a prefix of 1000s, a space before it."""
    if value is None:
        return "n/a "
    for size, unit in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "


def gigabytes(value: float | None) -> str:
    """`0.46`, `31.2`"""
    return "n/a" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def said_hours(value: float | None) -> str:
    """`12.3 h`, `40 min`, `below 1 min`, `n/a h`"""
    if value is None:
        return "n/a h"
    if value >= 1:
        return f"{value:.1f} h" if value < 100 else f"{value:.0f} h"
    return f"{60 * value:.0f} min" if value >= 1 / 60 else "below 1 min"
