"""Made-up sentences: nothing to fetch, for tests and first tries. No figure of it means anything."""

from __future__ import annotations

import numpy as np

from kdrun.domains.language.source import Documents
from kdrun.domains.language.source import documents as documents_of
from kdrun.problems import UserError

TARGETS = ("made_corpus",)

THINGS = [
    "cat",
    "dog",
    "horse",
    "owl",
    "hammer",
    "saw",
    "drill",
    "bread",
    "soup",
    "apple",
    "rain",
    "snow",
    "fog",
    "letter",
    "train",
    "river",
]
KINDS = ["small", "old", "quiet", "blue", "heavy", "tired"]
FRAMES = (
    "The {} {} is next to the {}.",
    "Nobody had seen the {} {} since the {} was gone.",
    "First came a {} {}, then came a {}.",
    "Where is the {} {}? It is behind the {}.",
)


def made_corpus(samples: int = 800, chats: bool = False, seed: int = 0) -> Documents:
    """Texts of one to three sentences; chats: each asks what a number of things is called, and has its answer."""
    if samples < 40:
        raise UserError(f"data.samples={samples}: at least 40")
    random = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        lines = []
        for _ in range(int(random.integers(1, 4))):
            frame = FRAMES[random.integers(len(FRAMES))]
            lines.append(frame.format(random.choice(KINDS), random.choice(THINGS), random.choice(THINGS)))
        found.append(" ".join(lines) if not chats else (("user", f"Say it again: {lines[0]}"), ("assistant", lines[0])))
    return documents_of(found, "made_corpus", determined=True)
