"""What a sequence-to-sequence network and its task have to know about a parallel corpus. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class TextSpec:
    """A parallel corpus as a network and a task see it.

    name        label of the data set
    languages   (source, target), as in ("de", "en")
    vocabulary  size of the joint vocabulary; ids are below it
    pad         id that fills rows; it may equal eos, so nothing is ever found out by comparing with it
    bos         id that the decoder starts from
    eos         id that ends a sentence, source and target
    unk         id of what the vocabulary lacks
    sizes       sentence pairs per split: train, val, test, and further test sets
    max_length  most tokens of a sequence, eos included
    tokenizer   sha256 of the tokenizer's file
    bleu        how sentences are cut into words for BLEU: auto, or a name of sacreBLEU's
    """

    name: str
    languages: tuple[str, str]
    vocabulary: int
    pad: int
    bos: int
    eos: int
    unk: int
    sizes: dict[str, int]
    max_length: int
    tokenizer: str
    bleu: str = "auto"

    kind: ClassVar[str] = "parallel_text"

    @property
    def about(self) -> str:
        """One line for people."""
        return f"{' to '.join(self.languages)}, {self.vocabulary:,} tokens"

    def metadata(self) -> dict[str, Any]:
        """What a weights file keeps, so that its network can be built without the data."""
        return {"kind": self.kind, "data": self.name, **{name: getattr(self, name) for name in KEPT}}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> TextSpec:
        """The spec that a weights file was written with; sizes are those of no data set."""
        known = {name: metadata[name] for name in KEPT}
        return cls(name=metadata["data"], sizes={}, **{**known, "languages": tuple(known["languages"])})


KEPT = ("languages", "vocabulary", "pad", "bos", "eos", "unk", "max_length", "tokenizer")
