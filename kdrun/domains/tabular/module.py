"""A loaded table: split by quantiles of its target, standardised with the moments of the training split."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from kdrun import kinds
from kdrun.data.array_module import ArrayModule
from kdrun.data.source import TRAIN
from kdrun.data.splits import assign, sizes_of, told_moments
from kdrun.data.transfer import chosen, with_unlabelled
from kdrun.domains.tabular.source import Table
from kdrun.domains.tabular.spec import TableSpec
from kdrun.problems import UserError

DOMAIN = kinds.find("regression")


class TableDataModule(ArrayModule):
    """Inputs are float32 [b, F], targets float32 [b] and standardised, nothing is augmented."""

    source: Table
    spec: TableSpec

    @cached_property
    def targets(self) -> np.ndarray:
        return ((self.source.y - self.spec.target_mean) / self.spec.target_std).astype(np.float32)


def table_module(table: Table, config: dict[str, Any]) -> TableDataModule:
    """The data set of a table. config: the keys that every data config has .

    Where the source has no split of its own, samples are drawn in proportion from ten quantiles of the target.
    `normalize` replaces the moments of the features. Raises UserError for augmentation, of which tables have none.
    """
    for name, default in (("crop", 0), ("flip", False)):
        if (given := config["augment"][name]) != default:
            raise UserError(f"data.augment.{name}={given}: {table.name} is a table, only images are augmented")
    training = chosen(table, assign(table, config), config)
    table, split = training.source, training.split
    known = split == TRAIN if training.labelled is None else (split == TRAIN) & training.labelled
    (target_mean,), (target_std,) = _moments(table.y[known, None])
    if (given := config["normalize"]) is None:
        mean, std = _moments(table.x[split == TRAIN])
    else:
        mean, std = told_moments(table, given, len(table.features))
    training = with_unlabelled(training, config["unlabelled"])
    table, split = training.source, training.split
    spec = TableSpec(
        name=config["name"] or table.name,
        features=table.features,
        target=table.target,
        sizes=sizes_of(table, split),
        mean=mean,
        std=std,
        target_mean=target_mean,
        target_std=target_std,
    )
    return TableDataModule(DOMAIN, table, split, spec, labelled=training.labelled)


def _moments(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each column of [n, K], in float64; a constant column is only shifted."""
    values = values.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    deviation[deviation <= 1e-6 * np.abs(mean)] = 1.0
    return tuple(mean.tolist()), tuple(deviation.tolist())
