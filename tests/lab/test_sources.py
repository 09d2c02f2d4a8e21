"""What the code of a stage is known by: numbers in kdrun, hashes of files in a user's package; nothing is imported."""

import re
import shutil
import sys
from pathlib import Path

import pytest

import kdrun
from kdrun.config.groups import shipped
from kdrun.federation.methods.options import METHODS
from kdrun.lab.sources import Sources, imported, semantics

PACKAGE = Path(kdrun.__file__).parent
COMPUTES = ("learning", "federation", "objectives", "networks", "domains", "data", "decoding")
"""Rooms whose code gives numbers."""


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
    found = Sources().versions(["sourcelab.nets.Mine"])
    assert set(found) == {"sourcelab.nets", "sourcelab.blocks", "sourcelab.deep", "sourcelab.deep.part"}


def test_changes_with_what_it_reaches_and_not_with_the_rest(package):
    before = Sources().versions(["sourcelab.nets.Mine"])
    (package / "unused.py").write_text("y = 2\n")
    assert Sources().versions(["sourcelab.nets.Mine"]) == before
    (package / "deep" / "part.py").write_text("x = 2\n")
    after = Sources().versions(["sourcelab.nets.Mine"])
    assert {name for name in after if after[name] != before[name]} == {"sourcelab.deep.part"}


def test_libraries_are_taken_by_version(package):
    assert Sources().versions(["torch.optim.SGD"]) == {}


def test_relative_imports_are_resolved():
    text = b"from . import a\nfrom ..b import c\nimport d.e\n"
    assert set(imported(text, "p.q.r", is_package=False)) == {"p.q", "p.q.a", "p.b", "p.b.c", "d.e"}
    assert set(imported(b"from .x import y", "p.q", is_package=True)) == {"p.q.x", "p.q.x.y"}


def test_what_a_users_module_takes_from_kdrun_counts_with_its_number(package):
    (package / "blocks.py").write_text("from kdrun.networks.resnet import ResNet\nfrom kdrun.networks import quiet\n")
    found = Sources().versions(["sourcelab.nets.Mine"])
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    assert set(numbers) == {"networks", "networks.resnet"}, "what has no number of its own has that of its room"
    assert set(found) - set(numbers) == {"sourcelab.nets", "sourcelab.blocks"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of kdrun's sources that may be edited."""
    folder = tmp_path_factory.mktemp("clone") / "kdrun"
    return Path(shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "conf", "*.gz", "*.npz")))


STAGE = ["kdrun.learning.fit", "kdrun.domains.images", "kdrun.objectives.kd.kd", "kdrun.networks.resnet.ResNet"]


def test_an_edit_without_effect_leaves_stored_stages_where_they_are(clone):
    before = Sources(clone).versions(STAGE)
    assert before == Sources().versions(STAGE) and before["networks.resnet"] == 1
    for name in ("objectives/kd.py", "learning/__init__.py", "networks/resnet.py"):
        text = (clone / name).read_text()
        (clone / name).write_text(f"# A comment.\n{text}\n\ndef _nobody_calls_this():\n    pass\n")
    (clone / "networks/encoder.py").rename(clone / "networks/backbone.py")
    assert Sources(clone).versions(STAGE) == before


@pytest.mark.parametrize(
    "file, part",
    [("objectives/kd.py", "objectives.kd"), ("learning/__init__.py", "learning"), ("data/__init__.py", "data")],
)
def test_a_raised_number_is_another_stage(clone, file, part):
    before, text = Sources(clone).versions(STAGE), (clone / file).read_text()
    (clone / file).write_text(re.sub(r"(?m)^SEMANTICS = 1$", "SEMANTICS = 2", text))
    try:
        assert Sources(clone).versions(STAGE) == {**before, part: 2}
        assert Sources(clone).versions(["kdrun.decoding"]) == {"decoding": 1}
    finally:
        (clone / file).write_text(text)


def test_a_file_that_moved_keeps_its_number_under_its_first_name():
    new, old = "kdrun.domains.translation.networks.transformer", "kdrun.networks.transformer"
    found = Sources().versions([f"{new}.Transformer"])
    assert found == Sources().versions([f"{old}.Transformer"]) and "networks.transformer" in found


def test_every_room_that_computes_has_a_number():
    rooms = [PACKAGE / room for room in COMPUTES] + [path.parent for path in PACKAGE.glob("domains/*/__init__.py")]
    assert [room for room in rooms if semantics((room / "__init__.py").read_text())[0] is None] == []


def test_what_a_config_names_has_a_number_of_its_own():
    """Losses, networks and methods; the content of data is in a fingerprint by itself."""
    conf = Path(shipped())
    named = {
        target
        for path in conf.glob("**/*.yaml")
        for target in re.findall(r"_target_: *(kdrun[\w.]*\.networks\.\w+)\.", path.read_text())
    }
    named |= {f"kdrun.federation.methods.{target.partition('.')[0]}" for target, *_ in METHODS.values()}
    named |= {
        f"kdrun.objectives.{path.stem}"
        for path in PACKAGE.glob("objectives/*.py")
        if re.search(rf"(?m)^(def {path.stem}|class {path.stem.title().replace('_', '')})\b", path.read_text())
    }
    assert len(named) > 20
    files = [PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in sorted(named)]
    assert [str(file) for file in files if semantics(file.read_text())[0] is None] == []


KNOWN = {
    "domains.images": {"domains.ct", "domains.tabular"},
    "domains.translation": {"domains.images"},
    "domains.vision_language": {"domains.images"},
}
"""Kinds of data of which another one imports names of splits and types: no number comes from there."""


def test_a_room_says_what_it_stands_on():
    """Rooms that compute and are imported from one that does are in its USES, or in those of what these use."""
    kinds = [f"domains.{path.parent.name}" for path in sorted(PACKAGE.glob("domains/*/__init__.py"))]
    for room in (*COMPUTES, *kinds):
        folder, others = PACKAGE.joinpath(*room.split(".")), (*COMPUTES, *(kinds if room in kinds else ()))
        files = folder.glob("*.py") if room == "domains" else folder.rglob("*.py")
        names = {name for path in files for name in imported(path.read_bytes(), f"kdrun.{room}", is_package=True)}
        needs = {other for other in others if any(name.startswith(f"kdrun.{other}.") for name in names)}
        needs -= KNOWN.get(room, set())
        # The kind of data is in every stage by itself.
        assert needs <= set(Sources().versions([f"kdrun.{room}", "kdrun.domains"])), room
