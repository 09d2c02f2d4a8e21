"""What a step of a stage takes, from the shapes of its networks alone: operations, and seconds on the device of the target."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from kdrun.learning.device import available
from kdrun.ledger import roofline
from kdrun.ledger.figures import DeviceFigures, figures_in, read_figures
from kdrun.ledger.flops import parameters
from kdrun.ledger.machine import machine_words
from kdrun.nodes import world_of

OPERATIONS = 2e10
"""FLOPs of a step that is computed for a plan: a second of one thread, or less."""
SMALLEST, TOO_MANY = 2, 4e11
"""Samples of the smallest step (batch statistics need two); FLOPs from which none is computed."""
LARGEST = 250_000_000
"""Parameters of all networks of a step that is computed: 1 GB in float32, and as much for gradients."""


def batch_size_for(loader: Any, flops: float | None) -> int:
    """Of a step of at most OPERATIONS, or of SMALLEST samples where these take more, in the unit of the loader.

    flops: of a sample in such a step; None: not known, and a step has 32 samples at most."""
    samples = sum(loader.per_epoch().values()) / len(loader)
    most = 32 if flops is None else max(OPERATIONS / max(flops, 1.0), SMALLEST)
    return loader.batch_size if samples <= most else max(SMALLEST, math.ceil(loader.batch_size * most / samples))


def too_large(networks: Sequence[nn.Module], flops: float | None) -> str | None:
    """Why no step of these networks is computed on a CPU; None where one is. flops: as above."""
    size = sum(map(parameters, networks))
    if size > LARGEST:
        return f"{size:,} parameters"
    if flops is not None and SMALLEST * flops > TOO_MANY:
        return f"{flops:.2g} FLOPs a sample"
    return None


def figures_for(hardware: dict[str, Any]) -> DeviceFigures | None:
    """Published figures of the device that trains: the target's where it is not here or is this machine, else those of a target
    that is this machine. None where nothing is published of it."""
    chosen, words = figures_in(hardware), machine_words()
    if chosen is not None and hardware["device"] not in available():
        return chosen
    known = [chosen, *read_figures().values()]
    return next((one for one in known if one and one.match and any(re.search(one.match, word) for word in words)), None)


def seconds_on_target(
    hardware: dict[str, Any],
    student: tuple[nn.Module, Any],
    teachers: Sequence[tuple[nn.Module, Any]],
    samples: float,
    accumulate: int,
) -> tuple[float | None, str | None]:
    """(seconds of a step by roofline.step_seconds, name of the device); (None, None) where nothing is published of it, or a network cannot
    be counted.

    student, teachers: networks with their tasks. On this CPU figures are measured.
    """
    figures = roofline.measured_figures(hardware["threads"]) if hardware["device"] == "cpu" else figures_for(hardware)
    if figures is None:
        return None, None
    try:
        own, *others = [roofline.operators(net, task.typical, everything=True) for net, task in (student, *teachers)]
    except Exception:  # a network of a user's own that needs values; a missing figure must not stop a plan
        return None, None
    share = samples / world_of(hardware)
    told = [op for each in others for op in each]
    seconds = roofline.step_seconds(own, told, share, figures, hardware["precision"], accumulate)
    return seconds, None if seconds is None else figures.name
