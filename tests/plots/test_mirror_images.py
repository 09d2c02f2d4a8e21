"""The mirror shows figures at W&B, and nothing that goes wrong with them changes how it ends."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
from plots.records import LABELS, stage
from tracking.support import FAKE_WANDB, TRACKER, begin, feed

pytest.importorskip("matplotlib")

from kdrun.job.summary import summarise
from kdrun.report import push
from kdrun.tracking.mirror import read_state, start_mirror

IMAGE = """
class Image:
    def __init__(self, path):
        if behaviour == "no images":
            raise RuntimeError("images are out")
        self.path = path
    def __str__(self):
        return "image " + os.path.basename(self.path)
"""


@pytest.fixture
def wandb_with_images(monkeypatch, tmp_path):
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE_WANDB + IMAGE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(tmp_path / "calls.jsonl"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return lambda: [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def mirrored(outputs):
    run = begin(outputs)
    mirror = start_mirror(run, {**TRACKER, "timeout": 60.0})
    feed(run)
    arms = {kind: {seed: stage(kind, seed, 6, 0.0) for seed in (0, 1)} for kind in LABELS}
    teacher = stage("teacher", 0, 6, 0.0)
    summary = summarise("accuracy", arms, LABELS, {0: teacher, 1: teacher}, [0, 1], {})
    run.finish(summary=summary, stages=[teacher, *(s for arm in arms.values() for s in arm.values())])
    run.close()
    assert mirror.finish() is None
    return run


def test_figures_of_a_done_run_are_files_and_images(tmp_path, wandb_with_images):
    run = mirrored(tmp_path)
    assert {path.name for path in (run.dir / "plots").glob("*.png")} == {"curves.png", "cost.png", "seeds.png"}
    images = [call["log"] for call in wandb_with_images() if "plots/curves" in call.get("log", {})]
    assert images == [{f"plots/{name}": f"image {name}.png" for name in ("curves", "cost", "seeds")}]
    assert "finish" in wandb_with_images()[-1]


def test_images_that_fail_are_a_line_in_the_log(tmp_path, wandb_with_images, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB", "no images")
    run = mirrored(tmp_path)
    assert read_state(run.dir)["finished"] and read_state(run.dir)["exit_code"] == 0
    assert "images are out" in (run.dir / "tracking/mirror.log").read_text()


@pytest.fixture
def figures(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Image=str))
    return lambda: push.PushedFigures(SimpleNamespace(log=lambda row: pytest.fail("nothing to log")), tmp_path)


def test_slow_figures_are_left_out(figures, capsys, monkeypatch):
    monkeypatch.setattr(push.PushedFigures, "_draw", lambda self: time.sleep(2))
    started = time.monotonic()
    figures().log(0.05)
    assert time.monotonic() - started < 1.5 and "longer than 0.05 s" in capsys.readouterr().out


def test_without_matplotlib_or_images_nothing_is_drawn(figures, monkeypatch):
    monkeypatch.setattr(push.PushedFigures, "_draw", lambda self: pytest.fail("drawn"))
    monkeypatch.setattr("kdrun.plots.figures.have_matplotlib", lambda: False)
    figures().log(1)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    figures().log(1)


def test_damaged_metrics_are_a_line_in_the_log(figures, capfd, tmp_path):
    run = begin(tmp_path)
    run.finish()
    run.close()
    (run.dir / "metrics.jsonl").write_text("damaged\n{}\n")
    shown = figures()
    shown.folder = run.dir
    shown.log(30)
    printed = capfd.readouterr()
    assert "no figures at W&B" in printed.out and "metrics.jsonl, line 1" in printed.err
