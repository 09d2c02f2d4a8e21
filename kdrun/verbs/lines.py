"""Lines of standard input, and one line of standard output for each of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from kdrun.problems import UserError

_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def read_lines(stream: Iterable[bytes] | None = None) -> Iterator[str]:
    """Lines of UTF-8 text without their ends (a line feed, perhaps behind a carriage return), each as soon as it is there.

    stream: standard input, where nothing else is given; one that is closed has no lines.

    A byte order mark is no text: a file of nothing else has no line. UserError that names the line that is not UTF-8.
    """
    if stream is None:
        stream = () if sys.stdin is None else sys.stdin.buffer
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"standard input, line {number}: not UTF-8 ({error.reason} at byte {error.start})",
                "if it is Latin-1: iconv -f LATIN1 -t UTF-8",
            ) from None
        if text:
            yield text.removesuffix("\n").removesuffix("\r")


def print_line(text: str) -> None:
    """Print one line in UTF-8, whatever the terminal's encoding: what a network made may hold line ends."""
    if (sys.stdout.encoding or "").lower().replace("-", "") not in ("utf8", "") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    print(_ENDS.sub(" ", text), flush=True)
