"""Made-up sentences about a few topics: nothing to fetch, for tests and first tries. No figure of it means anything."""

from __future__ import annotations

import json

import numpy as np

from kdrun.data.source import TRAIN, text_hash
from kdrun.domains.text.source import Texts, digests
from kdrun.problems import UserError

TARGETS = ("made_topics",)

WORDS = {
    "animals": "cat dog horse eagle whale spider rabbit goose tiger beetle owl salmon",
    "food": "bread soup apple cheese pepper honey rice carrot noodle lemon onion cake",
    "tools": "hammer saw drill wrench chisel ladder pliers shovel file clamp axe rake",
    "weather": "rain snow fog thunder breeze hail frost drizzle storm sleet sunshine gale",
}
FRAMES = (
    "yesterday we talked about the {} and the {}",
    "nobody had seen a {} since the {} of last year",
    "the {} is what she remembers, not the {}",
    "is there more to say of a {} than of the {} ?",
    "he wrote a long letter on {} , {} and little else",
    "first came the {} , then the {} , and then it was over",
)


def made_topics(samples: int = 1000, noise: float = 0.2, seed: int = 0) -> Texts:
    """Sentences with two words of a topic; in a share `noise` of them the second word is of any topic."""
    if samples < 40:
        raise UserError(f"data.samples={samples}: at least 40")
    if not 0 <= noise <= 1:
        raise UserError(f"data.noise={noise}: a share of the sentences, 0 to 1")
    random = np.random.default_rng(seed)
    classes, words = tuple(WORDS), [line.split() for line in WORDS.values()]
    targets = np.arange(samples, dtype=np.int64) % len(classes)
    texts = []
    for target in targets.tolist():
        other = int(random.integers(len(classes))) if random.random() < noise else target
        first, second = random.choice(words[target]), random.choice(words[other])
        texts.append(FRAMES[random.integers(len(FRAMES))].format(first, second))
    return Texts(
        x=digests(texts),
        y=targets,
        split=np.full(samples, TRAIN, np.int8),
        ids=np.arange(samples),
        classes=classes,
        name="made_topics",
        source_hash=text_hash(json.dumps(row) for row in zip(texts, targets.tolist(), strict=True)),
        texts=tuple(texts),
        asked=("text",),
        determined=True,
    )
