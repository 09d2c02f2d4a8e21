"""Look at views of samples and at what networks see in them, before and after they were taught: one sheet as PNG.

A row is a sample. Each view has three pictures: the image, and over it the maps of the network before and after, with the
probability of the true class below. Maps come from kdrun.networks.saliency; the sheet itself needs arrays only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun.files import write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

SIDE = 0.62
"""Inches of a picture."""
LEFT, TOP, ROW, GAP, BOTTOM = 0.95, 0.78, 0.17, 0.14, 0.48
"""Inches: titles of rows, of columns, the text below a row, between views, and the lines at the end."""
SOFT = "#555556"
STRONGEST = 0.75
"""Opacity of a map where it is largest."""


@dataclass(frozen=True)
class Maps:
    """What networks see in samples: for each view maps [n, H, W] or [n, D, H, W] and probabilities [n] of the true class.

    A view that is missing is one whose network did not change.
    """

    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)


def sheet_data(
    networks_before: Mapping[str, nn.Module],
    networks_after: Mapping[str, nn.Module],
    inputs_by_view: Mapping[str, torch.Tensor],
    targets: torch.Tensor,
    method: str = "grad_cam",
) -> tuple[Maps, Maps]:
    """Maps of the true class, before and after.

    networks: by view; inputs_by_view: float [n, C, H, W] or [n, C, D, H, W] as the networks take them, on their device;
    targets: int64 [n]. Raises UserError for a method that does not exist or does not fit a network.
    """
    from kdrun.networks.modes import evaluating
    from kdrun.networks.saliency import class_probability, explain

    found = []
    for networks in (networks_before, networks_after):
        maps, probabilities = {}, {}
        for view, network in networks.items():
            inputs = inputs_by_view[view]
            maps[view] = explain(network, inputs, targets, method).cpu().numpy()
            with evaluating(network):
                probabilities[view] = class_probability(network, inputs, targets).detach().cpu().numpy()
        found.append(Maps(maps, probabilities))
    return found[0], found[1]


def contact_sheet(
    views: Sequence[str],
    images: Mapping[str, np.ndarray],
    before: Maps,
    after: Maps,
    titles: Sequence[str],
    path: str | Path,
    captions: Mapping[str, str] | None = None,
    heading: str = "",
    note: str = "",
) -> Path:
    """Write the sheet and return its path.

    images: for each view [n, H, W], [n, H, W, 3] in colour, or [n, D, H, W], uint8 or float in 0..1. titles: of the n rows.
    captions: a line below the name of a view. heading: the first line; note: the last one. Of volumes a row shows one slice in all views
    (`slices`). Each map is scaled by its own largest value there, and negative values are not shown: maps say where, not
    how much.
    Raises ValueError where shapes do not fit each other.
    """
    from kdrun.plots.paper import page, png

    _check(views, images, before, after, titles)
    chosen = slices(views, images, before, after)
    with page():
        figure = _draw(views, images, before, after, titles, chosen, captions or {}, heading, note)
        write_atomic(path, png(figure))
    return Path(path)


def slices(views: Sequence[str], images: Mapping[str, np.ndarray], before: Maps, after: Maps) -> list[int | None]:
    """The slice to show of each sample: where maps of all views, each scaled by its largest value, add up to most; the
    middle one where maps are empty; None for images."""
    first = images[views[0]]
    if len(_sides(first)) == 3:
        return [None] * len(first)
    found: list[int | None] = []
    for row in range(len(first)):
        total = np.zeros(first.shape[1])
        for one in (*before.maps.values(), *after.maps.values()):
            total += _scaled(one[row]).sum((1, 2))
        found.append(int(total.argmax()) if total.any() else first.shape[1] // 2)
    return found


def _check(
    views: Sequence[str], images: Mapping[str, np.ndarray], before: Maps, after: Maps, titles: Sequence[str]
) -> None:
    shapes = {_sides(images[view]) for view in views}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (3, 4):
        raise ValueError(f"images must have one shape [n, H, W] or [n, D, H, W] in all views, got {sorted(shapes)}")
    (shape,) = shapes
    for kind in (before, after):
        for view, found in kind.maps.items():
            if found.shape != shape or kind.probabilities[view].shape != shape[:1]:
                raise ValueError(f"maps of {view} are {found.shape}, the images {shape}")
    if len(titles) != shape[0]:
        raise ValueError(f"{len(titles)} titles for {shape[0]} rows")


def _draw(
    views: Sequence[str],
    images: Mapping[str, np.ndarray],
    before: Maps,
    after: Maps,
    titles: Sequence[str],
    chosen: Sequence[int | None],
    captions: Mapping[str, str] | None = None,
    heading: str = "",
    note: str = "",
) -> Any:
    from matplotlib.figure import Figure

    from kdrun.plots.paper import FAINT

    width = LEFT + len(views) * (3 * SIDE + GAP)
    height = TOP + len(titles) * (SIDE + ROW) + BOTTOM
    figure = Figure(figsize=(width, height))

    def axes(row: int, view: int, picture: int) -> Any:
        left = LEFT + view * (3 * SIDE + GAP) + picture * SIDE
        below = height - TOP - row * (SIDE + ROW) - SIDE
        found = figure.add_axes((left / width, below / height, 0.96 * SIDE / width, 0.96 * SIDE / height))
        found.set_axis_off()
        return found

    def write(x: float, y: float, text: str, **more: Any) -> None:
        figure.text(x / width, y / height, text, **{"fontsize": 6, "va": "center", "ha": "center", **more})

    for number, view in enumerate(views):
        left = LEFT + number * (3 * SIDE + GAP)
        write(left, height - 0.33, view, fontsize=7.5, weight="bold", ha="left")
        write(left, height - 0.47, (captions or {}).get(view, ""), color=SOFT, ha="left", fontsize=5.5)
        for picture, name in enumerate(("image", "before", "after")):
            write(left + (picture + 0.48) * SIDE, height - TOP + 0.1, name)
    for row, title in enumerate(titles):
        middle = height - TOP - row * (SIDE + ROW) - SIDE / 2
        plane = "" if chosen[row] is None else f"\nslice {chosen[row] + 1}"
        write(0.06, middle, f"{title}{plane}", ha="left")
        for number, view in enumerate(views):
            image = _plane(images[view][row], chosen[row])
            image = image / 255 if image.dtype == np.uint8 else image
            _show(axes(row, number, 0), image)
            for picture, kind in enumerate((before, after), 1):
                middle_of = LEFT + number * (3 * SIDE + GAP) + (picture + 0.48) * SIDE
                if view not in kind.maps:
                    write(middle_of, middle, "unchanged" if kind is after else "n/a", color=FAINT)
                    continue
                found = _scaled(_plane(kind.maps[view][row], chosen[row]))
                _show(axes(row, number, picture), image, found)
                nothing = "" if found.any() else ", nothing here"
                write(middle_of, middle - SIDE / 2 - 0.06, f"p {kind.probabilities[view][row]:.2f}{nothing}")
    write(0.06, height - 0.12, heading, ha="left", color=SOFT)
    _key(figure, write, width, height, note)
    return figure


def _key(figure: Any, write: Any, width: float, height: float, note: str) -> None:
    """What the colours and the numbers mean."""
    axes = figure.add_axes((0.06 / width, 0.33 / height, 0.6 / width, 0.08 / height), label="key")
    axes.set_axis_off()
    ramp = np.linspace(0, 1, 64)[None]
    axes.imshow(np.full((1, 64), 0.5), cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.imshow(ramp, cmap="plasma", vmin=0, vmax=1, alpha=STRONGEST * ramp, aspect="auto")
    write(0.72, 0.37, "speaks for the true class: not at all to most; each map by its own largest value", ha="left")
    write(0.06, 0.22, "p: probability of the true class", ha="left")
    write(0.06, 0.08, note, ha="left")


def _show(axes: Any, image: np.ndarray, found: np.ndarray | None = None) -> None:
    """A grey image, and over it a map (0..1) that is clear where it is 0."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if found is not None:
        axes.imshow(found, cmap="plasma", vmin=0, vmax=1, alpha=STRONGEST * found, interpolation="nearest")


def _sides(images: np.ndarray) -> tuple[int, ...]:
    """[n, H, W] or [n, D, H, W] of images; three values of a colour at the end are no side."""
    return images.shape[:3] if images.ndim == 4 and images.shape[-1] == 3 else images.shape


def _plane(values: np.ndarray, place: int | None) -> np.ndarray:
    return values if place is None else values[place]


def _scaled(values: np.ndarray) -> np.ndarray:
    """In 0..1 by the largest value; negative ones are 0, as all are where none is positive."""
    positive = np.clip(np.nan_to_num(values, posinf=0.0), 0, None)
    return positive / max(float(positive.max()), 1e-30)
