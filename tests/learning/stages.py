"""Small real stages for the tests of the learning room: digits, tiny networks, a few epochs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from kdrun.domains.load import content_hash, load_data
from kdrun.job.compose import compose
from kdrun.lab.fingerprint import FingerprintContext
from kdrun.lab.lab import Lab
from kdrun.lab.store import Store
from kdrun.learning.device import resolve
from kdrun.learning.report import Report
from kdrun.learning.teaching import Workshop
from kdrun.strategies.cast import Cast, distil, supervised

TINY = (
    "teacher=mlp_64",
    "student=mlp_8",
    "trainer.epochs=3",
    "trainer.batch_size=64",
    "trainer.log_every=4",
    "data.limit.train=300",
    "tracker=none",
    "seed=0",
    "hardware=cpu",
)


class Silent(Report):
    """Keeps what it is told. stop_at: after which call of stop_requested to ask for a stop."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at = stop_at
        self.asked = 0
        self.told: list[dict] = []
        self.notes: list[str] = []

    def rows(self, rows):
        self.told += rows

    def note(self, text):
        self.notes.append(text)

    def stop_requested(self):
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


@lru_cache
def cell(*overrides: str) -> dict:
    config = compose([*TINY, *overrides]).cells[0]
    return {**config, "hardware": resolve(config["hardware"])}


def make_lab(root: Path, report: Report | None = None, **options) -> Lab:
    torch.set_num_threads(1)
    paths = {**cell()["paths"], "store": str(root)}
    store = Store(root)
    workshop = Workshop(lambda config: load_data(config, paths), store.root / "outputs", store.lock)
    context = FingerprintContext(lambda config: content_hash(config, paths), "cpu")
    return Lab(store, context, workshop, paths, report or Silent(), **options)


def teach(lab: Lab, *overrides: str, **options):
    """Teacher and distilled student of the tiny cell."""
    cast = Cast(cell(*overrides))
    return lab.get(distil(cast.student, lab.get(supervised(cast.teacher)), **options))
