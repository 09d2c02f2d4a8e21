"""Scans (and other images) judged by how well each class is told from the rest, as the rest of kdrun asks for them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from kdrun.domains.images.domain import Classification


class Diagnosis(Classification):
    """Scans in, one of C classes out, judged by the AUC."""

    name = "diagnosis"
    metrics = MappingProxyType(
        {"auc": "max", "accuracy": "max", "worst_class": "max", "loss": "min", "calibration": "min"}
    )
    keeps_rows = True

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Any:
        from kdrun.domains.ct.task import Diagnosis as Task

        return Task(module.spec)


DOMAIN = Diagnosis()
