"""Following imports in the text of a user's package, without running it."""

import sys

import pytest

from kdrun.lab.sources import CODE_LEFT_OUT, Sources, imported, locate


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "sourcelab"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (folder / "nets.py").write_text("import torch\nfrom .blocks import Block\nclass Mine: pass\n")
    (folder / "blocks.py").write_text("def make():\n    from sourcelab.deep import part\n")
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "part.py").write_text("x = 1\n")
    (folder / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("sourcelab", None)


def test_reaches_relative_and_inner_imports_of_the_same_package_only(package):
    found = Sources().hashes(["sourcelab.nets.Mine"])
    assert set(found) == {"sourcelab.nets", "sourcelab.blocks", "sourcelab.deep", "sourcelab.deep.part"}


def test_changes_with_what_it_reaches_and_not_with_the_rest(package):
    before = Sources().hashes(["sourcelab.nets.Mine"])
    (package / "unused.py").write_text("y = 2\n")
    assert Sources().hashes(["sourcelab.nets.Mine"]) == before
    (package / "deep" / "part.py").write_text("x = 2\n")
    after = Sources().hashes(["sourcelab.nets.Mine"])
    assert {name for name in after if after[name] != before[name]} == {"sourcelab.deep.part"}


def test_libraries_are_taken_by_version(package):
    assert Sources().hashes(["torch.optim.SGD"]) == {}


def test_relative_imports_are_resolved():
    text = b"from . import a\nfrom ..b import c\nimport d.e\n"
    assert set(imported(text, "p.q.r", is_package=False)) == {"p.q", "p.q.a", "p.b", "p.b.c", "d.e"}
    assert set(imported(b"from .x import y", "p.q", is_package=True)) == {"p.q.x", "p.q.x.y"}


def test_left_out_modules_exist_and_have_reasons():
    for module, reason in CODE_LEFT_OUT.items():
        assert locate(module) is not None, module
        assert reason
