"""The wheel holds the package and its configs, nothing else, and works from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return path


def test_top_level_names(wheel):
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"kdrun"} == {name for name in tops if not name.endswith(".dist-info")}


def test_it_finds_its_configs_from_an_empty_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = "import kdrun, sys; from kdrun.cli import main; print(kdrun.__file__); sys.exit(main(['--cfg', 'job']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "digits" in done.stdout


def test_module_and_editable_install_find_them_too(tmp_path):
    done = subprocess.run([sys.executable, "-m", "kdrun", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
