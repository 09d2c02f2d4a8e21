"""The lines of a file in UTF-8, and of two files that are translations of each other. Every mistake names its file and line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from kdrun.problems import UserError

Found = tuple[list[tuple[str, str]], dict[str, int]]
"""Pairs of source and target as they stand in a file, and how many entries were left out, by reason."""


def content_of(path: Path) -> bytes:
    """What is in a file, without gzip."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file of text") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return content


def lines_of(path: Path) -> list[str]:
    """The lines of a file in UTF-8, without a byte order mark. Only a line feed ends a line (a carriage return before it goes as well): the other
    characters that Unicode counts as line ends occur within sentences."""
    content = content_of(path)
    if content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        raise UserError(f"{path} is UTF-32, not UTF-8", f"iconv -f UTF-32 -t UTF-8 {path} > NEW")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16, not UTF-8", f"iconv -f UTF-16 -t UTF-8 {path} > NEW")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content, error) from None
    if "\0" in text:
        raise UserError(
            f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a zero byte: no text, or UTF-16 without its mark",
            f"if it is UTF-16: iconv -f UTF-16LE -t UTF-8 {path} > NEW",
        )
    if "\r" in text.removesuffix("\r") and "\n" not in text:
        raise UserError(
            f"{path}: its lines end with carriage returns alone", f"tr '\\r' '\\n' < {path} > NEW makes them line feeds"
        )
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _not_utf8(path: Path, content: bytes, error: UnicodeDecodeError) -> UserError:
    number = content.count(b"\n", 0, error.start) + 1
    column = error.start - content.rfind(b"\n", 0, error.start)
    return UserError(
        f"{path}:{number}: not UTF-8: byte 0x{content[error.start]:02x} at position {column} of the line",
        f"if it is Latin-1: iconv -f LATIN1 -t UTF-8 {path} > NEW",
    )


def two_files(source: Path, target: Path) -> list[tuple[str, str]]:
    """Line n of one file is the translation of line n of the other."""
    sides = lines_of(source), lines_of(target)
    counts = [len(lines) for lines in sides]
    if counts[0] != counts[1]:
        longer = source if counts[0] > counts[1] else target
        raise UserError(
            f"{source} has {counts[0]} lines, {target} has {counts[1]}: line n of one must translate line n of the other",
            f"the first line without a partner is {longer}:{min(counts) + 1}",
        )
    return list(zip(*sides, strict=True))
