"""Python's log lines and warnings of a run go to its log, not between the bars."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from kdrun.environment import hidden


@contextlib.contextmanager
def logged(path: Path, least: int = logging.NOTSET) -> Iterator[None]:
    """While entered, lines of at least this level are appended to the file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(least)
    handler.handleError = lambda record: None  # a full disk: whatever needs the disk for results says so
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.format = lambda record: hidden(formatter.format(record))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()
