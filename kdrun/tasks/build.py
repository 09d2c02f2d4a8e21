"""Which task belongs to which data."""

from __future__ import annotations

from typing import Any


def task_for(module: Any, decoding: dict[str, Any] | None = None):
    """The task of a data module (data.module.ImageDataModule, data.table_module.TableDataModule, data.text_module.TextDataModule,
    data.vision_module.VisionDataModule).

    decoding: how sequences are generated in evaluation (`trainer.decoding`); tasks that generate nothing ignore it.
    """
    if module.spec.kind == "images":
        if module.task == "diagnosis":
            from kdrun.tasks.diagnosis import Diagnosis

            return Diagnosis(module.spec)
        from kdrun.tasks.classification import Classification

        return Classification(module.spec)
    if module.spec.kind == "table":
        from kdrun.tasks.regression import Regression

        return Regression(module.spec)
    if module.spec.kind == "vision_language":
        from kdrun.tasks.vision_language import VisionLanguage

        return VisionLanguage(module, decoding)
    from kdrun.tasks.translation import Translation

    return Translation(module, decoding)
