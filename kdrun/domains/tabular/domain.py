"""Tables with a real target, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdrun.domains.base import Domain
from kdrun.domains.images.domain import ClassificationDomain


class RegressionDomain(Domain):
    """A row of numbers in, one number out."""

    name, kind = "regression", "table"
    metrics = MappingProxyType({"rmse": "min", "mae": "min", "r2": "max", "loss": "min"})
    monitor, supervision = "r2", "mse"
    transfers = True
    supplies = ClassificationDomain.supplies

    def source_type(self) -> type:
        from kdrun.domains.tabular.source import Table

        return Table

    def reads_unlabelled(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        return {"_target_": "kdrun.domains.tabular.unlabelled.unlabelled_rows"}

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.tabular.module import table_module

        return table_module(source, config)

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Any:
        from kdrun.domains.tabular.task import Regression as Task

        return Task(module.spec)

    def spec(self, metadata: Mapping[str, Any]) -> Any:
        from kdrun.domains.tabular.spec import TableSpec

        return TableSpec.of(metadata)


DOMAIN = RegressionDomain()
