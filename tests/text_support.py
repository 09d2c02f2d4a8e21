"""What tests of text share: the config of a source, and a toy corpus."""

from kdrun.domains.load import COMMON as SHARED
from kdrun.domains.translation.domain import TextConfig
from kdrun.schema import defaults

COMMON = {**SHARED, **defaults(TextConfig), "val_fraction": 0.05, "test_fraction": 0.05}

COLOURS = ("rote", "red"), ("grüne", "green"), ("blaue", "blue"), ("weiße", "white"), ("alte", "old"), ("neue", "new")
THINGS = ("Lampe", "lamp"), ("Tür", "door"), ("Uhr", "clock"), ("Wand", "wall"), ("Box", "box"), ("Bank", "bench")
ENDS = ("ist an", "is on"), ("ist kaputt", "is broken"), ("ist dort drüben", "is over there"), ("fehlt", "is missing")
ROWS = [(f"Die {c} {t} {e}.", f"The {c2} {t2} {e2}.") for c, c2 in COLOURS for t, t2 in THINGS for e, e2 in ENDS]
