"""What a source of texts with numbers returns. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdrun.data.source import check_columns
from kdrun.data.splits import quantile_bins
from kdrun.domains.text.source import Texts


@dataclass
class NumberedTexts(Texts):
    """Texts with a real target each; see Texts for what is not here.

    y         float32 [N], in the unit of the target
    classes   ()
    target    what y is
    """

    target: str = "label"

    def check_targets(self, count: int) -> None:
        check_columns(self, count, y=np.float32)

    @cached_property
    def strata(self) -> np.ndarray:
        """By the quantiles of the target."""
        return quantile_bins(self.y)
