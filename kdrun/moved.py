"""Modules that configs, records, weights files and packages of users name, and that lie elsewhere now.

An old name means the same as the new one wherever a config may call it (`current`), and where it is imported (`Finder`). A hash
of a config is made from the oldest name (`original`), so that moving a module changes none.
"""

from __future__ import annotations

import sys

_D, _N = "kdrun.domains", "networks"
MODULES = {
    **{
        f"kdrun.data.{name}": f"{_D}.images.shipped.{name}" for name in ("cifar", "digits", "fashion_mnist", "mnist_5k")
    },
    "kdrun.data.load": f"{_D}.load",
    "kdrun.data.images": f"{_D}.images.source",
    "kdrun.data.image_folder": f"{_D}.images.image_folder",
    "kdrun.data.views": f"{_D}.images.views",
    "kdrun.data.tabular": f"{_D}.tabular.source",
    "kdrun.data.diabetes": f"{_D}.tabular.shipped.diabetes",
    "kdrun.data.pairs": f"{_D}.translation.source",
    "kdrun.data.parallel_text": f"{_D}.translation.parallel_text",
    "kdrun.data.corpora": f"{_D}.translation.shipped.corpora",
    "kdrun.data.ui_de_en": f"{_D}.translation.shipped.ui_de_en",
    "kdrun.data.conversations": f"{_D}.vision_language.source",
    "kdrun.data.llava_json": f"{_D}.vision_language.llava_json",
    "kdrun.data.vqa_files": f"{_D}.vision_language.vqa_files",
    "kdrun.data.vqa_sheet": f"{_D}.vision_language.sheet",
    "kdrun.data.emoji_vqa": f"{_D}.vision_language.shipped.emoji_vqa",
    "kdrun.data.shapes_vqa": f"{_D}.vision_language.shipped.shapes_vqa",
    "kdrun.data.scans": f"{_D}.ct.source",
    "kdrun.data.ct_folder": f"{_D}.ct.ct_folder",
    "kdrun.data.ct_labels": f"{_D}.ct.labels",
    "kdrun.data.ct_patches": f"{_D}.ct.shipped.ct_patches",
    "kdrun.data.ct_shipped": f"{_D}.ct.shipped.volumes",
    "kdrun.data.ct_synthetic": f"{_D}.ct.shipped.ct_synthetic",
    **{f"kdrun.networks.{name}": f"{_D}.translation.{_N}.{name}" for name in ("seq2seq", "transformer")},
    **{
        f"kdrun.networks.{name}": f"{_D}.vision_language.{_N}.{name}"
        for name in ("llava", "llava_checkpoint", "smollm2")
    },
    **{
        f"kdrun.networks.{name}": f"{_D}.ct.{_N}.{name}"
        for name in ("late_fusion", "monai_by_name", "se_resnet", "slicewise")
    },
}
_BEFORE = {new: old for old, new in MODULES.items()}


def current(target: str) -> str:
    """The dotted name under which `target`, a name in a module or the module itself, is to be found now."""
    return _renamed(target, MODULES)


def original(target: str) -> str:
    """The dotted name under which `target` was first hashed."""
    return _renamed(target, _BEFORE)


def _renamed(target: str, names: dict[str, str]) -> str:
    if target in names:
        return names[target]
    module, _, word = target.rpartition(".")
    return f"{names[module]}.{word}" if module in names else target


class Finder:
    """Lets `import kdrun.data.images` give the module that has taken its place; asked after all other finders."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name not in MODULES:
            return None
        from importlib import import_module
        from importlib.machinery import ModuleSpec

        class Loader:
            def create_module(self, spec: object) -> object:
                module = import_module(MODULES[name])
                self.spec = module.__spec__
                return module

            def exec_module(self, module: object) -> None:
                module.__spec__ = self.spec

        return ModuleSpec(name, Loader())


def install() -> None:
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
