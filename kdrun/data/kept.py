"""Small results that are kept between runs: written whole or not at all, and read only if they are what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def content(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is kept at the path; made, and kept there, where nothing is."""
    found = read(path)
    if found is None:
        found = make()
        write(path, found)
    return found


def once(cache: str | Path | None, kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """What `make()` gives, in JSON types, kept as `<cache>/looked/<kind>-<hash of key>.json`: what takes a pass over all samples is found out
    once for the same content. key: all that decides it, JSON; None, as a cache of None: nothing is kept."""
    if cache is None or key is None:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    path = Path(cache) / "looked" / f"{kind}-{digest}.json"
    if (known := read(path)) is not None:
        return json.loads(known)
    found = make()
    with suppress(OSError):  # a cache that may only be read
        write(path, json.dumps(found).encode())
    return found
