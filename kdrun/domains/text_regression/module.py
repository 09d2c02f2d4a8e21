"""Loaded texts with numbers: targets are standardised with the moments of the training split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from kdrun import kinds
from kdrun.domains.text.module import TextDataModule
from kdrun.domains.text_regression.source import NumberedTexts
from kdrun.domains.text_regression.spec import NumberedTextSpec


class NumberedTextModule(TextDataModule):
    """As TextDataModule; targets are float32 [b]."""

    source: NumberedTexts
    spec: NumberedTextSpec
    domain = kinds.find("text_regression")

    @classmethod
    def spec_of(cls, source: NumberedTexts, known: np.ndarray, **common: Any) -> NumberedTextSpec:
        values = source.y[known].astype(np.float64)
        mean, deviation = float(values.mean()), float(values.std())
        deviation = deviation if deviation > 1e-6 * abs(mean) else 1.0
        return NumberedTextSpec(target=source.target, target_mean=mean, target_std=deviation, **common)

    @cached_property
    def targets(self) -> np.ndarray:
        return ((self.source.y - self.spec.target_mean) / self.spec.target_std).astype(np.float32)
