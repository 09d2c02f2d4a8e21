"""Rows of text: aligned and whole for a pipe, fitted to the width of a terminal, with what is copied never broken."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdrun.present.escape import printable
from kdrun.present.units import MISSING

Row = dict[str, str]


def print_table(rows: Sequence[Row], less: Sequence[str] = (), copied: Sequence[str] = ()) -> None:
    """Rows with the same columns; plain and whole unless to a terminal.

    less    columns that a narrow terminal goes without, first to last
    copied  columns of ids, paths and commands: where the table is still too wide, each of these is on a line of its own
    """
    if not sys.stdout.isatty():
        print("\n".join(plain_table(rows)))
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from kdrun.present.console import STYLES, Console

    console, names = Console(), list(rows[0])
    for name in less:
        if _width(rows, names) <= console.width:
            break
        names.remove(name)
    apart = [name for name in copied if name in names] if _width(rows, names) > console.width else []
    names = [name for name in names if name not in apart]

    if not apart:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in names:
            table.add_column(Text(name), overflow="fold", no_wrap=name in ("status", *copied))
        for row in rows:
            table.add_row(*(Text(row[name], STYLES.get(row[name], "")) for name in names))
        console.print(table)
        return
    for row in rows:
        console.whole(row[apart[0]], "bold")
        cells = [Text(row[name], STYLES.get(row[name], "")) for name in names if row[name] not in ("", MISSING)]
        console.print(Padding(Text("  ").join(cells), (0, 0, 0, 2)))
        for name in apart[1:]:
            if row[name] not in ("", MISSING):
                console.whole(f"  {row[name]}")


def _width(rows: Sequence[Row], names: Sequence[str]) -> int:
    return sum(max(len(name), *(len(row[name]) for row in rows)) + 2 for name in names) - 2


def plain_table(rows: Sequence[Row]) -> list[str]:
    """Rows below their names."""
    return aligned([list(rows[0]), *([row[name] for name in rows[0]] for row in rows)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned text without colour, nothing cut: for pipes and files."""
    rows = [[printable(text).replace("\n", " ") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
