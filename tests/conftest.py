"""Every test runs without a network, with one thread, and leaves Hydra's singletons and the environment as they were."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KDRUN_JOBS", "1")  # the tests themselves run side by side
os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # hundreds of processes, each of which would compile kdrun and the tests anew
os.environ.update({"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"})

import sys
from pathlib import Path

import pytest

sys.dont_write_bytecode = False

LONGEST = (
    "test_readme.py", "federation/test_flower_deployment.py", "sweep/test_sweep.py", "test_faults.py", "sweep/test_search.py",
    "sweep/test_launchers.py", "test_scripts.py", "learning/test_ranks.py", "federation/test_flower.py",
    "tasks/test_translation.py", "test_environment.py", "test_cli.py", "learning/test_sharding.py", "learning/test_kill.py",
    "config/test_compose.py", "federation/test_run.py", "strategies/test_elastic.py", "federation/test_flower_messages.py",
    "learning/test_feature_objectives.py", "objectives/test_proofs.py", "plots/test_figures.py", "tables/test_spec.py",
    "learning/test_invariants.py", "outside/test_outside.py",
)  # fmt: skip
"""Files that take many seconds. They come first, so that no worker is left with one of them when the others are done."""


def pytest_configure(config):
    # pytest-xdist would otherwise put the files with the most tests first, and the long ones here have few.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))  # which leaves the order of the others as it is


@pytest.fixture(autouse=True)
def clean_singletons():
    yield
    import sys

    if "hydra" in sys.modules:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
