"""Makes `import torchvision` possible beside a torch that its native library was not built for.

torchvision's wheels are built against CUDA. Beside a CPU build of torch the library does not load, and then the import
of torchvision fails ("operator torchvision::nms does not exist"), and with it that of timm, lightning, torchmetrics.
The import only needs the operators to be declared. Detection operators and image decoding stay unavailable.
`import kdrun` installs this for whatever imports torchvision later; without such an import nothing is done, and torch is not imported.
"""

from __future__ import annotations

import sys


class Finder:
    """Lets torchvision's operators be declared, where they have to be, right before its own code runs; asked before other finders."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None or spec.origin is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: object) -> None:
            if not loads(spec.origin):
                declare()
            execute(module)

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def loads(origin: str) -> bool:
    """Whether there is a native library beside torchvision's `__init__.py` that loads here."""
    from pathlib import Path

    import torch

    for library in sorted(Path(origin).parent.glob("_C*.*")):  # _C_stable.so from 0.29 on
        try:
            torch.ops.load_library(str(library))
            return True  # so it will in torchvision's own import
        except OSError:
            continue
    return False


_declarations: list[object] = []
"""Declarations last as long as these objects: for the whole process."""


def declare() -> None:
    """Declares nms and qnms, which torchvision's import registers shape functions for."""
    if _declarations:
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)
