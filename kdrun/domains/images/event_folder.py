"""A folder of recordings of an event camera, one subfolder per class: .npy arrays, or .aedat4 files where aedat is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdrun.data.source import parts_hash
from kdrun.domains.images.image_files import Kind, image_files
from kdrun.domains.images.source import Images
from kdrun.optional import needed
from kdrun.problems import UserError, listed

TARGETS = ("event_folder",)

EVENTS = Kind("events", (".npy", ".aedat4"))
MOST = 1 << 31
"""Bytes of counted frames that fit: more come from a place that is none, or a time that is taken for one."""
FORMAT = 1  # of the counting; raised when the same files give other frames
POLARITY = ("p", "on", "polarity")
ARRAYS = "expected: events [N, 4] of (x, y, t, p), or with fields x, y, t, p; or frames [frames, 2, H, W]"


def event_folder(
    root: str | Path | None = None,
    frames: int = 4,
    height: int | None = None,
    width: int | None = None,
    alike: str = "stop",
) -> Images:
    """uint8 [N, 2 * frames, H, W]: numbers of events of each pixel, (p above 0, others) for each frame in turn, at most 255.

    A file holds events [N, 4] of (x, y, t, p) in any order of time, the same as an array with fields of these names, or frames
    [frames, 2, H, W] that are already counted. Time from a file's first event to its last is cut into equal parts, one for each frame.

    frames: of each sample, at least 1. height, width: of the sensor; null: the largest place in any file, plus 1. cache: not used. alike: as of image_folder.
    Raises UserError where there are no files, or one is something else; events outside the sensor are an error.
    """
    if root is None:
        raise UserError("data=event_folder needs data.root=FOLDER, with one subfolder per class")
    for key, value in {"frames": frames, "height": height, "width": width}.items():
        if value is not None and value < 1:
            raise UserError(f"data.{key}={value}: at least 1")
    files, notes = image_files(Path(root), alike, EVENTS)
    loaded = [_read(file.path, frames) for file in files]
    sides = [_sides(one) for one in loaded]
    tall, wide = height or max(side[0] for side in sides), width or max(side[1] for side in sides)
    for file, side in zip(files, sides, strict=True):
        if side[0] > tall or side[1] > wide:
            raise UserError(
                f"{file.path}: places up to {side[0]}x{side[1]}, above data.height={tall} data.width={wide}"
            )
    if len(files) * 2 * frames * tall * wide > MOST:
        largest = max(zip(sides, files, strict=True), key=lambda pair: pair[0][0] * pair[0][1])
        raise UserError(
            f"{len(files)} files of {frames} frames of {tall}x{wide} pixels are more than {MOST >> 30} GiB",
            f"the largest places are in {largest[1].path}; columns are (x, y, t, p)",
        )
    x = np.stack([_counted(one, frames, tall, wide) for one in loaded])
    classes = tuple(sorted({file.label for file in files}))
    y = np.array([classes.index(file.label) for file in files], np.int64)
    names = tuple(file.name for file in files)
    return Images(
        x=x,
        y=y,
        split=np.array([file.part for file in files], np.int8),
        ids=np.arange(len(files)),
        classes=classes,
        name=Path(root).resolve().name,
        source_hash=parts_hash(x, y, list(names), [FORMAT, frames]),
        names=names,
        notes=tuple(notes),
    )


event_folder.reads = ("root",)


def _read(path: Path, frames: int) -> np.ndarray:
    """Events float64 [N, 4] of (x, y, t, p), or frames [frames, 2, H, W]. UserError that names the file and what it holds."""
    if path.suffix.lower() == ".aedat4":
        array = _recorded(path)
    else:
        try:
            array = np.load(path, allow_pickle=False)
        except Exception as error:  # a damaged header ends in errors of many kinds
            raise UserError(f"{path}: not a readable .npy array ({error})", ARRAYS) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays, not one array", ARRAYS)
    if array.dtype.names is not None:
        polarity = next((name for name in POLARITY if name in array.dtype.names), None)
        if polarity is None or not {"x", "y", "t"} <= set(array.dtype.names):
            raise UserError(f"{path}: fields {listed(array.dtype.names)}", ARRAYS)
        if odd := [name for name in ("x", "y", "t", polarity) if array.dtype[name].kind not in "uifb"]:
            raise UserError(f"{path}: {odd[0]} is {array.dtype[odd[0]]}, not a number for each event", ARRAYS)
        array = np.stack([array[name].astype(np.float64) for name in ("x", "y", "t", polarity)], axis=-1)
    if array.ndim == 4 and array.shape[1] == 2 and array.dtype.kind in "uib":
        if array.shape[0] != frames:
            raise UserError(f"{path}: {array.shape[0]} frames, data.frames={frames}")
        if not array.size or array.min() < 0:
            raise UserError(f"{path}: frames hold numbers of events, from 0 on: {array.dtype} {array.shape}", ARRAYS)
        return array
    if array.ndim != 2 or array.shape[1] != 4 or not len(array) or array.dtype.kind not in "uifb":
        raise UserError(f"{path}: {array.dtype} {array.shape}", ARRAYS)
    array = array.astype(np.float64)
    places = array[:, :2]
    if (places > 2**31).any():
        raise UserError(f"{path}: a place of {places.max():.4g}", ARRAYS)
    if not np.isfinite(array).all() or (places < 0).any() or (places != places.round()).any():
        raise UserError(f"{path}: x and y have to be whole numbers from 0 on, t and p finite", ARRAYS)
    return array


def _recorded(path: Path) -> np.ndarray:
    """Events of an .aedat4 file with fields t, x, y, on: those of its first camera, as tonic.io.read_aedat4 gives them."""
    decoder = needed("aedat", f"{path.name}: .aedat4 files are read by aedat")
    try:
        file = decoder.Decoder(str(path))
        cameras = [number for number, stream in file.id_to_stream().items() if stream["type"] == "events"]
        packets = [packet["events"] for packet in file if packet["stream_id"] == min(cameras, default=None)]
    except RuntimeError as error:
        raise UserError(f"{path}: not a readable .aedat4 file ({error})", ARRAYS) from error
    if not packets:
        raise UserError(f"{path}: holds no events")
    return np.concatenate(packets)


def _sides(array: np.ndarray) -> tuple[int, int]:
    """(height, width) that a file needs."""
    return array.shape[2:] if array.ndim == 4 else (int(array[:, 1].max()) + 1, int(array[:, 0].max()) + 1)


def _counted(array: np.ndarray, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [2 * frames, height, width]."""
    counts = np.zeros((frames, 2, height, width), np.int64)
    if array.ndim == 4:
        counts[:, :, : array.shape[2], : array.shape[3]] = array
    else:
        x, y, time, polarity = array.T
        length = np.ptp(time) or 1.0
        part = np.minimum((time - time.min()) / length * frames, frames - 1).astype(np.int64)
        np.add.at(counts, (part, (polarity <= 0).astype(np.int64), y.astype(np.int64), x.astype(np.int64)), 1)
    return counts.clip(0, 255).astype(np.uint8).reshape(2 * frames, height, width)
