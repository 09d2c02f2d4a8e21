"""Questions about coloured shapes and written words: synthetic composition, drawn by Pillow, nothing to fetch.

The idea of composing pictures and questions from one list of objects is that of ShapeWorld (Kuhnle and Copestake 2017,
arXiv 1704.04517) and CLEVR (Johnson et al. 2017, arXiv 1612.06890).
"""

from __future__ import annotations

from kdrun.domains.vision_language.shipped.build import Composition, compose, least_size
from kdrun.domains.vision_language.shipped.scenes import WORDINGS, Phrase, Split, World
from kdrun.domains.vision_language.shipped.shapes import COLOURS, HELD_OUT, SHAPES, ShapePainter
from kdrun.domains.vision_language.source import Conversations

TARGETS = ("shapes_vqa",)

TYPES = ("shape", "colour", "position", "count", "exist", "relation", "compare", "text", "choice")
UNNAMED = ("colour", "position", "count", "exist", "choice")
"""What can be asked about things whose shape has no name."""
WORDS = (
    *("arm", "bag", "bed", "bus", "cat", "cow", "cup", "day", "dog", "ear", "egg", "fan", "gas", "hat", "ice", "ink"),
    *("jar", "key", "leg", "map", "net", "oil", "pan", "pen", "rat", "sea", "sky", "sun", "tea", "toy", "van", "wax"),
)
TEMPLATES = WORDINGS | {
    "kind of": ("what shape is the {one}?", "which shape does the {one} have?", "what is the shape of the {one}?"),
    "kind at": ("what shape is at the {cell}?", "which shape is at the {cell}?", "what do you see at the {cell}?"),
    "group of": ("what colour is the {one}?", "which colour does the {one} have?", "what is the colour of the {one}?"),
    "group at": (
        "what colour is the thing at the {cell}?",
        "which colour is at the {cell}?",
        "what is the colour at the {cell}?",
    ),
    "beside": (
        "what shape is directly {side} the {one}?",
        "which shape is directly {side} the {one}?",
        "what do you see directly {side} the {one}?",
    ),
    "larger": ("is the {one} larger than the {other}?", "is the {one} bigger than the {other}?"),
    "text": ("what does the text say?", "which word is written?", "what is written in the picture?"),
    "choice kind": ("which of these is at the {cell}?", "what shape is at the {cell}?"),
    "choice group": ("which of these colours is at the {cell}?", "what colour is the thing at the {cell}?"),
}
FORMS = {
    "shape": ("group",),
    "colour": ("kind",),
    "position": ("kind", "group", "both"),
    "count": ("kind", "group"),
    "exist": ("kind", "group", "both"),
    "relation": ("kind", "group", "both"),
    "compare": ("kind", "group"),
}


def shapes_vqa(
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
) -> Conversations:
    """Pictures of 2 to 4 shapes on a 3x3 grid, some with a word.

    part             questions, or captions: one for each picture of the same scenes
    train, val, test questions in these splits (captions: one for `per_image` questions)
    further          questions in each of the generalisation splits; 0: none
                     objects       shapes that training never shows, asked by colour, place and number
                     combinations  colour and shape together that training only shows apart
                     style         outlined or striped instead of filled
    size             pixels of a side
    seed             of everything that is drawn
    together         training questions about one picture are one sample, learned in one pass
    captions         share of the training pictures that are described in part "questions" as well, or what a network knows
                     of describing is forgotten
    """
    asked = Composition(part, train, val, test, further, per_image, seed, together, captions)
    least_size(size, 48, "shapes")
    return compose(WORLD, ShapePainter(size), asked)


def _describe(asked: Phrase) -> str:
    return f"{asked.group} {asked.kind or 'thing'}" if asked.group else asked.kind or "thing"


def _plural(asked: Phrase) -> str:
    phrase = _describe(asked)
    return f"{phrase}es" if phrase.endswith("s") else f"{phrase}s"


def _splits() -> dict[str, Split]:
    colours = tuple(COLOURS)
    # Two colours of every shape are left out of training, and of every colour two shapes.
    apart = [
        (shape, colours[(step * place + start) % len(colours)])
        for step, start in ((1, 1), (3, 0))
        for place, shape in enumerate(SHAPES)
    ]
    seen = tuple((shape, colour) for shape in SHAPES for colour in colours if (shape, colour) not in apart)
    return {
        **{name: Split(name, seen, TYPES) for name in ("train", "val", "test")},
        "objects": Split(
            "objects", tuple((shape, colour) for shape in HELD_OUT for colour in colours), UNNAMED, named=False
        ),
        "combinations": Split("combinations", tuple(apart), TYPES),
        "style": Split("style", seen, TYPES, style="drawn"),
    }


WORLD = World(
    name="shapes_vqa",
    grid=3,
    things=(2, 4),
    kinds="shape",
    groups="colour",
    templates=TEMPLATES,
    forms=FORMS,
    splits=_splits(),
    describe=_describe,
    plural=_plural,
    sized=True,
    words=WORDS,
    turns=(-12, -6, 0, 6, 12),
)
