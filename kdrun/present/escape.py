"""Text from outside, made safe for where it is shown. HTML has `report.markup`, a terminal `present.console`, figures `plots.paper`."""

from __future__ import annotations

import re
from typing import Any

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$", "×": r"$\times$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "−": r"$-$",
}  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the begin of a formula."""
UNPRINTABLE = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0xD800, 0xE000))
CONTROLS = {**dict.fromkeys(UNPRINTABLE, "\N{REPLACEMENT CHARACTER}"), 13: None}
"""Characters that would move the cursor, colour or silence a terminal, turn the direction of a line, or are half a character."""


def printable(text: str) -> str:
    """Text of which a terminal or a page shows every character."""
    return text.translate(CONTROLS)


def latex(text: str) -> str:
    """Text that LaTeX prints as it is; a minus before a digit becomes a minus sign. A bracket at the start is in braces, or
    `\\\\` before it would take it for its argument."""
    text = re.sub(r"(?<![\w.])-(?=[\d.])", "−", text)
    text = "".join(SPECIAL.get(sign, sign) for sign in text)
    return f"{{[}}{text[1:]}" if text.startswith("[") else text


def markdown(text: str) -> str:
    """Text on one line, that Markdown and its tables show as it is."""
    text = re.sub(r"([|*\\`~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    text = re.sub(r"\](?=[(\[:])", r"\\]", re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text))
    return re.sub(r"^(\s*)([#+>-]|\d+[.)])(?=\s)", r"\1\\\2", text.replace("\r", " ").replace("\n", " "))


def markdown_code(text: str) -> str:
    """Text as a code span, in a table as well: fenced by one backtick more than it has in a row."""
    text = text.replace("\r", " ").replace("\n", " ").replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would compute has an apostrophe before it; numbers are as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
