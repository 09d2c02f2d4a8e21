"""What a network and a task have to know about texts with classes. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.domains.spec import Blank, Spec
from kdrun.networks.names import CLASSES, VOCABULARY
from kdrun.problems import UserError

BLANK_LENGTH = 5


class TextSpec(Spec):
    """What networks know of texts, whatever they say of one: `outputs` numbers, one for each of `labels`.

    A subclass is a dataclass with at least these fields:
    vocabulary  number of ids, all below it
    pad         id that fills rows; which positions are padding is said by a mask
    max_length  most tokens of a text (of both, of a pair), special ones included
    tokenizer   sha256 of its content
    pairs       whether a sample is two texts
    """

    vocabulary: int
    pad: int
    max_length: int
    tokenizer: str
    pairs: bool
    outputs: Any
    keywords: ClassVar[bool] = True
    unit: ClassVar[str] = "text"
    compared: ClassVar[tuple[str, ...]] = ("classes", "tokenizer", "pad", "pairs")
    chosen = MappingProxyType(
        {
            "classes": ("set of classes", ""),
            "pad": ("pad token", ""),
            "pairs": ("kind of sample (pairs of texts or not)", "data.text=[FIRST,SECOND] reads pairs"),
        }
    )

    @property
    def about(self) -> str:
        return f"{'pairs of texts' if self.pairs else 'texts'}, {self.vocabulary:,} tokens, {self.outputs} {self.says}"

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self.pairs else ()))

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch", 1: "length"} for name in self.input_names}

    def arguments(self) -> dict[str, Any]:
        known = {"pad": self.pad, "max_length": self.max_length}
        return {**dict.fromkeys(CLASSES, self.outputs), **dict.fromkeys(VOCABULARY, self.vocabulary), **known}

    def blank(self) -> Blank:
        import torch

        length = min(BLANK_LENGTH, self.max_length)
        inputs = {"input_ids": torch.full((2, length), self.pad), "attention_mask": torch.ones(2, length).bool()}
        if self.pairs:
            inputs["token_type_ids"] = torch.zeros(2, length, dtype=torch.int64)
        return Blank(inputs, (2, self.outputs), f"texts of {length} tokens")

    def differs(self, name: str, theirs: Any, ours: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        """Of a tokenizer with what gives the same one."""
        if name != "tokenizer":
            super().differs(name, theirs, ours, path, metadata)
        raise UserError(
            f"{path} was trained with another tokenizer: sha256 {str(theirs)[:12]}, {self.name} has {str(ours)[:12]}",
            "a tokenizer is trained on the training split: other data keys give another one",
            "give the data keys of that training, or its tokenizer: data.tokens.tokenizer=FILE",
        )

    def described(self) -> dict[str, Any]:
        return {
            "tokenizer": {
                "file": "tokenizer.json",
                "sha256": self.tokenizer,
                "note": "inputs are ids of this tokenizer, which cuts and pads; sha256 is of the file that the network was trained with",
            },
        }


@dataclass(frozen=True)
class ClassifiedTextSpec(TextSpec):
    """Texts with classes as a network and a task see them; see TextSpec for what is not here.

    name     label of the data set
    classes  class names; a target is a position in it
    sizes    samples per split
    """

    name: str
    classes: tuple[str, ...]
    vocabulary: int
    pad: int
    sizes: dict[str, int]
    max_length: int
    tokenizer: str
    pairs: bool = False

    kind: ClassVar[str] = "text_classification"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def binary(self) -> bool:
        return len(self.classes) == 2

    def described(self) -> dict[str, Any]:
        outputs = "logits of the classes; of two classes perhaps one logit, of the second"
        return {**super().described(), "classes": list(self.classes), "outputs": outputs}
