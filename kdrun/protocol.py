"""`data.protocol`: whether validation is held out, or all samples are trained on, as most published figures of CIFAR are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.problems import UserError

HELD_OUT, PUBLISHED = PROTOCOLS = ("held_out", "published")


def is_published(stage: Mapping[str, Any]) -> bool:
    """Whether a stage (its record) was trained on the validation samples as well."""
    return (stage.get("seen") or {}).get("protocol") == PUBLISHED


def refuse_published(data: Mapping[str, Any], what: str) -> None:
    """UserError where something is chosen by validation, and the samples of validation are trained on. what: names it."""
    if data.get("protocol") == PUBLISHED:
        raise UserError(
            f"{what} is chosen by validation, and with data.protocol={PUBLISHED} its samples are trained on",
            f"data.protocol={HELD_OUT} holds them out",
        )
