"""What a sequence-to-sequence network and its task have to know about a parallel corpus. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.domains.spec import Blank, Spec
from kdrun.networks.names import VOCABULARY
from kdrun.problems import UserError


@dataclass(frozen=True)
class TokenSpec(Spec):
    """What specs share whose networks have an output for every token of a sequence. Fields:

    name        label of the data set
    vocabulary  number of ids, all below it
    pad         id that fills rows; it may equal eos, so nothing is ever found out by comparing with it
    bos, eos    ids that start a text (what a decoder starts from), and that end it
    sizes       samples per split: train, val, test, and further test sets
    max_length  most tokens of a sequence, eos included
    tokenizer   sha256 of its content

    settings: the node of `data` that has `tokenizer`.
    """

    name: str
    vocabulary: int
    pad: int
    bos: int
    eos: int
    sizes: dict[str, int]
    max_length: int
    tokenizer: str

    per_position: ClassVar[bool] = True
    keywords: ClassVar[bool] = True
    says: ClassVar[str] = "tokens"
    settings: ClassVar[str]

    def arguments(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("pad", "bos", "eos", "max_length")}
        return {**dict.fromkeys(VOCABULARY, self.vocabulary), **known}

    def differs(self, name: str, theirs: Any, ours: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        """Of a tokenizer with what gives the same one."""
        if name != "tokenizer":
            super().differs(name, theirs, ours, path, metadata)
        alike = f", both of {self.vocabulary:,} tokens" if metadata.get("vocabulary") == self.vocabulary else ""
        raise UserError(
            f"{path} was trained with another tokenizer: sha256 {str(theirs)[:12]}, {self.name} has {str(ours)[:12]}{alike}",
            "a tokenizer is trained on the training split: other data keys give another one",
            f"give the data keys of that training, or its tokenizer: data.{self.settings}.tokenizer=FILE",
        )

    def described(self) -> dict[str, Any]:
        note = "inputs are ids of the tokenizer with this content"
        return {
            "tokenizer": {"sha256": self.tokenizer, "note": note},
            "outputs": "logits of the next token at every position",
        }


@dataclass(frozen=True)
class TextSpec(TokenSpec):
    """A parallel corpus as a network and a task see it: the fields of TokenSpec of a joint vocabulary, and

    languages   (source, target), as in ("de", "en")
    unk         id of what the vocabulary lacks
    bleu        how sentences are cut into words for BLEU: auto, or a name of sacreBLEU's
    """

    languages: tuple[str, str]
    unk: int
    bleu: str = "auto"

    kind: ClassVar[str] = "parallel_text"
    settings: ClassVar[str] = "text"
    unit: ClassVar[str] = "sentence"
    input_names: ClassVar[tuple[str, ...]] = ("source", "source_mask", "target")
    unsaved: ClassVar[tuple[str, ...]] = (*Spec.unsaved, "bleu")
    compared: ClassVar[tuple[str, ...]] = ("tokenizer", "languages", "pad", "bos", "eos", "unk")
    chosen = MappingProxyType(
        {
            "languages": ("direction", "choose the languages of the data"),
            **{name: (f"{name} token", "") for name in ("pad", "bos", "eos", "unk")},
        }
    )

    @property
    def about(self) -> str:
        return f"{' to '.join(self.languages)}, {self.vocabulary:,} tokens"

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        source = {0: "batch", 1: "source_length"}
        return {"source": source, "source_mask": source, "target": {0: "batch", 1: "target_length"}}

    def blank(self) -> Blank:
        import torch

        tokens = torch.full((2, 5), self.eos)
        inputs = {"source": tokens, "source_mask": torch.ones_like(tokens, dtype=torch.bool), "target": tokens[:, :4]}
        return Blank(inputs, (2, 4, self.vocabulary), "sentences of 5 tokens")
