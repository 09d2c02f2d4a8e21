"""Which networks of a run are exported, and with which data: real tiny runs."""

import numpy as np
import pytest
import torch

import kdrun
from kdrun.files import read_json, write_json
from kdrun.hardware.exports.export import export
from kdrun.hardware.exports.subjects import subjects
from kdrun.problems import UserError
from kdrun.tracking.registry import find_run

QUIET = ("hardware=cpu", "tracker=none", "card=false", "trainer.batch_size=64")
MLPS = ("teacher=mlp_16", "student=mlp_8", "model=mlp_ladder")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("subjects") / "outputs"


@pytest.fixture(scope="module")
def vanilla(outputs):
    view = kdrun.run("strategy=vanilla", *MLPS, "seeds=2", "trainer.epochs=3", *QUIET, f"paths.outputs={outputs}")
    return find_run(outputs, view.id)


@pytest.fixture(scope="module")
def views(outputs):
    words = ("strategy=cross_window", "objective=cross_window", "strategy.views=[grey,edges]", "data.task=diagnosis")
    words += (*MLPS, "data.limit.train=300", "trainer.epochs=3", "seed=0")
    view = kdrun.run(*words, *QUIET, f"paths.outputs={outputs}")
    return find_run(outputs, view.id)


@pytest.fixture(scope="module")
def clients(outputs):
    words = ("strategy=energy_gated", *MLPS, "strategy.clients=3", "strategy.rounds=1", "strategy.shift=0.5", "seed=0")
    view = kdrun.run(*words, *QUIET, f"paths.outputs={outputs}")
    return find_run(outputs, view.id)


def accuracy(subject, split="test"):
    right, seen = 0, 0
    for inputs, batch in subject.batches(split):
        with torch.no_grad():
            right += int((subject.bare()(*inputs).argmax(1) == batch["targets"]).sum())
        seen += len(batch["targets"])
    return right / seen


def recorded(run, label):
    (stage,) = [stage for stage in run.record["stages"] if stage["label"] == label]
    return stage


def test_teacher_alone_and_student_of_the_first_seed(vanilla):
    found = subjects(vanilla)
    assert [(one.arm, one.seed) for one in found] == [("teacher", 0), ("alone", 0), ("student", 0)]
    assert {one.spec.unit for one in found} == {"image"} and {one.spec.input_names for one in found} == {("images",)}
    for one in found:
        assert not one.network.training and not any(weight.requires_grad for weight in one.network.parameters())
        assert accuracy(one) == pytest.approx(
            recorded(vanilla, one.source["stage"])["test"]["best"]["accuracy"], abs=1e-6
        )
    assert found[0].source["run"] == vanilla.id and found[0].source["job_hash"] == vanilla.record["job_hash"]


def test_other_seeds_arms_and_epochs(vanilla):
    found = subjects(vanilla, seeds=[0, 1], arms=["student", "teacher"])
    assert [(one.arm, one.seed) for one in found] == [("student", 0), ("student", 1), ("teacher", 0)], (
        "one teacher for both"
    )
    (last,) = subjects(vanilla, arms=["student"], which="last")
    assert last.weights.name == "last.safetensors"
    assert accuracy(last) == pytest.approx(recorded(vanilla, "student/seed=0")["test"]["last"]["accuracy"], abs=1e-6)


def test_what_there_is_not_is_told(vanilla):
    for options, said in (
        ({"arms": ["studnet"]}, "closest: student"),
        ({"arms": ["student"], "seeds": [7]}, "no seed 7; it has: 0, 1"),
        ({"which": "worst"}, "best or last"),
    ):
        with pytest.raises(UserError) as told:
            subjects(vanilla, **options)
        assert said in "\n".join(told.value.lines)


def test_damaged_weights_are_not_exported(vanilla, tmp_path):
    import shutil

    copied = tmp_path / "outputs"
    shutil.copytree(vanilla.dir.parent.parent, copied)
    run = find_run(copied, vanilla.id)
    (subject,) = subjects(run, arms=["student"])
    assert copied in subject.weights.parents, "the store beside the run is read, wherever it was moved"
    content = bytearray(subject.weights.read_bytes())
    content[-1] ^= 1
    subject.weights.write_bytes(content)
    with pytest.raises(UserError, match=r"wrong content in last\.safetensors"):
        subjects(run, arms=["student"])


def test_a_run_without_a_finished_stage_is_told(vanilla, tmp_path):
    folder = tmp_path / "outputs" / "runs" / vanilla.dir.name
    folder.mkdir(parents=True)
    record = read_json(vanilla.dir / "record.json")
    write_json(folder / "record.json", {**record, "stages": []})
    with pytest.raises(UserError, match="no finished stage yet"):
        subjects(find_run(tmp_path / "outputs", vanilla.id))


def test_every_view_is_a_network_with_its_own_inputs(views):
    told = []
    found = subjects(views, arms=["student"], tell=told.append)
    assert [one.label for one in found] == ["student grey", "student edges"], "in the order of training"
    assert told == ["student/seed=0 is 2 networks together, without weights of its own: each is taken by itself"]
    grey, edges = found
    assert not np.array_equal(grey.inputs("val", 4)[0].numpy(), edges.inputs("val", 4)[0].numpy())
    for one in found:
        assert accuracy(one) == pytest.approx(
            recorded(views, one.source["stage"])["test"]["best"]["accuracy"], abs=1e-6
        )


def test_every_client_has_its_network_and_its_own_samples(clients, tmp_path):
    told = []
    found = subjects(clients, arms=["student"], tell=told.append)
    assert [one.label for one in found] == ["student client 0", "student client 1", "student client 2"]
    assert told == ["student/seed=0: what travels between its parts is not its result, and is left out"]
    results = recorded(clients, "student/seed=0")["clients"]
    for one, client in zip(found, results, strict=True):
        assert len(one.module.samples("test")) == client["samples"]["test"]
        assert accuracy(one) == pytest.approx(client["test"]["best"]["accuracy"], abs=1e-6)
    assert export(found[0], tmp_path, "safetensors").max_difference == 0


def test_samples_are_spread_over_the_split(vanilla):
    (student,) = subjects(vanilla, arms=["student"])
    places = student.positions("val", 5)
    size = len(student.module.samples("val"))
    assert places[0] == 0 and places[-1] == size - 1 and len(places) == 5
    assert student.positions("val", 10**6).tolist() == list(range(size))
