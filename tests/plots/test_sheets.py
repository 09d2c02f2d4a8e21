"""The contact sheet of a run: which samples, which networks, and what stops it."""

import shutil

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kdrun import api
from kdrun.hardware.exports import subjects
from kdrun.learning.resampling import read_samples
from kdrun.plots import sheets
from kdrun.plots.sheets import differing, write_sheet
from kdrun.problems import UserError
from kdrun.tracking.registry import read_run

WORDS = (
    "strategy=cross_window", "objective=cross_window", "model=resnet_ladder", "teacher=cnn_small", "student=cnn_small",
    "data=digits", "data.task=diagnosis", "data.limit.train=300", "strategy.views=[grey,edges]", "seeds=1", "trainer.epochs=1",
    "tracker=none", "name=sheet",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    return api.run(*WORDS, f"paths.outputs={outputs}", f"paths.store={outputs}/store")


@pytest.fixture
def run(made):
    return read_run(made.path)


def test_samples_that_changed_most_in_turn_one_of_each_class():
    def rows(values):
        return {number: (target, [1 - p, p]) for number, (target, p) in values.items()}

    before = rows({1: (1, 0.5), 2: (1, 0.5), 3: (0, 0.5), 4: (0, 0.5), 5: (1, 0.5)})
    after = rows({1: (1, 0.6), 2: (1, 0.1), 3: (0, 0.5), 4: (0, 0.7), 5: (1, 0.6)})
    said = {"lung": [before, after], "bone": [before, before]}
    assert differing(said, 5) == [4, 3, 2, 1, 5], "classes in order, then changes, then ids"
    assert differing(said, 3) == [4, 2, 1] and differing(said, 1) == [2] and differing(said, 9) == [4, 3, 2, 1, 5]


def test_a_sheet_shows_what_the_run_recorded(run, monkeypatch):
    seen = {}

    def keep(views, images, before, after, titles, path, captions, heading, note):
        seen.update(locals())
        path.write_bytes(b"png")
        return path

    monkeypatch.setattr(sheets, "contact_sheet", keep)
    assert write_sheet(run, rows=4) == run.dir / "plots" / "windows.png"
    assert seen["views"] == ["grey", "edges"] and len(seen["titles"]) == 4
    student = next(stage for stage in run.record["stages"] if stage["role"] == "student")
    (taught,) = student["counted"]
    assert set(seen["before"].maps) == {"grey", "edges"} and set(seen["after"].maps) == {taught}
    ids = [int(title.rpartition(" ")[2]) for title in seen["titles"]]
    kept = read_samples(student["path"])
    recorded = {row["id"]: row["members"][taught][row["target"]] for row in kept}
    np.testing.assert_allclose(seen["after"].probabilities[taught], [recorded[one] for one in ids], atol=1e-5)
    assert seen["images"]["grey"].shape == (4, 8, 8) and "AUC" in seen["captions"]["edges"]
    assert write_sheet(run, method="occlusion", rows=1).name == "windows-occlusion.png"


def test_it_is_a_picture(run):
    assert write_sheet(run, rows=2).read_bytes().startswith(b"\x89PNG")


def test_mistakes(run, tmp_path):
    with pytest.raises(UserError, match="no result of seed 3; it has: 0"):
        write_sheet(run, seed=3)
    copy = tmp_path / "outputs"
    shutil.copytree(run.dir.parent.parent, copy)
    shutil.rmtree(copy / "store" / "stages")
    with pytest.raises(UserError) as caught:
        write_sheet(read_run(copy / "runs" / run.id))
    assert "is not in the store" in caught.value.lines[0] and f"kdrun rerun {run.id}" in caught.value.lines[1]


def test_other_data_are_refused(run, monkeypatch):
    load = subjects.data_of

    def fewer(*arguments):
        module = load(*arguments)
        module.images.ids[:] = module.images.ids + 10_000
        return module

    monkeypatch.setattr(subjects, "data_of", fewer)
    with pytest.raises(UserError, match="test samples have changed"):
        write_sheet(run)
