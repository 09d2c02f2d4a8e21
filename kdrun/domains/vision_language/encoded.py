"""From conversations to arrays of tokens, with slots for their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdrun.data.ragged import Ragged
from kdrun.domains.vision_language.source import Sample
from kdrun.domains.vision_language.tokens import Encoder

if TYPE_CHECKING:
    from torch import Tensor

    from kdrun.domains.vision_language.loader import VisionSamples

BLOCK = 20_000
"""Conversations that are encoded at a time: lists of ids take far more memory than arrays."""


def encoded(
    samples: Sequence[Sample],
    encoder: Encoder,
    most: int,
    pad: int,
    pictures: Callable[[np.ndarray], dict[str, Tensor]],
    leave_out: bool = False,
) -> tuple[VisionSamples, list[int], dict[str, int]]:
    """(tokens, which samples are left, {"left_out": n, "cut": n}).

    leave_out: samples of more than `most` tokens. Else their text is cut from the left, images never; and what has more
    images than fit is left out all the same.
    """
    from kdrun.domains.vision_language.loader import VisionSamples

    parts: list[Ragged] = [Ragged.of([])]
    labels: list[np.ndarray] = [np.zeros(0, bool)]
    asked: list[int] = []
    kept: list[int] = []
    cut = 0
    for first in range(0, len(samples), BLOCK):
        block = samples[first : first + BLOCK]
        lists: list[list[int]] = []
        for position, (sample, row) in enumerate(zip(block, encoder.rows(block), strict=True), first):
            tokens, excess = row.tokens, len(row.tokens) + len(sample.images) * len(encoder.image) - most
            if excess > 0:
                if leave_out or excess > len(tokens) - encoder.head - 2:
                    continue
                cut += 1
                tokens = tokens[: encoder.head] + tokens[encoder.head + excess :]
            excess = max(excess, 0)
            marked = np.zeros(len(tokens), bool)
            for begin, end in row.answers:
                marked[max(begin - excess, encoder.head) : max(end - excess, encoder.head)] = True
            lists.append(tokens)
            labels.append(marked)
            asked.append(max(row.answers[-1][0] - excess, encoder.head))
            kept.append(position)
        parts.append(Ragged.of(lists))
    made = VisionSamples(
        np.array([samples[position].id for position in kept], np.int64),
        Ragged.joined(parts),
        np.concatenate(labels),
        np.array(asked, np.int64),
        Ragged.of([samples[position].images for position in kept]),
        head=encoder.head,
        block=np.array(encoder.image, np.int64),
        slots=encoder.image_tokens,
        pad=pad,
        pictures=pictures,
    )
    return made, kept, {"left_out": len(samples) - len(kept), "cut": cut}
