"""Makes `import torchvision` possible beside a torch that its native library was not built for.

torchvision's wheels are built against CUDA. Beside a CPU build of torch the library does not load, and then the import
of torchvision fails ("operator torchvision::nms does not exist"), and with it that of timm, lightning, torchmetrics.
The import only needs the operators to be declared. Detection operators and image decoding stay unavailable.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def make_torchvision_importable() -> bool:
    """Declares torchvision's operators where its native library is installed but does not load.

    Returns whether that was needed. Does nothing where torchvision is absent, imported already, or works.
    To be called before the first import of anything that may import torchvision; further calls do nothing.
    """
    if "torchvision" in sys.modules:
        return False
    spec = find_spec("torchvision")  # finds a top-level package without importing it
    if spec is None or spec.origin is None:
        return False
    import torch

    for library in sorted(Path(spec.origin).parent.glob("_C.*")):
        try:
            torch.ops.load_library(str(library))
            return False  # it loads here, so it will in torchvision's own import
        except OSError:
            continue
    declare()
    return True


@cache
def declare() -> Any:
    """Declares nms and qnms, which torchvision's import registers shape functions for.

    The declarations last as long as the returned object, which the cache keeps for the whole process.
    """
    import torch

    declarations = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declarations.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declarations
