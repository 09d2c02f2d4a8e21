"""What a vision-language source returns: conversations about pictures, and the pictures on demand. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from kdrun.data.columns import Parts
from kdrun.data.source import text_hash
from kdrun.problems import UserError, closest

PARTS = ("captions", "questions")
"""What `part` of a source may be: samples of the first stage, samples of instruction tuning."""


def check_part(part: str) -> None:
    """UserError where a source has no such part."""
    if part not in PARTS:
        raise UserError(f"data.part={part}: one of {', '.join(PARTS)}{closest(str(part), PARTS)}")


@dataclass(frozen=True)
class Turn:
    """One exchange. Places of pictures are not in the text: all pictures of a sample come first in its first prompt.

    type: of its question, where the exchanges of a sample are of several types; "": that of the sample
    """

    prompt: str
    answer: str
    type: str = ""


@dataclass(frozen=True)
class Sample:
    """One conversation.

    id       unique over all parts and splits of its source, and the same whatever sizes are asked for
    images   positions in the image store, in the order of their slots; () for text only
    turns    at least one exchange
    type     of its question ("colour", "exist", "caption", ...)
    choices  the texts of a multiple choice, in the order of their letters; () for anything else
    answers  all accepted answers where there are several (VQA style); () where `turns` says it
    described  the answer is a description, judged by words in common with it (descriptions.Cider), not by being equal
    """

    id: int
    images: tuple[int, ...]
    turns: tuple[Turn, ...]
    type: str
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    described: bool = False

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"sample {self.id} has no turn")


@runtime_checkable
class ImageStore(Protocol):
    """Square RGB pictures that are drawn or decoded when they are asked for.

    size         pixels of a side
    source_hash  sha256 hex digest of everything that determines the pixels
    """

    size: int

    @property
    def source_hash(self) -> str: ...

    def __len__(self) -> int: ...

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [n, 3, size, size] of the pictures at `indices` (int [n]); always the same for the same index."""
        ...


@runtime_checkable
class InputStore(Protocol):
    """Inputs of several modalities in the place of pictures: those of a sample stand in the slots of its pictures.

    modalities   names, in the order in which networks number them
    source_hash  as of an ImageStore
    """

    modalities: tuple[str, ...]
    source_hash: str

    def __len__(self) -> int: ...

    def modality(self, number: int) -> str:
        """The modality of an input."""
        ...

    def raw(self, number: int) -> np.ndarray:
        """An input, as encoders.ENCODERS of its modality read it; always the same for the same number."""
        ...


class JoinedImages(Parts):
    """Several stores one after the other."""

    KEPT = ("stores", "size", "_starts", "source_hash")

    def __init__(self, stores: Sequence):
        self.stores, self.size = list(stores), stores[0].size
        self._starts = np.cumsum([0, *map(len, stores)])
        self.source_hash = text_hash(store.source_hash for store in stores)

    @property
    def watched(self) -> list[str]:
        """Paths of files that were looked at."""
        return [path for store in self.stores for path in getattr(store, "watched", ())]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [n, 3, size, size]."""
        indices = np.asarray(indices, np.int64)
        out = np.zeros((len(indices), 3, self.size, self.size), np.uint8)
        which = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(which).tolist():
            places = np.flatnonzero(which == number)
            out[places] = self.stores[number].pixels(indices[places] - self._starts[number])
        return out


@dataclass(frozen=True)
class Conversations:
    """A set of conversations as its source gives it.

    name         of the source
    samples      by split: train, val, test, and further test sets ("objects": unseen things, for example)
    images       the pictures that samples refer to, or inputs of several modalities
    corpus       the training text of all parts, which a tokenizer is made from: the same for every part
    source_hash  sha256 hex digest of everything that determines samples and pixels
    report       what was left out and why, in JSON types; empty where nothing was
    determined   whether the corpus follows from what source_hash stands for
    instructions type of question -> wordings that ask for it, which are known without any sample of it; {}: none are
    """

    name: str
    samples: Mapping[str, Sequence[Sample]]
    images: ImageStore | InputStore
    corpus: Sequence[str]
    source_hash: str
    report: Mapping[str, object] = field(default_factory=dict)
    determined: bool = False
    instructions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = {"train", "val", "test"} - self.samples.keys()
        if missing:
            raise ValueError(f"{self.name}: no split {', '.join(sorted(missing))}")

    kept_properties: ClassVar[tuple[str, ...]] = ("content_hash",)

    @property
    def watched(self) -> Sequence[str]:
        """Paths of files beside those of conversations that it was made from (keeping.kept_source)."""
        return getattr(self.images, "watched", ())

    @cached_property
    def content_hash(self) -> str:
        """As of images: with the corpus, where a tokenizer is made from it."""
        if self.determined:
            return self.source_hash
        digest = hashlib.sha256(self.source_hash.encode())
        for text in self.corpus:
            digest.update(f"\n{len(text)} {text}".encode())
        return digest.hexdigest()

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the test sets beyond "test"."""
        return tuple(name for name in self.samples if name not in ("train", "val", "test"))
