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
            from kdrun.domains.ct.task import Diagnosis

            return Diagnosis(module.spec)
        from kdrun.domains.images.task import Classification

        return Classification(module.spec)
    if module.spec.kind == "table":
        from kdrun.domains.tabular.task import Regression

        return Regression(module.spec)
    if module.spec.kind == "vision_language":
        from kdrun.domains.vision_language.task import VisionLanguage

        return VisionLanguage(module, decoding)
    from kdrun.domains.translation.task import Translation

    return Translation(module, decoding)
