"""kdrun: an experiment runner for knowledge distillation. Importing it stays light: no torch, no hydra.

In Python: `kdrun.run("strategy=vanilla", "seed=0")`, `kdrun.plan(...)`, `kdrun.sweep(...)`, `kdrun.runs()`,
`kdrun.load("last")`; see kdrun/api.py.
"""

from __future__ import annotations

import sys
from types import ModuleType

from kdrun import late_imports, moved
from kdrun.networks import torchvision_operators
from kdrun.version import __version__ as __version__

TYPE_CHECKING = False  # type checkers know the name; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from kdrun.api import RunFailed, RunView, load, plan, run, runs, sweep
    from kdrun.problems import UserError

__all__ = ["RunFailed", "RunView", "UserError", "load", "plan", "run", "runs", "sweep"]

MODULES = ("run", "sweep")
"""Functions that share their name with a module, which `import kdrun.run` puts here: that module can be called."""


class _Function(ModuleType):
    """A module that is also the function of kdrun/api.py with its name."""

    def __call__(self, *arguments: object, **keywords: object) -> object:
        return self._function(*arguments, **keywords)

    @property
    def _function(self):
        from kdrun import api

        return getattr(api, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self):
        from inspect import signature

        return signature(self._function)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        if name in MODULES and isinstance(value, ModuleType):
            value.__class__ = _Function
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
moved.install()
torchvision_operators.install()
late_imports.install()


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in MODULES:
        return import_module(f"kdrun.{name}")
    if name in __all__:
        return getattr(import_module("kdrun.problems" if name == "UserError" else "kdrun.api"), name)
    raise AttributeError(f"module 'kdrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
