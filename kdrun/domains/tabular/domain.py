"""Tables with a real target, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun.domains.base import Domain
from kdrun.domains.images.domain import ClassificationDomain
from kdrun.domains.rows import Rows, Sums

if TYPE_CHECKING:
    import numpy as np


class RegressionDomain(Domain):
    """A row of numbers in, one number out."""

    name, kind = "regression", "table"
    metrics = MappingProxyType({"rmse": "min", "mae": "min", "r2": "max", "loss": "min"})
    main, monitor, supervision = "r2", "r2", "mse"
    transfers = True
    commands = ("predict",)
    supplies = ClassificationDomain.supplies
    source = "kdrun.domains.tabular.source:Table"
    learned = "kdrun.domains.tabular.task:Regression"
    described = "kdrun.domains.tabular.spec:TableSpec"
    reads = "kdrun.domains.tabular.reader:RowReader"
    unlabelled = "kdrun.domains.tabular.unlabelled.unlabelled_rows"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """R2, from errors and targets."""
        return {"r2": Sums(_squares, _r2)} if "output" in row else {}

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.tabular.module import table_module

        return table_module(source, config)


def _squares(rows: Rows) -> np.ndarray:
    """Of each sample 1, its target (around the mean of all, which keeps the squares small), its square, the squared error."""
    import numpy as np

    outputs, targets = (np.asarray([row[name] for row in rows], dtype=np.float64) for name in ("output", "target"))
    centred = targets - targets.mean()
    return np.stack([np.ones_like(centred), centred, centred**2, (outputs - targets) ** 2], axis=1)


def _r2(sums: np.ndarray) -> np.ndarray:
    number, total, squares, errors = sums.T
    return 1 - errors / (squares - total**2 / number)


DOMAIN = RegressionDomain()
