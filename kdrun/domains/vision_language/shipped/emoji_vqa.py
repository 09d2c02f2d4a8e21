"""Questions about pictures of emoji (`kdrun fetch emoji`): synthetic composition of real drawings with their names.

Twitter's pictures (CC BY 4.0, Copyright Twitter, Inc and other contributors) are trained on; Google's (Noto, Apache-2.0)
are the same emoji in another style.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdrun.data import randomness
from kdrun.data.fetch import default_cache, needed
from kdrun.domains.vision_language.shipped.build import Composition, compose, least_size
from kdrun.domains.vision_language.shipped.emoji import CATEGORIES, FILES, EmojiPainter
from kdrun.domains.vision_language.shipped.scenes import WORDINGS, Phrase, Split, World
from kdrun.domains.vision_language.source import Conversations

TARGETS = ("emoji_vqa",)

TYPES = ("name", "category", "position", "count", "exist", "relation", "compare", "choice")
UNNAMED = ("category", "position", "count", "exist", "compare", "choice")
"""What can be asked about emoji whose names are not known."""
UNSEEN = 0.2
"""Share of every category that training never shows."""
APART = (
    ("animal", "vehicle"),
    ("fruit", "tool"),
    ("bird", "building"),
    ("drink", "instrument"),
    ("garment", "bug"),
    ("sea animal", "sweet"),
    ("vegetable", "plant"),
)
"""Categories that training never shows together."""
TEMPLATES = WORDINGS | {
    "kind of": ("which {one} is there?", "what {one} do you see?", "name the {one}."),
    "kind at": ("what is at the {cell}?", "what do you see at the {cell}?", "name the thing at the {cell}."),
    "group at": (
        "what kind of thing is at the {cell}?",
        "which category is at the {cell}?",
        "what sort of thing do you see at the {cell}?",
    ),
    "beside": ("what is {side} the {one}?", "what do you see {side} the {one}?", "name the thing {side} the {one}."),
    "choice kind": ("which of these is at the {cell}?", "what is at the {cell}?"),
    "choice group": ("which of these categories is at the {cell}?", "what kind of thing is at the {cell}?"),
}
FORMS = {
    "name": ("group",),
    "category": (),
    "position": ("kind", "group"),
    "count": ("group",),
    "exist": ("kind", "group"),
    "relation": ("kind", "group"),
    "compare": ("group",),
}


def emoji_vqa(
    part: str = "questions",
    train: int = 8_000,
    val: int = 500,
    test: int = 1_000,
    further: int = 500,
    per_image: int = 3,
    size: int = 96,
    seed: int = 0,
    together: bool = False,
    captions: float = 0.0,
    root: str | Path | None = None,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """Pictures of 1 to 4 emoji on a 2x2 grid.

    part             questions, or captions: one for each picture of the same scenes
    train, val, test questions in these splits (captions: one for `per_image` questions)
    further          questions in each of the generalisation splits; 0: none
                     objects       emoji that training never shows, asked by category, place and number
                     combinations  categories together that training only shows apart
                     style         drawn by Google, not by Twitter
    size             pixels of a side
    seed             of everything that is drawn by lot; which emoji are unseen does not depend on it
    root             folder with the three files that `kdrun fetch emoji` brings, instead of those in the cache
    """
    asked = Composition(part, train, val, test, further, per_image, seed, together, captions)
    least_size(size, 32, "emoji")
    if root is not None:
        files = {name: Path(root) / name for name in FILES}
    else:
        files = needed("emoji", cache or default_cache(), "data=emoji_vqa")
    return compose(WORLD, EmojiPainter(size, files), asked)


def _describe(asked: Phrase) -> str:
    return asked.kind or asked.group or "thing"


def _plural(asked: Phrase) -> str:
    phrase = _describe(asked)
    return f"{phrase}es" if phrase.endswith("sh") else f"{phrase}s"


def _apart(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether no two categories are there that training shows only apart."""
    shown = {group for _, group in pairs}
    return not any(one in shown and other in shown for one, other in APART)


def _splits() -> dict[str, Split]:
    seen, unseen = [], []
    for category, names in CATEGORIES.items():
        order = randomness.order(randomness.key("emoji_vqa", "unseen", category), np.arange(len(names)))
        shuffled = [list(names)[place] for place in order]
        count = max(2, round(UNSEEN * len(names)))
        unseen += [(name, category) for name in sorted(shuffled[:count])]
        seen += [(name, category) for name in sorted(shuffled[count:])]
    known = {"pairs": tuple(seen), "types": TYPES, "style": "twitter"}
    return {
        **{name: Split(name, fits=_apart, **known) for name in ("train", "val", "test")},
        "objects": Split("objects", tuple(unseen), UNNAMED, named=False, fits=_apart, style="twitter"),
        "combinations": Split("combinations", fits=lambda pairs: not _apart(pairs), **known),
        "style": Split("style", fits=_apart, **{**known, "style": "google"}),
    }


WORLD = World(
    name="emoji_vqa",
    grid=2,
    things=(1, 4),
    kinds="name",
    groups="category",
    templates=TEMPLATES,
    forms=FORMS,
    splits=_splits(),
    describe=_describe,
    plural=_plural,
    shades=1,
)
