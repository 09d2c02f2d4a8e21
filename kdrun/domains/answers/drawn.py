"""Pictures of screens: what a form looks like, and where its elements are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

WIDTH, HEIGHT, TOP = 160, 210, 44
"""Of a picture in pixels, as MiniWoB++ pages; TOP: where elements begin, below the task."""
COLOURS = {"": "#e9e9ec", "red": "#f2b8b5", "blue": "#b9d3f4", "green": "#bfe3c3"}
INK, EDGE = "#1c1c1e", "#8a8a8e"
Box = tuple[int, int, int, int]


def places(elements: Sequence[Any]) -> dict[str, Box]:
    """Label of each element (forms.Element) -> left, top, width and height."""
    step = (HEIGHT - TOP - 6) // max(len(elements), 1)
    return {e.label: (8, TOP + place * step, 144, step - 6) for place, e in enumerate(elements)}


def drawn(utterance: str, elements: Sequence[Any]) -> tuple[Any, Mapping[str, Box]]:
    """(picture, places): buttons as filled boxes, boxes and options with what they hold, fields with a frame for text."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, where = ImageDraw.Draw(image), places(elements)
    pen.rectangle((0, 0, WIDTH, TOP - 8), fill="#fff7c2")
    pen.multiline_text((5, 4), fill(utterance, 25), fill=INK)
    for element in elements:
        left, top, width, height = where[element.label]
        right, middle = left + width, top + height // 2
        if element.kind == "button":
            pen.rounded_rectangle((left, top, right, top + height), 4, fill=COLOURS[element.colour], outline=EDGE)
            pen.text(((left + right) // 2, middle), element.label, fill=INK, anchor="mm")
            continue
        pen.text((left + 60, middle), element.label, fill=INK, anchor="lm")
        if element.kind == "field":
            pen.text((left, middle), element.label, fill=INK, anchor="lm")
            pen.rectangle((left + 50, top, right, top + height), fill="white", outline=EDGE)
            pen.text((left + 55, middle), element.value, fill=INK, anchor="lm")
        else:
            mark = (left + 34, middle - 7, left + 48, middle + 7)
            (pen.ellipse if element.kind == "option" else pen.rectangle)(mark, outline=EDGE, fill="white")
            if element.value:
                pen.text((left + 41, middle), "x", fill=INK, anchor="mm")
    return image, where
