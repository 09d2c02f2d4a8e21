"""The parts in which a batch is computed before the step (`trainer.accumulate`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from kdrun.data.host import on_host

PICTURES = ("image_features", "pixel_values", "modality")
"""Inputs with one entry for each image, not for each row: any number of images in the order of their slots."""


def micro_batches(
    batch: dict[str, Any], parts: int, smallest: int = 1, agreed: Callable[[int], int] = lambda number: number
) -> list[dict[str, Any]]:
    """The batch in at most `parts` pieces along its first dimension, none with fewer rows than `smallest` if the batch has
    that many; what is not a tensor goes into each.

    agreed: how many pieces this rank would make -> how many all ranks make. They wait for each other in each of them.
    PICTURES go with the rows that have their slots (batch["visual_mask"]).
    """
    if parts == 1:
        return [batch]
    inputs = batch["inputs"]
    pictures = {name: inputs[name] for name in PICTURES if name in inputs} if isinstance(inputs, dict) else {}
    rest = {**batch, "inputs": {n: v for n, v in inputs.items() if n not in pictures}} if pictures else batch
    rows = len(next(_tensors(rest)))
    sizes = micro_batch_sizes(rows, parts, smallest)
    if (number := agreed(len(sizes))) < len(sizes):
        share, extra = divmod(rows, number)
        sizes = [share + (place < extra) for place in range(number)]
    pieces = [_part(rest, sizes, place) for place in range(len(sizes))]
    for name, images in pictures.items():
        slots = int(on_host(batch, "visual_mask").sum()) // len(images)
        end = 0
        for piece in pieces:
            begin, end = end, end + int(on_host(piece, "visual_mask").sum()) // slots
            if end > begin:
                piece["inputs"] = {**piece["inputs"], name: images[begin:end]}
    return pieces


def micro_batch_sizes(rows: int, parts: int, smallest: int = 1) -> list[int]:
    """Rows of each piece; a last one that is too small is joined to the one before, as the last batch of an epoch is."""
    size = max(-(-rows // parts), min(smallest, rows), 1)
    sizes = [min(size, rows - first) for first in range(0, rows, size)] or [0]
    if len(sizes) > 1 and sizes[-1] < smallest:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _part(value: Any, sizes: list[int], place: int) -> Any:
    """One piece of a tensor, of those in a mapping; anything else as it is."""
    if isinstance(value, dict):
        return {key: _part(item, sizes, place) for key, item in value.items()}
    first = sum(sizes[:place])
    return value[first : first + sizes[place]] if isinstance(value, Tensor) else value
