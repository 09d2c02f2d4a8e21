"""Folders of decoded data in the cache, each named by a hash of what it was made from; whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrun.files import sync_folder


def decoded(cache: str | Path, name: str, key: Any, make: Callable[[Path], None]) -> Path:
    """The folder `<cache>/decoded/<name>-<hash of key>`, made by `make(folder)` if it is not there.

    Two processes do not make it twice; one that is killed leaves nothing that looks finished.
    """
    from filelock import FileLock

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(cache) / "decoded" / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        work = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        make(work)
        for path in work.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(work)
        work.rename(folder)
        sync_folder(folder.parent)
    return folder
