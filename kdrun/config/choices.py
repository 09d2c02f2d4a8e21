"""What a key of the schema may be set to, where only some values are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun import kinds


def choices_of(rules: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Of the rules of a key (schema.key); None where any value of its type is allowed. "domains": all kinds of data there are."""
    choices = rules.get("choices")
    return kinds.names() if choices == "domains" else choices
