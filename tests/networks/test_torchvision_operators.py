"""In child processes, because declarations and imports last as long as a process."""

import subprocess
import sys
import textwrap

import pytest


def python(code: str, path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '.')\n" + textwrap.dedent(code)],
        cwd=path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STAND_IN = """
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""
ANYTHING = "def __getattr__(name):\n    if name.startswith('__'): raise AttributeError(name)\n    return object\n"


@pytest.fixture
def stand_in(tmp_path):
    """A torchvision that cannot be imported without its operators, with a native library that does not load."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text(STAND_IN)
    for name in ("transforms", "models"):
        (folder / f"{name}.py").write_text(ANYTHING)
    (folder / "_C.so").write_bytes(b"not a library")
    return tmp_path


def test_a_torchvision_without_its_library_becomes_importable(stand_in):
    code = """
        try:
            import torchvision
            print("imported")
        except RuntimeError as error:
            print("does not exist" in str(error))
        sys.modules.pop("torchvision", None)
        import kdrun
        import torchvision.transforms
        print(torchvision.transforms.__name__)
    """
    assert python(code, stand_in).split() == ["True", "torchvision.transforms"]


def test_a_library_that_loads_declares_its_operators_itself(stand_in):
    """Declared twice, they end the process."""
    (stand_in / "torchvision" / "_C.so").rename(stand_in / "torchvision" / "_C_stable.so")
    code = """
        import torch
        library = torch.library.Library("torchvision", "DEF")
        nms = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.ops.load_library = lambda path: path.endswith("_C_stable.so") and library.define(nms)
        import kdrun
        from kdrun.networks import torchvision_operators
        import torchvision
        print(torchvision_operators._declarations)
    """
    assert python(code, stand_in) == "[]"


def test_importing_kdrun_imports_neither_torch_nor_torchvision(stand_in):
    code = """
        import kdrun, importlib.util
        importlib.util.find_spec("torchvision")
        print("torch" in sys.modules, "torchvision" in sys.modules)
    """
    assert python(code, stand_in).split() == ["False", "False"]


@pytest.mark.slow
def test_a_plan_of_images_that_are_not_here_needs_no_working_torchvision(stand_in):
    """It imports lightning, and that torchvision, before anything looks at the device; of what few metrics need it imports nothing."""
    code = """
        from kdrun.cli import main
        words = "experiment=cifar100/resnet56_resnet20 teacher=resnet14 student=resnet8 hardware=h200"
        code = main(["plan", *words.split()])
        print(code, "torchvision" in sys.modules, {"transformers", "matplotlib", "scipy.signal"}.isdisjoint(sys.modules))
    """
    text = python(code, stand_in)
    assert "estimate" in text and text.split()[-3:] == ["0", "True", "True"]
