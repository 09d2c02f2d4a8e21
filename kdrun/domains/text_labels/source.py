"""What a source of texts with several labels returns. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdrun.data.source import check_columns
from kdrun.domains.text.source import Texts


@dataclass
class LabelledTexts(Texts):
    """Texts with any number of labels each; see Texts for what is not here.

    y        float32 [N, C]: 1 where a label applies, else 0
    classes  names of the C labels
    """

    def check_targets(self, count: int) -> None:
        if self.y.ndim != 2 or len(self.y) != count or self.y.dtype != np.float32:
            raise ValueError(f"{self.name}: y is {self.y.dtype}{self.y.shape}, not float32({count}, labels)")
        check_columns(self, count)

    @cached_property
    def strata(self) -> np.ndarray:
        """By the rarest label of a sample; C: it has none."""
        rarest_first = np.argsort(self.y.sum(0), kind="stable")
        ordered = self.y[:, rarest_first] > 0
        return np.where(ordered.any(1), rarest_first[ordered.argmax(1)], self.y.shape[1]).astype(np.int64)
