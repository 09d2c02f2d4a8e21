"""Look at conversations: pictures with their questions and answers below, on one sheet."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from kdrun.domains.vision_language.source import Conversations, Sample
from kdrun.problems import UserError, closest

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH = 200
"""Pixels of a column."""
LINE = 13


def contact_sheet(conversations: Conversations, split: str = "train", n: int = 24, columns: int = 6) -> Image:
    """The first n samples of a split: pictures enlarged to the column, prompts and answers below."""
    from PIL import Image, ImageDraw, ImageFont

    if split not in conversations.samples:
        known = conversations.samples
        raise UserError(
            f"{conversations.name} has no split {split!r}{closest(split, known)}", f"it has: {', '.join(known)}"
        )
    samples = [conversations.samples[split][row] for row in range(min(n, len(conversations.samples[split])))]
    texts = [_lines(sample) for sample in samples]
    height = WIDTH + LINE * (max(map(len, texts), default=0) + 1)
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * WIDTH, max(rows, 1) * height), "white")
    drawing, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (sample, lines) in enumerate(zip(samples, texts, strict=True)):
        left, top = place % columns * WIDTH, place // columns * height
        side = (WIDTH - 8) // max(len(sample.images), 1)
        for number, pixels in enumerate(conversations.images.pixels(np.asarray(sample.images, np.int64))):
            picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left + number * side, top))
        for number, line in enumerate(lines):
            drawing.text((left + 2, top + WIDTH - 6 + number * LINE), line, fill="black", font=font)
    return sheet


def _lines(sample: Sample) -> list[str]:
    lines = [f"[{sample.type}]"]
    for turn in sample.turns:
        lines += textwrap.wrap(turn.prompt, 34) + textwrap.wrap(f"- {turn.answer}", 34)
    return lines
