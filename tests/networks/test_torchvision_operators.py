"""In child processes, because declarations and imports last as long as a process."""

import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest


def python(code: str, path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STAND_IN = """
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""


@pytest.fixture
def stand_in(tmp_path):
    """A torchvision that cannot be imported without its operators, with a native library that does not load."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"not a library")
    return tmp_path


def test_a_torchvision_without_its_library_becomes_importable(stand_in):
    code = """
        import sys
        sys.path.insert(0, ".")
        try:
            import torchvision
            print("imported")
        except RuntimeError as error:
            print("does not exist" in str(error))
        sys.modules.pop("torchvision", None)
        from kdrun.networks.torchvision_operators import make_torchvision_importable
        print(make_torchvision_importable(), make_torchvision_importable())
        import torchvision
    """
    assert python(code, stand_in).split() == ["True", "True", "True"]


def test_nothing_happens_and_torch_is_not_imported_without_torchvision(tmp_path):
    if find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed")
    code = """
        import sys
        from kdrun.networks.torchvision_operators import make_torchvision_importable
        print(make_torchvision_importable(), "torch" in sys.modules)
    """
    assert python(code, tmp_path).split() == ["False", "False"]
