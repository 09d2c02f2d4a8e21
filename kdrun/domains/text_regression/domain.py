"""Texts and a number each, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun.domains.rows import Rows, Sums
from kdrun.domains.text.domain import OfTexts

if TYPE_CHECKING:
    import numpy as np


class TextRegressionDomain(OfTexts):
    """Texts (or pairs of texts) in, one number out."""

    name = "text_regression"
    files = "kdrun.domains.text_regression.files.text_numbers"
    metrics = MappingProxyType(
        {"spearman": "max", "pearson": "max", "rmse": "min", "mae": "min", "r2": "max", "loss": "min"}
    )
    monitor, supervision = "spearman", "mse"
    source = "kdrun.domains.text_regression.source:NumberedTexts"
    learned = "kdrun.domains.text_regression.task:TextRegression"
    described = "kdrun.domains.text_regression.spec:NumberedTextSpec"
    held = "kdrun.domains.text_regression.module:NumberedTextModule"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """Pearson's correlation: that of ranks is no function of sums over samples."""
        return {"pearson": Sums(_moments, _pearson)} if "output" in row else {}


def _moments(rows: Rows) -> np.ndarray:
    """Of each sample 1, output and target (around the means of all), their squares and their product."""
    import numpy as np

    columns = (np.asarray([row[name] for row in rows], dtype=np.float64) for name in ("output", "target"))
    outputs, targets = (column - column.mean() for column in columns)
    return np.stack([np.ones_like(outputs), outputs, targets, outputs**2, targets**2, outputs * targets], axis=1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    import numpy as np

    number, first, second, squares, others, products = sums.T
    spread = (squares - first**2 / number) * (others - second**2 / number)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (products - first * second / number) / np.sqrt(spread)


DOMAIN = TextRegressionDomain()
