"""From a world of things to conversations: scenes and questions per split, and the pictures drawn on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from kdrun.data import randomness
from kdrun.domains.vision_language.shipped.questions import PAIRS, Asker, caption
from kdrun.domains.vision_language.shipped.scenes import Deck, Draw, Scene, Scenes, World
from kdrun.domains.vision_language.source import PARTS, Conversations, Sample, Turn, check_part
from kdrun.problems import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 10_000_000
"""Questions of a split."""
ORDER = ("train", "val", "test", "objects", "combinations", "style")
"""Numbers of splits, which ids begin with: never reordered."""
PROBED = 16
"""Pictures per split whose pixels go into the hash, beside all scenes and what they are drawn of."""


class Painter(Protocol):
    """Draws scenes, size x size pixels. digest: sha256 hex digest of what it draws them of."""

    size: int
    digest: str

    def paint(self, scene: Scene) -> Image: ...


class DrawnScenes:
    """An ImageStore that keeps scenes and draws them when asked."""

    def __init__(self, scenes: Sequence[Scene], painter: Painter, probes: Sequence[int]) -> None:
        self.scenes, self.painter, self.size = scenes, painter, painter.size
        digest = hashlib.sha256(painter.digest.encode())
        for scene in scenes:
            digest.update(repr(tuple(scene)).encode())
        digest.update(self.pixels(np.asarray(probes)))
        self.source_hash = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.scenes)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        drawn = np.empty((len(indices), 3, self.size, self.size), np.uint8)
        for row, index in enumerate(np.asarray(indices).tolist()):
            drawn[row] = np.asarray(self.painter.paint(self.scenes[index])).transpose(2, 0, 1)
        return drawn


@dataclass(frozen=True)
class Composition:
    """What is asked of a composed source. Raises UserError for what none can serve.

    train, val, test: questions; further: questions of each generalisation split
    per_image  questions about every picture, each of another type
    together   training questions about a picture are one sample of several exchanges, which are learned in one pass
    captions   share of the training pictures whose captions are among the training samples of part "questions" as well
    """

    part: str
    train: int
    val: int
    test: int
    further: int
    per_image: int
    seed: int
    together: bool = False
    captions: float = 0.0

    def __post_init__(self) -> None:
        check_part(self.part)
        if not 0 <= self.captions <= 1:
            raise UserError(f"data.captions={self.captions}: a share of the training pictures, 0 to 1")
        for name, size in self.sizes.items():
            least = 0 if name == "further" else 1
            if not isinstance(size, int) or not least <= size <= MOST:
                raise UserError(f"data.{name}={size}: how many questions, {least} to {MOST:,}")
        if not isinstance(self.per_image, int) or not 1 <= self.per_image <= 5:
            raise UserError(f"data.per_image={self.per_image}: 1 to 5 questions about every picture")

    @property
    def sizes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("train", "val", "test", "further")}


def least_size(size: int, least: int, things: str) -> None:
    """UserError for pictures of fewer pixels."""
    if not isinstance(size, int) or size < least:
        raise UserError(f"data.size={size}: at least {least} pixels, or {things} cannot be told apart")


class _Composed(NamedTuple):
    """Both parts of a source: samples by part and split, the pictures they share, the training text."""

    samples: dict[str, dict[str, list[Sample]]]
    pictures: DrawnScenes
    corpus: list[str]


_RECENT: dict[tuple, _Composed] = {}
"""What was composed last in this process: a run asks for the same data several times."""


def compose(world: World, painter: Painter, asked: Composition) -> Conversations:
    """The conversations of one part. Both have the same pictures, one caption for each in part "captions", which has no split of
    unnamed things."""
    part, sizes, per_image, seed = asked.part, asked.sizes, asked.per_image, asked.seed
    key = (world.name, painter.digest, *sorted(sizes.items()), per_image, seed)
    if key not in _RECENT:
        while len(_RECENT) >= 2:
            _RECENT.pop(next(iter(_RECENT)))
        _RECENT[key] = _composed(world, painter, sizes, per_image, seed)
    found = _RECENT[key]
    digest = hashlib.sha256(f"{found.pictures.source_hash} {part}".encode())
    chosen = dict(found.samples[part])
    if asked.together and part == "questions":
        chosen["train"] = _joined(chosen["train"])
    if asked.captions and part == "questions":
        told = found.samples["captions"]["train"]
        chosen["train"] = [*chosen["train"], *told[: round(asked.captions * len(told))]]
    for name, samples in chosen.items():
        digest.update(name.encode())
        for sample in samples:
            digest.update(repr((sample.id, sample.images, sample.turns, sample.type, sample.choices)).encode())
    return Conversations(world.name, chosen, found.pictures, found.corpus, digest.hexdigest(), determined=True)


def _joined(samples: Sequence[Sample]) -> list[Sample]:
    """One sample for each picture, with all exchanges about it; its id is that of the first."""
    found = []
    for images, group in groupby(samples, lambda sample: sample.images):
        first, *others = group
        turns = [replace(sample.turns[0], type=sample.type) for sample in (first, *others)]
        found.append(Sample(first.id, images, tuple(turns), "several" if others else first.type))
    return found


def _composed(world: World, painter: Painter, sizes: dict[str, int], per_image: int, seed: int) -> _Composed:
    scenes: list[Scene] = []
    probes: list[int] = []
    samples: dict[str, dict[str, list[Sample]]] = {part: {} for part in PARTS}
    for name in world.splits:
        size = sizes.get(name, sizes["further"])
        if not size:
            continue
        first = len(scenes)
        own, questions = _split(world, name, size, per_image, seed, first)
        samples["questions"][name] = questions
        if world.splits[name].named:  # what has no name cannot be described
            samples["captions"][name] = _captions(world, name, own, seed, first)
        scenes += own
        probes += range(first, min(first + PROBED, len(scenes)))
    trained = [turn for part in PARTS for sample in samples[part]["train"] for turn in sample.turns]
    corpus = [f"{turn.prompt} {turn.answer}" for turn in trained] + [words_of(world)]
    return _Composed(samples, DrawnScenes(scenes, painter, probes), corpus)


def words_of(world: World) -> str:
    """Every word that questions of the world may hold, so that a small training split has the same tokenizer."""
    split = world.splits["train"]
    named = dict.fromkeys(word for pair in split.pairs for word in pair)
    numbers = map(str, range(world.grid**2 + 1))
    return " ".join([*named, *world.words, *world.cells, *numbers, "yes no"])


def _split(
    world: World, name: str, size: int, per_image: int, seed: int, first: int
) -> tuple[list[Scene], list[Sample]]:
    """The scenes of a split and `size` questions about them, whose pictures begin at `first` in the store.

    What comes first is the same for every size.
    """
    split = world.splits[name]
    draw = Draw(randomness.key(world.name, "questions", name, seed))
    stream, asker = Scenes(world, split, draw), Asker(world, split, draw)
    deck, waiting = Deck(split.types, draw), []
    scenes: list[Scene] = []
    samples: list[Sample] = []
    base = ORDER.index(name) * MOST
    while len(samples) < size:
        types, waiting = waiting[:1], waiting[1:]
        while len(types) < min(per_image, len(split.types)):
            dealt = deck.deal()
            (waiting if dealt in types else types).append(dealt)
        scene = stream.next(
            lambda scene, types=types: asker.possible_in(scene, types),
            fewest=2 if any(kind in PAIRS for kind in types) else 1,
            word="text" in types,
            alike="count" in types or "compare" in types,
        )
        for kind in types:
            asked = asker.ask(scene, kind)
            turn = Turn(asked.prompt, asked.answer)
            samples.append(Sample(base + len(samples), (first + len(scenes),), (turn,), kind, asked.choices))
        scenes.append(scene)
    return scenes, samples[:size]


def _captions(world: World, name: str, scenes: list[Scene], seed: int, first: int) -> list[Sample]:
    draw = Draw(randomness.key(world.name, "captions", name, seed))
    base = (len(ORDER) + ORDER.index(name)) * MOST
    return [
        Sample(base + row, (first + row,), (Turn(*caption(world, scene, draw)),), "caption")
        for row, scene in enumerate(scenes)
    ]
