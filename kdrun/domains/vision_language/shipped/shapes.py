"""Draws scenes of coloured shapes: masks made once at several times the size, then pasted in colour."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property, lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from kdrun.domains.vision_language.shipped.scenes import Scene, Word
from kdrun.problems import UserError

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 50),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 30),
    "orange": (250, 130, 20),
    "purple": (130, 50, 160),
    "pink": (250, 130, 190),
    "brown": (120, 70, 40),
}
BACKGROUNDS = ((255, 255, 255), (235, 235, 235), (215, 225, 235), (235, 225, 210), (215, 235, 220), (200, 200, 205))
INKS = ((0, 0, 0), (40, 40, 60), (70, 30, 30), (20, 60, 40), (60, 60, 60))
FINE = 8
"""Masks are drawn so many times larger."""
LARGE, SMALL = 0.82, 0.46
"""Widths of things, in cells."""


def _star(points: int, inner: float, outer: float = 1.0, start: float = -90) -> list[tuple[float, float]]:
    corners = []
    for place in range(2 * points):
        angle = math.radians(start + 180 * place / points)
        radius = outer if place % 2 == 0 else inner
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _regular(corners: int, start: float = -90) -> list[tuple[float, float]]:
    angles = [math.radians(start + 360 * place / corners) for place in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _ring(radius: float, start: float, stop: float) -> list[tuple[float, float]]:
    angles = [math.radians(start + (stop - start) * place / 24) for place in range(25)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _heart() -> list[tuple[float, float]]:
    turns = [2 * math.pi * place / 60 for place in range(60)]
    return [
        (
            math.sin(turn) ** 3,
            (-13 * math.cos(turn) + 5 * math.cos(2 * turn) + 2 * math.cos(3 * turn) + math.cos(4 * turn)) / 17,
        )
        for turn in turns
    ]


_THIRD = 0.32
# Corners in a circle of radius 1 around the middle.
SHAPES = {
    "circle": _ring(0.92, 0, 360),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0, -0.95), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(5, 0.42),
    "cross": [
        *((-_THIRD, -0.95), (_THIRD, -0.95), (_THIRD, -_THIRD), (0.95, -_THIRD), (0.95, _THIRD), (_THIRD, _THIRD)),
        *((_THIRD, 0.95), (-_THIRD, 0.95), (-_THIRD, _THIRD), (-0.95, _THIRD), (-0.95, -_THIRD), (-_THIRD, -_THIRD)),
    ],
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "moon": [*_ring(0.95, 50.6, 309.4), *((0.45 + x, y) for x, y in _ring(0.75, 281.8, 78.2))],
    "bar": [(-0.98, -0.38), (0.98, -0.38), (0.98, 0.38), (-0.98, 0.38)],
}
HELD_OUT = {
    "heart": _heart(),
    "arrow": [(-0.95, -0.3), (0.1, -0.3), (0.1, -0.8), (0.98, 0), (0.1, 0.8), (0.1, 0.3), (-0.95, 0.3)],
    "hexagon": _regular(6, 0),
    "bolt": [(0.25, -1), (-0.6, 0.15), (-0.08, 0.15), (-0.25, 1), (0.6, -0.2), (0.08, -0.2)],
}
OUTLINES = {**SHAPES, **HELD_OUT}


class ShapePainter:
    """Draws scenes, size x size pixels."""

    def __init__(self, size: int) -> None:
        if not features.check("freetype2"):
            raise UserError("data=shapes_vqa writes words: this Pillow was built without FreeType")
        self.size = size
        self.cell = size / 3
        self.mask = lru_cache(maxsize=None)(self._mask)
        self.written = lru_cache(maxsize=None)(self._written)

    @cached_property
    def font(self) -> ImageFont.FreeTypeFont:
        """The one that Pillow ships (Aileron)."""
        return ImageFont.load_default(round(self.cell * 0.82))

    @cached_property
    def digest(self) -> str:
        """Of every shape in every style, and of the letters."""
        found = hashlib.sha256(repr((self.size, COLOURS, BACKGROUNDS, INKS)).encode())
        for shape in OUTLINES:
            for style in ("filled", "outlined", "striped"):
                found.update(self._mask(shape, style, True, 0).tobytes())
        found.update(self._written("abcdefghijklmnopqrstuvwxyz", False).tobytes())
        return found.hexdigest()

    def paint(self, scene: Scene) -> Image.Image:
        picture = Image.new("RGB", (self.size, self.size), BACKGROUNDS[scene.background])
        for thing in scene.things:
            style = scene.style if scene.style == "filled" else ("outlined", "striped")[thing.shade % 2]
            mask = self.mask(thing.kind, style, thing.large, thing.turn)
            picture.paste(_shaded(COLOURS[thing.group], thing.shade), thing.corner(3, self.cell, mask.width), mask)
        if scene.word is not None:
            self._write(picture, scene.word, scene.style != "filled")
        return picture

    def _mask(self, shape: str, style: str, large: bool, turn: int) -> Image.Image:
        """Grey [width, width]: how much of every pixel is covered."""
        width = round(self.cell * (LARGE if large else SMALL))
        fine = width * FINE
        angle = math.radians(turn)
        corners = [
            (
                fine / 2 * (1 + 0.98 * (x * math.cos(angle) - y * math.sin(angle))),
                fine / 2 * (1 + 0.98 * (x * math.sin(angle) + y * math.cos(angle))),
            )
            for x, y in OUTLINES[shape]
        ]
        mask = Image.new("L", (fine, fine), 0)
        drawing = ImageDraw.Draw(mask)
        line = round(FINE * max(self.size / 48, 1))
        if style != "outlined":
            drawing.polygon(corners, fill=255)
        if style == "striped":
            stripes = Image.new("L", mask.size, 0)
            for start in range(-fine, 2 * fine, 2 * line):
                ImageDraw.Draw(stripes).line([(start, 0), (start + fine, fine)], fill=255, width=line)
            mask.paste(60, mask=ImageChops.multiply(mask, stripes))
        if style != "filled":
            drawing.line([*corners, corners[0], corners[1]], fill=255, width=line, joint="curve")
        return mask.resize((width, width), Image.Resampling.BOX)

    def _write(self, picture: Image.Image, word: Word, outlined: bool) -> None:
        mask = self.written(word.text, outlined)
        left = (self.size - mask.width) // 2
        top = round((word.row + 0.5) * self.cell - mask.height / 2)
        picture.paste(INKS[word.shade], (left, top), mask)

    def _written(self, text: str, outlined: bool) -> Image.Image:
        """Grey [height, width] of a word."""
        left, top, right, bottom = (math.floor(edge) for edge in self.font.getbbox(text, stroke_width=1))
        mask = Image.new("L", (right - left + 2, bottom - top + 2), 0)
        drawing = ImageDraw.Draw(mask)
        where = (1 - left, 1 - top)
        if outlined:
            drawing.text(where, text, fill=255, font=self.font, stroke_width=1, stroke_fill=255)
            drawing.text(where, text, fill=0, font=self.font)
        else:
            drawing.text(where, text, fill=255, font=self.font)
        return mask


def _shaded(colour: tuple[int, int, int], shade: int) -> tuple[int, int, int]:
    """A little darker or lighter: shade 2 is the colour itself."""
    red, green, blue = (min(255, max(0, value + 10 * (shade - 2))) for value in colour)
    return red, green, blue
