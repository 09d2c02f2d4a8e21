"""Texts and several labels each, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun.domains.rows import Rows, Sums
from kdrun.domains.text.domain import OfTexts

if TYPE_CHECKING:
    import numpy as np


class TextLabelsDomain(OfTexts):
    """Texts (or pairs of texts) in, for each of C labels whether it applies."""

    name = "text_labels"
    files = "kdrun.domains.text_labels.files.labelled_texts"
    metrics = MappingProxyType({"f1_micro": "max", "f1": "max", "exact_match": "max", "auroc": "max", "loss": "min"})
    monitor, supervision = "f1_micro", "bce"
    source = "kdrun.domains.text_labels.source:LabelledTexts"
    learned = "kdrun.domains.text_labels.task:TextLabels"
    described = "kdrun.domains.text_labels.spec:LabelledTextSpec"
    held = "kdrun.domains.text_labels.module:LabelledTextModule"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        return {"f1_micro": Sums(_counts, lambda sums: 2 * sums[:, 0] / sums[:, 1])} if "predicted" in row else {}


def _counts(rows: Rows) -> np.ndarray:
    """Of each sample labels that are rightly predicted, and labels it has and predictions together."""
    import numpy as np

    pairs = [(set(row["target"]), set(row["predicted"])) for row in rows]
    return np.asarray([(len(true & said), len(true) + len(said)) for true, said in pairs], dtype=np.float64)


DOMAIN = TextLabelsDomain()
