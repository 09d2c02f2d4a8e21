"""Small results that are kept between runs: written whole or not at all, and read only if they are what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdrun.files import write_atomic

_DIGEST = hashlib.sha256().digest_size


def write(path: Path, content: bytes) -> None:
    """Keep `content` with its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, hashlib.sha256(content).digest() + content)


def read(path: Path) -> bytes | None:
    """What was kept; None where there is nothing or it is damaged."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    content = stored[_DIGEST:]
    return content if hashlib.sha256(content).digest() == stored[:_DIGEST] else None
