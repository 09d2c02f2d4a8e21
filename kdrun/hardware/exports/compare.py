"""What an artifact says on real validation samples, held against the network it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdrun.hardware.exports.formats import AGREEMENT, TOLERANCES
from kdrun.hardware.exports.sessions import Session
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.problems import UserError

SINGLE, BATCH = 4, 32
"""Samples that are also asked one by one, and the size of the larger batches."""
SAMPLES = {"single": 256, "sequences": 64}
INT8_OF_NUMBERS = 0.1
"""Where outputs are numbers and not labels, int8 may move them by this share of their range."""


class Mismatch(UserError):
    """An artifact that does not say what its network says."""


@dataclass(frozen=True)
class Comparison:
    """max_difference, range  of outputs, absolute; the range is largest minus smallest output of the network
    labels_agree             share of equal labels, None where outputs are no classes
    samples, batches         how many samples, in batches of which sizes
    """

    max_difference: float
    range: float
    labels_agree: float | None
    samples: int
    batches: tuple[int, ...]

    def tolerance(self, precision: str) -> float | None:
        """What max_difference may be, in the unit of outputs; None: labels alone count."""
        share = TOLERANCES[precision]
        if share is None:
            return None if self.labels_agree is not None else INT8_OF_NUMBERS * self.range
        return share * (max(1.0, self.range) if precision == "fp32" else self.range)


def compare(subject: TrainedNetwork, session: Session, samples: int | None = None) -> Comparison:
    """The session against the subject's network in float32, on validation samples: some one by one, then all in larger batches.

    Of sequences only positions that the network was trained on count. An output that is not finite is an infinite difference.
    """
    bare, wanted = subject.bare(), samples or SAMPLES["sequences" if subject.sequences else "single"]
    positions = subject.positions("val", wanted)
    low, high, most, equal, seen, sizes = np.inf, -np.inf, 0.0, 0, 0, []
    for places in _groups(positions):
        inputs, batch = subject.batch("val", places)
        with torch.inference_mode():
            own = bare(*inputs).numpy()
        other = session(*(one.numpy() for one in inputs))
        if other.shape != own.shape:
            raise Mismatch(f"{subject.label}: the artifact gives {other.shape} where the network gives {own.shape}")
        counted = subject.counted(batch)
        if counted is not None:
            own, other = own[counted.numpy()], other[counted.numpy()]
        difference = np.abs(own.astype(np.float64) - other)
        most = max(most, float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0)))
        low, high = min(low, float(own.min(initial=np.inf))), max(high, float(own.max(initial=-np.inf)))
        equal, seen = equal + int((labels(own) == labels(other)).sum()), seen + len(own)
        sizes.append(len(places))
    agree = equal / seen if subject.spec.distribution else None
    return Comparison(most, max(high - low, 0.0), agree, len(positions), tuple(sorted(set(sizes))))


def labels(outputs: np.ndarray) -> np.ndarray:
    """The class that each row of logits [N, C] names; of one logit the second where it is above 0."""
    return outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)


def require(found: Comparison, precision: str, what: str) -> None:
    """Raises Mismatch, with the figures, where the comparison is beyond what the precision may cost."""
    tolerance, least = found.tolerance(precision), AGREEMENT.get(precision, 0.0)
    if tolerance is not None and not found.max_difference <= tolerance:
        raise Mismatch(
            f"{what}: outputs differ from the network's by {found.max_difference:.3g}, more than {tolerance:.3g}",
            f"on {found.samples} validation samples in batches of {_said(found.batches)}; outputs span {found.range:.3g}",
        )
    if found.labels_agree is not None and not found.labels_agree >= least:
        raise Mismatch(
            f"{what}: {100 * found.labels_agree:.1f} % of labels are the network's, at least {100 * least:.0f} % have to be",
            f"on {found.samples} validation samples; outputs differ by {found.max_difference:.3g} of a range of {found.range:.3g}",
        )


def _groups(positions: np.ndarray) -> Iterator[np.ndarray]:
    for one in positions[:SINGLE]:
        yield np.array([one])
    for first in range(0, len(positions), BATCH):
        yield positions[first : first + BATCH]


def _said(sizes: Any) -> str:
    return " and ".join(map(str, sizes))
