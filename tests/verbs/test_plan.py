"""kdrun plan where stages learn from different data."""

from __future__ import annotations

import pytest
from vision_support import COMMON, Store, mixed, tiny_tower

from kdrun.domains.load import load_data
from kdrun.domains.vision_language.build import vision_module
from kdrun.domains.vision_language.source import Conversations
from kdrun.job.compose import compose
from kdrun.job.plan import Features, make_plan
from kdrun.verbs import plan as verb

pytest.importorskip("transformers")

WORDS = """
    model=llava data=shapes_vqa strategy=cascaded strategy.teachers=[llava_w64] strategy.controls=[alone] seeds=2 hardware=cpu
    data.train=400 data.val=20 data.test=20 data.further=0 trainer.batch_size=16 trainer.epochs=2
    student.trainer.epochs=2 pretrain.trainer.epochs=3 tracker=none
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    return compose([*WORDS.split(), f"paths.cache={folder}/cache", f"paths.outputs={folder}/outputs"], [])


@pytest.fixture(scope="module")
def plan(job):
    return make_plan(job)


def test_each_stage_is_measured_on_its_own_data(plan, job):
    paths = job.config["paths"]
    questions = load_data(job.config["data"], paths)
    captions = load_data({**job.config["data"], "part": "captions"}, paths)
    assert plan["data"]["sizes"] == questions.spec.sizes and "audit" in plan["data"]
    (other,) = plan["other_data"]
    assert other["differs"] == {"part": "captions"} and other["sizes"] == captions.spec.sizes
    assert len(plan["stages"]) == 2 + 2 * (3 + 2)
    for stage in plan["stages"]:
        first = stage["label"].partition("/")[0].endswith("_first")
        module, epochs = (captions, 3) if first else (questions, 2)
        assert stage["data_differs"] == ({"part": "captions"} if first else {})
        assert stage["epochs"] == epochs
        assert stage["estimate"]["steps"] == epochs * len(module.train_loader(16, 0))
        assert stage["estimate"]["samples"] == epochs * len(module.train_ids)


def test_what_depends_on_the_data_differs_between_them(plan):
    found = {stage["label"]: stage for stage in plan["stages"]}
    first, main = found["student_first/seed=0"], found["student/seed=0"]
    assert first["learner"] == main["learner"] and first["teacher"]["source"] == main["teacher"]["source"] == "cached"
    assert first["teacher"]["cache_bytes"] != main["teacher"]["cache_bytes"]
    assert first["terms"]["ce"]["value"] != main["terms"]["ce"]["value"]
    assert [stage["label"] for stage in plan["stages"][:2]] == ["llava_w64_first/seed=0", "llava_w64/seed=0"]


def test_features_of_both_phases_are_counted_once(plan, job):
    module = load_data(job.config["data"], job.config["paths"])
    assert plan["features"]["bytes"] == module.pictures.features.bytes > 0
    assert 0 < plan["features"]["missing"] == module.features_missing()  # captions are about the same images


def test_seeds_are_described_once(plan, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    verb._show(plan)
    page = capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if "student/seed=1" in line]
    assert line.endswith("as seed=0")
    assert page.count("llava_w16: ") == 3 + 2
    assert "data shapes_vqa (part=captions) " in page and "3 epochs (part=captions), " in page
    assert f"{plan['features']['missing']} images have none yet" in page


def test_a_seed_that_is_not_alike_is_described_itself(plan, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stages = [{**stage, "status": "done"} if "alone/seed=1" in stage["label"] else stage for stage in plan["stages"]]
    verb._show({**plan, "stages": stages, "assumed": ["best view: not known yet"]})
    page = capsys.readouterr().out
    assert page.count("llava_w16: ") == 3 + 2 + 1 and "alone/seed=1  in the store" in page
    assert "best view: not known yet" in page


def test_caches_of_features(tmp_path, monkeypatch):
    """Images that several data sets use count once, those of another store beside them."""
    tiny_tower(monkeypatch)

    def module_of(samples, store):
        parts = {"train": tuple(samples), "val": (), "test": ()}
        texts = ("what colour is thing, please? 0 1 2 red green pale blue",)
        return vision_module(Conversations("made", parts, store, texts, ""), COMMON, tmp_path)

    store, other = Store(200), Store(50, seed=1)
    one, two = module_of(mixed(8), store), module_of(mixed(8, first=4), store)
    images = [
        {image for sample in made.chosen["train"] + made.chosen["val"] + made.chosen["test"] for image in sample.images}
        for made in (one, two)
    ]
    features = Features()
    assert features.found() is None
    features.add(one)
    features.add(two)
    bytes_each = 4 * 3 * 2 + 4
    assert images[0] & images[1] and images[1] - images[0]
    assert features.found() == {"missing": len(images[0] | images[1]), "bytes": 200 * bytes_each}
    one.prepare()
    assert features.found()["missing"] == len(images[1] - images[0])
    third = module_of(mixed(4), other)
    features.add(third)
    missing = len(images[1] - images[0]) + third.features_missing()
    assert third.features_missing() and features.found() == {"missing": missing, "bytes": 250 * bytes_each}


@pytest.mark.parametrize(("at_once", "elapsed"), [(1, 24.0), (2, 17.0), (9, 17.0)])
def test_stages_side_by_side_wait_for_what_they_build_upon(at_once, elapsed):
    """teacher (10 s), student on it (7 s) and alone (7 s): alone may run beside either, the student only after the teacher."""
    from types import SimpleNamespace

    from kdrun.job.plan import _estimate
    from kdrun.lab.stages.base import Result

    def planned(name, before=()):
        return SimpleNamespace(result=SimpleNamespace(fingerprint=name, stage=list(before)))

    teacher = Result("teacher", None, {}, None)
    stages = [planned("teacher"), planned("student", [teacher]), planned("alone")]
    seconds = [{"status": "new", "estimate": {"seconds": value}} for value in (10.0, 7.0, 7.0)]
    found = _estimate(stages, seconds, at_once)
    assert (found["stages"], found["seconds"], found["elapsed"]) == (3, 24.0, elapsed)
    seconds[0]["status"] = "done"
    assert _estimate(stages, seconds, 2)["elapsed"] == 7.0
