"""Losses of the first five steps, kept: a change of the code that changes them has to say so.

To renew after a wanted change: KDRUN_RENEW_GOLDEN=1 python -m pytest tests/learning/test_golden.py
"""

import json
import os
from pathlib import Path

import pytest

from kdrun.strategies.cast import Cast, supervised
from kdrun.targets import build

from .stages import cell, make_lab, teach

FILE = Path(__file__).parent / "golden.json"
CASES = {
    "vanilla": (),
    "vanilla, resnet": ("teacher=resnet8", "student=resnet8_w2"),
    "vanilla, augmented": ("teacher=resnet8", "student=resnet8_w2", "data.augment.crop=1", "data.augment.flip=true"),
    "alone": (),
    "takd": ("strategy=takd",),
    "evolving": ("strategy=evolving",),
    "evolving, descending, fresh": ("strategy=evolving", "strategy.order=descending", "strategy.start=fresh"),
    "cascaded": ("strategy=cascaded",),
    "cascaded, all full": ("strategy=cascaded", "strategy.stages_per_teacher=all_full"),
    "cascaded, joint": ("strategy=cascaded", "strategy.scheme=joint"),
    "cascaded, dgkd": ("strategy=cascaded", "strategy.scheme=dgkd"),
}
LADDER = ("model=mlp_ladder", "trainer.epochs=1", "teacher.trainer.epochs=8", "teacher.tolerance=1.0",
          "assistants.mlp_256.tolerance=1.0", "assistants.mlp_64.tolerance=1.0")  # fmt: skip
STEPS = ("trainer.epochs=1", "trainer.log_every=1", "data.limit.train=320")


@pytest.mark.parametrize("name", CASES)
def test_five_steps(tmp_path, name):
    lab, overrides = make_lab(tmp_path), (*CASES[name], *STEPS)
    if name == "alone":
        trained = lab.fit(supervised(Cast(cell(*overrides)).student, role="alone"))
    elif "strategy" in str(overrides):  # of the student's last stage
        config = cell(*overrides, *LADDER)
        trained = build(config["strategy"]).run(lab, Cast(config))
    else:
        # An untrained teacher would do as well, but five steps make its outputs less uniform.
        trained = teach(lab, *overrides, "teacher.tolerance=1.0", "teacher.trainer.epochs=8")
    rows = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    losses = [{k: v for k, v in row.items() if k.startswith("train/")} for row in rows if "train/loss" in row]
    assert len(losses) == 5
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("KDRUN_RENEW_GOLDEN"):
        FILE.write_text(json.dumps({**golden, name: losses}, indent=1) + "\n")
        return
    for found, kept in zip(losses, golden[name], strict=True):
        assert found == pytest.approx(kept, rel=2e-4), name
