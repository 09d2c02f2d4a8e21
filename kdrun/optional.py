"""Packages that only some parts of kdrun need, imported when they do."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str, why: str, package: str = "") -> Any:
    """The module. UserError `WHY: pip install PACKAGE` where it is not installed; package: what pip calls it, if not as the module."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # installed, but something it needs is not: its own message says what
        from kdrun.problems import UserError

        raise UserError(f"{why}: pip install {package or module.partition('.')[0]}") from error
