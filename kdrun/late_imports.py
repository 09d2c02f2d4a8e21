"""Keeps `import lightning` from importing transformers and matplotlib, which torchmetrics imports for two metrics and for figures.

Where both are installed they are two of its five seconds of processor time, in every process. The two modules of torchmetrics that
import them get stand-ins, which import the real ones once something of them is called. `import kdrun` installs this for whatever
imports torchmetrics later.
"""

from __future__ import annotations

import sys
from types import ModuleType

PLACES = {
    "torchmetrics": ("scipy.signal",),
    "torchmetrics.functional.text.bert": ("transformers",),
    "torchmetrics.utilities.plot": ("matplotlib", "matplotlib.axes", "matplotlib.pyplot"),
}
"""Module -> what it imports at once and needs later."""


class Later(ModuleType):
    """Anything inside a module that is not imported yet, by its dotted name."""

    def __getattr__(self, name: str) -> Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(f"{self.__name__}.{name}")

    def __call__(self, *arguments: object, **options: object) -> object:
        from pkgutil import resolve_name

        if self.__name__ == "matplotlib.pyplot.style.context":  # decorates functions while the module is imported
            return _style(*arguments, **options)
        return resolve_name(self.__name__)(*arguments, **options)


def _style(*arguments: object, **options: object) -> object:
    from contextlib import contextmanager

    @contextmanager
    def context():
        from matplotlib import style

        with style.context(*arguments, **options):
            yield

    return context()


class Finder:
    """Puts the stand-ins where imports look first, while one of these modules runs its own code; asked before other finders."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name not in PLACES:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: object) -> None:
            late = {one: Later(one) for one in PLACES[name]} if PLACES[name][0] not in sys.modules else {}
            sys.modules.update(late)
            try:
                execute(module)
            finally:
                for one in late:
                    del sys.modules[one]

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
