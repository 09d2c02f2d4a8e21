"""A small reader of W&B's `.wandb` files.

Format (wandb 0.24 to 0.31): seven bytes of header, then LevelDB log framing in blocks of 32 KiB. A piece is
crc32 (4 bytes, little endian, over type byte and body), length (2), type (1: full, 2: first, 3: middle, 4: last), body;
joined pieces are one protobuf `Record`. Only `records` needs wandb, for that message class.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<4sHB")
MAGIC = (b":W&B", 0xBEE1, 0)
PIECE = struct.Struct("<IHB")
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Mirrored:
    """What one `.wandb` file says. exit_code is None while the run has not ended."""

    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    host: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_of: dict[str, str] = field(default_factory=dict)
    """Name pattern -> the metric on its x axis."""
    exit_code: int | None = None


def messages(content: bytes) -> Iterator[bytes]:
    """The serialized records of a file. Stops at a torn end (a run being written); ValueError for damage before it."""
    if len(content) < HEADER.size or HEADER.unpack_from(content) != MAGIC:
        raise ValueError("not a .wandb file")
    position, parts = HEADER.size, b""
    while position + PIECE.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < PIECE.size:
            position += left
            continue
        checksum, length, kind = PIECE.unpack_from(content, position)
        if kind == 0 and length == 0:
            position += left
            continue
        start = position + PIECE.size
        body = content[start : start + length]
        if len(body) < length:
            return
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"wrong checksum at byte {position}")
        position = start + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def records(path: str | os.PathLike[str]) -> Iterator[Any]:
    """wandb's `Record` messages of a `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    for message in messages(Path(path).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        yield record


def read_wandb(path: str | os.PathLike[str]) -> Mirrored:
    """The content of a `.wandb` file, or of the one in a run folder of W&B, with plain JSON values."""
    path = Path(path)
    if path.is_dir():
        (path,) = path.glob("*.wandb")
    result = Mirrored()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            result.id, result.name, result.project = run.run_id, run.display_name, run.project
            result.group, result.host, result.tags = run.run_group, run.host, list(run.tags)
            result.config |= _items(run.config.update)
        elif kind == "config":
            result.config |= _items(record.config.update)
        elif kind == "history":
            result.history.append(_items(record.history.item))
        elif kind == "summary":
            result.summary |= _items(record.summary.update)
        elif kind == "metric":
            result.step_of[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            result.exit_code = record.exit.exit_code
    result.config.pop("_wandb", None)
    return result


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
