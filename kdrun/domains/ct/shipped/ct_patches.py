"""Real CT patches to tissue classes: a method check on Hounsfield units, never a clinical claim.

32x32 patches of axial slices around random voxels of twelve tissues of one patient. Blocks of slices take turns: training,
validation, test, with a slice between that is not used. A second patient (other scanner, contrast agent) is a test set of
its own. Which patches there are depends on seed and sizes alone, so every window shows the same voxels under the same ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.decoded import decoded
from kdrun.data.fetch import default_cache, find, needed
from kdrun.data.source import TEST, TRAIN, UNUSED, VAL
from kdrun.domains.ct.resize import nearest, resize_planes, weights
from kdrun.domains.ct.series import AIR
from kdrun.domains.ct.shipped.volumes import organs, shipped
from kdrun.domains.ct.source import Scans
from kdrun.domains.ct.windows import views, windows
from kdrun.problems import UserError

TARGETS = ("ct_patches",)

# Numbers that the masks give to organs.
TISSUES = {
    "lung": range(10, 15),
    "liver": (5,),
    "kidney": (2, 3),
    "spleen": (1,),
    "stomach": (6,),
    "aorta": (52,),
    "vertebra": range(26, 51),
    "rib": range(92, 116),
    "back muscle": (86, 87),
    "vena cava": (63,),
    "pancreas": (7,),
    "bowel": (18, 19, 20),
}
# What slices are used for, from the feet upwards, again and again. Training has most where the pancreas is short.
BLOCKS = "tttt.vv.xxx.tt"
PARTS = {"t": TRAIN, "v": VAL, "x": TEST}
OTHER = "other_patient"
PATIENTS = ("abdomen", "other")
SPACING = 3.0  # mm, that of the first patient; the other one's slices are resized to it
SIZE = 32
FORMAT = 1  # of what is cached; raised when patches come out differently


def ct_patches(
    window: str | list[Any] = "mediastinal",
    train: int = 350,
    val: int = 60,
    test: int = 110,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    cache: str | Path | None = None,
) -> Scans:
    """float32 [N, V, 32, 32] in 0..1, one channel for every window; `further` has the test set "other_patient".

    window            name, [level,width] in HU, a list of these, or all (see ct_windows): channels in that order
    train, val, test  patches of each class, fewer where a class has not so many voxels; other_patient has as many as test
    seed              which voxels
    root              folder with the files that `kdrun fetch ct_patches` brings, instead of those in the cache
    """
    chosen = windows(window)
    sizes = {"train": train, "val": val, "test": test}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"data.{name}={size}: a number of patches of each class, at least 1")
    cache = Path(cache or default_cache())
    if root is None:
        files, content = needed("ct_patches", cache), find("ct_patches").digest
    else:
        files = {path.name: path for path in sorted(Path(root).iterdir()) if path.is_file()}
        content = _digest(files)
    key = [FORMAT, content, sizes, seed]
    folder = decoded(cache, "ct_patches", key, lambda target: _cut(files, sizes, seed, target))
    about = json.loads((folder / "about.json").read_text())
    hu, table = np.load(folder / "hu.npy"), np.load(folder / "table.npy")
    labels, split, ids, blocks = table.T
    other = np.flatnonzero(split == UNUSED)
    return Scans(
        x=views(hu, chosen),
        y=labels.copy(),
        split=split.astype(np.int8),
        ids=ids.copy(),
        classes=tuple(TISSUES),
        name="ct_patches",
        source_hash=about["sha256"],
        determined=True,
        views=tuple(one.name for one in chosen),
        groups=tuple(f"{PATIENTS[number]}, block {block}" for number, block in zip(ids >> 32, blocks, strict=True)),
        grouped="blocks of slices",
        further={OTHER: other},
    )


def _cut(files: dict[str, Path], sizes: dict[str, int], seed: int, target: Path) -> None:
    """Write hu.npy, int16 [N, 32, 32]; table.npy, int64 [N, 4] of label, split, id and block of slices; about.json."""
    patches, rows = [], []
    for number, (name, parts) in enumerate(zip(PATIENTS, (_blocks, _apart), strict=True)):
        hu, organ = _resized(name, files)
        part_of_slice = parts(len(hu))
        block_of_slice = np.cumsum(np.diff(part_of_slice, prepend=part_of_slice[0]) != 0)
        padded = np.pad(hu, ((0, 0), (SIZE // 2, SIZE // 2), (SIZE // 2, SIZE // 2)), constant_values=AIR)
        for label, part, voxels in _voxels(organ, part_of_slice, sizes, seed):
            for voxel in voxels.tolist():
                plane, row, column = np.unravel_index(voxel, hu.shape)
                patches.append(padded[plane, row : row + SIZE, column : column + SIZE])
                rows.append((label, part, (number << 32) + voxel, block_of_slice[plane]))
    hu, table = np.stack(patches), np.array(rows, np.int64)
    np.save(target / "hu.npy", hu)
    np.save(target / "table.npy", table)
    digest = hashlib.sha256(hu.tobytes() + table.tobytes()).hexdigest()
    (target / "about.json").write_text(json.dumps({"sha256": digest}))


def _resized(name: str, files: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """(HU int16, organs uint8), both [D, H, W] with pixels of SPACING mm; what has that spacing stays as it is."""
    volume, organ = shipped(name, files), organs(name, files)
    if organ.shape != volume.hu.shape:
        raise ValueError(f"{name}: masks of shape {organ.shape} for a volume of {volume.hu.shape}")
    hu = volume.hu
    if not np.allclose(volume.spacing[1:], SPACING, rtol=1e-4):
        height, width = hu.shape[1:]
        scales = [SPACING / spacing for spacing in volume.spacing[1:]]
        targets = [round(size / scale) for size, scale in zip((height, width), scales, strict=True)]
        by_rows = weights(height, targets[0], scales[0]), weights(width, targets[1], scales[1])
        hu = np.stack([np.rint(resize_planes(plane, *by_rows)).astype(np.int16) for plane in hu])
        organ = organ[:, nearest(height, targets[0], scales[0])][:, :, nearest(width, targets[1], scales[1])]
    return hu, organ


def _blocks(count: int) -> np.ndarray:
    """int64 [count]: what each slice is used for; a gap is None of these."""
    return np.array([PARTS.get(BLOCKS[place % len(BLOCKS)], GAP) for place in range(count)])


def _apart(count: int) -> np.ndarray:
    return np.full(count, UNUSED)


GAP = -2


def _voxels(
    organ: np.ndarray, part_of_slice: np.ndarray, sizes: dict[str, int], seed: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(label, part, positions in the flat volume in ascending order) for every tissue and part that there is.

    The first `size` in a random order of all voxels of the tissue in that part: more patches keep those of fewer.
    """
    by_part = {TRAIN: sizes["train"], VAL: sizes["val"], TEST: sizes["test"], UNUSED: sizes["test"]}
    parts = np.broadcast_to(part_of_slice[:, None, None], organ.shape).reshape(-1)
    for label, (tissue, numbers) in enumerate(TISSUES.items()):
        inside = np.flatnonzero(np.isin(organ, list(numbers)))
        for part, size in by_part.items():
            voxels = inside[parts[inside] == part]
            chosen = voxels[randomness.order(randomness.key("ct_patches", tissue, seed), voxels)[:size]]
            yield label, part, np.sort(chosen)


def _digest(files: dict[str, Path]) -> str:
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
