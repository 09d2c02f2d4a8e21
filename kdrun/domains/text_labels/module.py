"""Loaded texts with several labels each."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdrun import kinds
from kdrun.domains.text.module import TextDataModule
from kdrun.domains.text_labels.source import LabelledTexts
from kdrun.domains.text_labels.spec import LabelledTextSpec


class LabelledTextModule(TextDataModule):
    """As TextDataModule; targets are float32 [b, C] of 0 and 1."""

    source: LabelledTexts
    spec: LabelledTextSpec
    domain = kinds.find("text_labels")

    @classmethod
    def spec_of(cls, source: LabelledTexts, known: np.ndarray, **common: Any) -> LabelledTextSpec:
        return LabelledTextSpec(classes=source.classes, **common)
