"""What is printed with rich: every string as it is, nothing of it read as markup, and no failure of printing passed on.

Labels, names, paths and messages come from people and from files. Only `Text` objects, which the code makes, have styles.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap
from typing import Any, ParamSpec, TypeVar

import rich.console
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kdrun.present.escape import printable

GAP, FIRST = 2, 20
"""Between two columns of a table; what the first has where the others do not fit beside it."""
P, R = ParamSpec("P"), TypeVar("R")
STYLES = {
    "planned": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "out_of_memory": "red",
    "pruned": "magenta",
    "interrupted": "yellow",
    "broken": "red",
}
"""Status of a run -> style."""


class Console(rich.console.Console):
    """A console that prints strings as they are: no markup, no emoji names, no colours by guess, no control characters."""

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def render(self, renderable: RenderableType, options: rich.console.ConsoleOptions | None = None) -> Iterable[Any]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """The reader is gone (`kdrun ... | head`): what follows is printed nowhere, and the work goes on. rich would exit."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)

    def whole(self, text: str = "", style: str = "") -> None:
        """One line that no terminal width breaks: what is copied from it is whole."""
        self.print(Text(text, style), soft_wrap=True)


def show_page(
    console: Console, title: str, body: Iterable[RenderableType], copied: Iterable[tuple[str, str]] = ()
) -> None:
    """A panel, and below it (what, text) lines to copy from: commands, paths and ids, each unbroken on a line of its own."""
    console.print(Panel(Group(*body), title=Text(title), title_align="left", padding=(1, 2), expand=False))
    copied = list(copied)
    width = max((len(what) for what, _ in copied), default=0)
    for what, text in copied:
        console.whole(f"{what:<{width}}  {text}")


def facts(lines: Iterable[tuple[str, str | Text]]) -> Table:
    """Two columns: what, and what it is. A status has its colour."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        style = STYLES.get(str(text).partition(",")[0], "") if label == "status" else ""
        table.add_row(label, Text(text, style) if isinstance(text, str) else text)
    return table


def columns(
    names: Sequence[str], rows: Iterable[Sequence[str | Text]], left: int = 1, whole: Sequence[int] = ()
) -> Table:
    """A table. left: how many columns are text, which is broken between words where the table is too wide; the others are
    figures. whole: numbers of further columns that are not broken."""
    rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    table = Columns(box=None, header_style="dim", pad_edge=False)
    for index, name in enumerate(names):
        text = index < left
        # `best / last` and `mean ± deviation` may stand on two lines
        pairs = any(mark in str(row[index]) for row in rows for mark in (" / ", " ± "))
        longest = max((len(line) for row in rows for line in str(row[index]).split("\n")), default=0)
        head = name if text else "\n".join(wrap(name, max(longest, *map(len, name.split() or [""]))))
        justify = "left" if text else "right"
        unbroken = not (text or pairs) or index in whole
        table.add_column(Text(head), overflow="fold", justify=justify, no_wrap=unbroken, vertical="top")
        lines = [line for cell in (Text(head), *(row[index] for row in rows)) for line in cell.plain.split("\n")]
        table.needs.append(
            max(cell_len(part) for line in lines for part in ([line] if unbroken else line.split() or [""]))
        )
    for row in rows:
        table.add_row(*row)
    if left == 1:
        table.subset = lambda chosen: columns(
            [names[place] for place in chosen],
            [[row[place] for place in chosen] for row in rows],
            whole=[place for place, column in enumerate(chosen) if column in whole],
        )
    return table


class Columns(Table):
    """A table none of whose figures is cut: columns for which there is no room stand below, after the first column again."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.needs: list[int] = []
        """The least width of each column."""
        self.subset: Callable[[Sequence[int]], Columns] | None = None
        """The same table with these columns alone; None: it is not divided."""

    def __rich_console__(self, console: rich.console.Console, options: rich.console.ConsoleOptions) -> Iterable[Any]:
        parts = self._divided(options.max_width)
        if len(parts) < 2 or self.subset is None:
            yield from super().__rich_console__(console, options)
            return
        for number, part in enumerate(parts):
            yield from [blank()] if number else []
            yield self.subset((0, *part))

    def _divided(self, width: int) -> list[list[int]]:
        """Numbers of the columns after the first that stand side by side; one list where all columns have room."""
        if sum(self.needs) + GAP * (len(self.needs) - 1) <= width:
            return [list(range(1, len(self.needs)))]
        parts, first = [], max(self.needs[0], FIRST)
        room = 0
        for place, need in enumerate(self.needs[1:], 1):
            room -= GAP + need
            if not parts or room < 0:
                parts.append([])
                room = width - first - GAP - need
            parts[-1].append(place)
        return parts


def dim(text: str) -> Text:
    return Text(text, style="dim")


def bold(text: str) -> Text:
    return Text(text, style="bold")


def blank() -> Text:
    return Text()


def harmless(show: Callable[P, R]) -> Callable[P, R | None]:
    """A function that shows something and decides nothing: what goes wrong in it is logged, and what it shows is missing."""

    @functools.wraps(show)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return show(*args, **kwargs)
        except Exception:
            logging.getLogger("kdrun").warning("%s could not be shown", show.__qualname__, exc_info=True)
            return None

    return shown
