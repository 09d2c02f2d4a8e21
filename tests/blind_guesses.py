"""How far one gets without looking at the pictures: guesses learnt from training, by what they may look at."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from kdrun.domains.vision_language.source import Conversations, Sample

SIGHT: dict[str, Callable[[Sample], tuple[Hashable, ...]]] = {
    "majority": lambda sample: (),
    "question": lambda sample: (sample.turns[0].prompt,),
    "words": lambda sample: _words(sample.turns[0].prompt),
    "length": lambda sample: (len(_words(sample.turns[0].prompt)), ("letters", len(sample.turns[0].prompt))),
}
"""What of a sample each guess is made from. Its type is always known."""


def blind(conversations: Conversations, split: str = "test") -> dict[str, dict[str, float]]:
    """{guess: {type: accuracy}} on a split, with "all" for the mean over samples.

    majority  the most frequent answer of the type
    question  the same question, word by word, else the majority
    words     naive Bayes over the words of the question
    length    naive Bayes over the numbers of words and letters of the question
    """
    train, samples = conversations.samples["train"], conversations.samples[split]
    return {name: accuracy(train, samples, seen) for name, seen in SIGHT.items()}


def accuracy(
    train: Sequence[Sample], samples: Sequence[Sample], seen: Callable[[Sample], Iterable[Hashable]]
) -> dict[str, float]:
    """Share of first answers that naive Bayes over what is `seen` guesses, by type and for "all"."""
    guesses: dict[str, _Guess] = defaultdict(_Guess)
    for sample in train:
        guesses[sample.type].learn(seen(sample), sample.turns[0].answer)
    right: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        hit = guesses[sample.type].best(seen(sample)) == sample.turns[0].answer
        right[sample.type].append(hit)
        right["all"].append(hit)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


class _Guess:
    """Naive Bayes with add-one smoothing."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.together: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)

    def learn(self, features: Iterable[Hashable], answer: str) -> None:
        self.answers[answer] += 1
        for feature in features:
            self.together[feature][answer] += 1

    def best(self, features: Iterable[Hashable]) -> str | None:
        scores = {answer: math.log(count) for answer, count in self.answers.items()}
        for feature in features:
            if feature in self.together:
                counts = self.together[feature]
                for answer, count in self.answers.items():
                    scores[answer] += math.log((counts[answer] + 1) / (count + 2))
        return max(scores, key=scores.__getitem__, default=None)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"\w+", text.lower())))
