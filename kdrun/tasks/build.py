"""Which task belongs to which data."""

from __future__ import annotations

from typing import Any


def task_for(spec: Any, settings: dict[str, Any] | None = None):
    """The task of a data set's spec (data.spec.DataSpec, data.text_spec.TextSpec).

    settings: how sequences are generated in evaluation (`trainer.decoding`); tasks that generate nothing ignore it.
    """
    if spec.kind == "images":
        from kdrun.tasks.classification import Classification

        return Classification(spec)
    from kdrun.tasks.translation import Translation

    return Translation(spec, settings)
