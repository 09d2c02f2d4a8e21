"""HTML from Python values. Every string is escaped on its way in; only `Html`, which these functions make, is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from kdrun.present.escape import printable

EMPTY_ELEMENTS = ("meta", "br", "img")
MINUS = re.compile(r"(?<![^\s(\[])-(?=\d)")
"""A hyphen before a number that nothing stands before: a minus sign in print."""

TIED = re.compile(r"(?<=\d) (?=[±%])|(?<=±) (?=\d)|(?<=n) (?==)|(?<==) (?=\d)")
"""Spaces at which no line may break: inside `91.2 ± 0.4 %` and `n = 3`."""


def escape(value: str) -> str:
    """Text in which nothing is markup, nor anything that no page may hold."""
    return html.escape(printable(value))


class Html(str):
    """Markup that is already safe."""

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as markup: Html as it is, None as nothing, anything else escaped, lists joined."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, list | tuple):
        return Html("".join(map(text, value)))
    return Html(escape(TIED.sub("\u00a0", MINUS.sub("−", str(value)))))


def tag(element: str, /, *children: Any, **attributes: Any) -> Html:
    """`tag("p", "a < b", class_="note")`. An underscore at the end is dropped, others become hyphens; None is left out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items())
    if element in EMPTY_ELEMENTS:
        return Html(f"<{element}{opening}>")
    return Html(f"<{element}{opening}>{text(list(children))}</{element}>")


def section(title: str, *children: Any, whole: bool = False) -> Html:
    """A section with its heading beside it, or above it (`whole`); nothing if there is nothing in it."""
    filled = [child for child in children if child]
    body = tag("div", *filled, class_="body")
    return tag("section", tag("h2", title), body, class_="whole" if whole else None) if filled else Html("")


def table(
    caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: int = 1, marked: Iterable[int] = ()
) -> Html:
    """A table that scrolls in a box of its own where it is too wide; nothing without rows.

    left    how many columns, from the first, are text (the others are figures, set to the right)
    marked  numbers of rows to stand out
    """
    rows, marked = list(rows), set(marked)
    if not rows:
        return Html("")

    def cell(name: str, column: int, content: Any, **attributes: Any) -> Html:
        return tag(name, content, class_=None if column < left else "figure", **attributes)

    top = tag("tr", *(cell("th", number, name, scope="col") for number, name in enumerate(head)))
    body = [
        tag(
            "tr",
            cell("th", 0, row[0], scope="row"),
            *(cell("td", number, content) for number, content in enumerate(row[1:], start=1)),
            class_="marked" if index in marked else None,
        )
        for index, row in enumerate(rows)
    ]
    inner = tag("table", tag("caption", tag("span", caption)), tag("thead", top), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names and what they are; those without a value are left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "", [])]
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in known]
    return tag("dl", *items) if items else Html("")


def code(value: Any) -> Html:
    """What may be typed: every character as it is."""
    return tag("code", value if isinstance(value, Html) else Html(escape(str(value))))


def block(value: str) -> Html:
    """Preformatted text that scrolls in a box of its own."""
    return tag("pre", code(value), tabindex="0")


def folded(title: str, *children: Any) -> Html:
    """What opens on a click; on paper it is open. Nothing if there is nothing in it."""
    filled = [child for child in children if child]
    return tag("details", tag("summary", title), *filled) if filled else Html("")
