"""What federation did to each client: better or worse than alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def deltas(
    method: Mapping[Any, float | None], local: Mapping[Any, float | None], better: str = "max"
) -> dict[str, Any]:
    """How much better each client is than with its own data alone; positive is good whichever way the metric points.

    method, local: client -> test metric. better: "max" (method - local) or "min" (local - method).
    Returns {"avg": mean over clients, "worst": the smallest, "p10": the 10th percentile, linear between clients,
    "per_client": {client: delta}}. What is not known is None, and then so are avg, worst and p10: a client that has no
    result must not make the others look safe.
    Raises ValueError where the clients are not the same, or better is another word.
    """
    if better not in ("max", "min"):
        raise ValueError(f"better must be max or min, got {better!r}")
    if set(method) != set(local):
        missing = sorted(map(str, set(method) ^ set(local)))
        raise ValueError(f"clients {', '.join(missing)} are in one of the two only: deltas are of the same clients")
    sign = 1 if better == "max" else -1
    found = {
        client: sign * (value - local[client]) if _known(value) and _known(local[client]) else None
        for client, value in method.items()
    }
    values = list(found.values())
    if not values or None in values:
        return {"avg": None, "worst": None, "p10": None, "per_client": found}
    return {
        "avg": math.fsum(values) / len(values),
        "worst": min(values),
        "p10": float(np.percentile(values, 10)),
        "per_client": found,
    }


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
