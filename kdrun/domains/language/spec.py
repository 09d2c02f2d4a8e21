"""What a language model and its task have to know about documents. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.domains.spec import Blank
from kdrun.domains.translation.spec import TokenSpec


@dataclass(frozen=True)
class LanguageSpec(TokenSpec):
    """Documents as a language model sees them: the fields of TokenSpec, of which bos is what a text begins with, and

    chats       documents are chats, of which answers are predicted
    image_size  pixels of a side of the picture beside each; None: there is none
    """

    chats: bool = False
    image_size: int | None = None

    kind: ClassVar[str] = "language"
    settings: ClassVar[str] = "language"
    unit: ClassVar[str] = "row"
    unsaved: ClassVar[tuple[str, ...]] = ("name", "sizes", "chats")
    compared: ClassVar[tuple[str, ...]] = ("tokenizer", "pad", "bos", "eos")
    unchanged: ClassVar[tuple[str, ...]] = ("image_size",)
    chosen = MappingProxyType(
        {name: (f"{name} token", "") for name in ("pad", "bos", "eos")}
        | {"image_size": ("size of pictures", "choose it: data.screenshot=PIXELS")}
    )

    @property
    def about(self) -> str:
        seen = f", a picture of {self.image_size} pixels beside each" if self.image_size else ""
        return (
            f"{'chats' if self.chats else 'texts'}, {self.vocabulary:,} tokens, rows of at most {self.max_length}{seen}"
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", *(("picture",) if self.image_size else ()))

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch"} if name == "picture" else {0: "batch", 1: "length"} for name in self.input_names}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "image_size": self.image_size}

    def blank(self) -> Blank:
        import torch

        ids = torch.full((2, 5), self.eos)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
        if not self.image_size:
            return Blank(inputs, (2, 5, self.vocabulary), "rows of 5 tokens")
        inputs["picture"] = torch.zeros(2, 3, self.image_size, self.image_size)
        return Blank(inputs, (2, 5, self.vocabulary), "rows of 5 tokens with a picture (data.screenshot)")
