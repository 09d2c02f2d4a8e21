"""From a method's name and options to the method."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kdrun.federation.methods.base import Method
from kdrun.federation.methods.losses import Losses
from kdrun.federation.methods.options import METHODS, options_of


def build_method(
    name: str, options: Mapping[str, Any], regression: bool = False, objective: Mapping[str, Any] | None = None
) -> Method:
    """objective: of the config, whose terms stand in place of the method's; None: those of the method.

    Raises UserError for an unknown name or option, or a value that an option cannot have."""
    chosen = options_of(name, options)
    module, kind = METHODS[name][0].split(".")
    if objective is None:
        losses = Losses.of(regression, getattr(chosen, "temperature", 1.0))
    else:
        losses = Losses.of_config(objective, regression)
    return getattr(import_module(f"kdrun.federation.methods.{module}"), kind)(chosen, losses)
