"""What a language model and its task have to know about documents. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from kdrun.domains.spec import Blank
from kdrun.domains.translation.spec import TokenSpec


@dataclass(frozen=True)
class LanguageSpec(TokenSpec):
    """Documents as a language model sees them: the fields of TokenSpec, of which bos is what a text begins with, and

    chats   documents are chats, of which answers are predicted
    """

    chats: bool = False

    kind: ClassVar[str] = "language"
    settings: ClassVar[str] = "language"
    unit: ClassVar[str] = "row"
    input_names: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    unsaved: ClassVar[tuple[str, ...]] = ("name", "sizes", "chats")
    compared: ClassVar[tuple[str, ...]] = ("tokenizer", "pad", "bos", "eos")
    chosen = MappingProxyType({name: (f"{name} token", "") for name in ("pad", "bos", "eos")})

    @property
    def about(self) -> str:
        return f"{'chats' if self.chats else 'texts'}, {self.vocabulary:,} tokens, rows of at most {self.max_length}"

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch", 1: "length"} for name in self.input_names}

    def blank(self) -> Blank:
        import torch

        ids = torch.full((2, 5), self.eos)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
        return Blank(inputs, (2, 5, self.vocabulary), "rows of 5 tokens")
