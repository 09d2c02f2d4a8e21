"""Every test runs without a network, with one thread, and leaves Hydra's singletons and the environment as they were."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update({"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"})

import pytest


@pytest.fixture(autouse=True)
def clean_singletons():
    yield
    import sys

    if "hydra" in sys.modules:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
