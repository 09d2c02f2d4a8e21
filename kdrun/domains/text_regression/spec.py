"""What a network and a task have to know about texts with numbers. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kdrun.domains.text.spec import TextSpec


@dataclass(frozen=True)
class NumberedTextSpec(TextSpec):
    """Texts with a real target, standardised with the moments of the training split; see TextSpec for what is not here.

    name, target             labels of the data set and of what is predicted
    sizes                    samples per split
    target_mean, target_std  in the unit of the target: raw = standardised * target_std + target_mean
    """

    name: str
    target: str
    vocabulary: int
    pad: int
    sizes: dict[str, int]
    max_length: int
    tokenizer: str
    target_mean: float
    target_std: float
    pairs: bool = False

    kind: ClassVar[str] = "text_regression"
    outputs: ClassVar[int] = 1
    distribution: ClassVar[bool] = False
    says: ClassVar[str] = "number"
    compared: ClassVar[tuple[str, ...]] = ("target", "target_mean", "target_std", "tokenizer", "pad", "pairs")

    def described(self) -> dict[str, Any]:
        raw = f"raw = output * {self.target_std!r} + {self.target_mean!r}"
        return {**super().described(), "outputs": f"{self.target}, standardised: {raw}"}
