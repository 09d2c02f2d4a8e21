"""Inputs of the user's own for a trained network: what `kdrun predict` reads, line by line or file by file. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.problems import UserError

STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class UserInput:
    """where: "line 3", or the name of a file; value: what `Reader.encode` takes; problem: why it cannot be used, "" where it can."""

    where: str
    value: Any = None
    problem: str = ""


class Reader:
    """Reads inputs of one kind of data (Domain.reader), and makes what its networks are called with."""

    def read(self, path: Path | None) -> Iterator[UserInput]:
        """The inputs in a file; None: in standard input. UserError for a file that cannot be read at all."""
        raise NotImplementedError

    def encode(self, values: list[Any]) -> Any:
        """`batch["inputs"]` of these values (UserInput.value)."""
        raise NotImplementedError


def content_of(path: Path | None) -> tuple[str, bytes]:
    """(name for messages, all bytes) of a file; None: of standard input. UserError for a file that cannot be read."""
    if path is None:
        return STANDARD_INPUT, b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def text_lines(path: Path | None) -> Iterator[UserInput]:
    """The lines of a text file in UTF-8, each as soon as it is there; a line that is not UTF-8 has a problem."""
    stream = (() if sys.stdin is None else sys.stdin.buffer) if path is None else content_of(path)[1].splitlines(True)
    before = "" if path is None else f"{path} "
    for number, line in enumerate(stream, start=1):
        where = f"{before}line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield UserInput(where, problem=f"not UTF-8 ({error.reason} at byte {error.start})")
        else:
            yield UserInput(where, text)
