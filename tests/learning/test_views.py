"""A teacher that sees the samples otherwise than its student; features, adaptors, and single logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.lab.fingerprint import fingerprint
from kdrun.learning import assembly, seeds
from kdrun.learning.firststep import NoEffect
from kdrun.learning.report import Interrupted
from kdrun.learning.resampling import read_samples
from kdrun.learning.teaching import UnfitTeacher
from kdrun.networks.build import build_network, seeded
from kdrun.networks.capture import captured, classifier
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab

CT = (
    "data=ct_synthetic",
    "data.window=lung",
    "data.signal=bone",
    "data.strength=8",
    "data.train=40",
    "data.val=20",
    "data.test=20",
    "data.depth=8",
    "data.size=16",
    "objective=cross_window",
    "objective.kd.weight=0",
    "trainer.batch_size=8",
    "trainer.optimizer.lr=0.02",
    "teacher.tolerance=1",
)
SIZES = {"train": 10, "val": 2, "test": 2}
BONE = {"window": "bone"}


def before(lab, *overrides, data=None):
    """The cell's cast and its student's network trained on the bone window."""
    cast = Cast(cell(*CT, *overrides))
    return cast, lab.get(supervised(cast.student, data=data or BONE, epochs=3))


def weights(trained):
    return load_file(trained.weights("last"))


def same(one, other):
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_the_teacher_sees_its_own_view_of_the_same_samples(tmp_path):
    """Values of the first step against both networks run by hand on both windows."""
    lab = make_lab(tmp_path)
    cast, teacher = before(lab)
    student = lab.get(distil(cast.student, teacher, sees=BONE, epochs=1))
    found = student.record["first_step"]
    module = lab.workshop.data(cast.config["data"])
    seen = lab.workshop.seen({**cast.config["data"], **BONE}, module)
    loader = module.train_loader(8, seeds.derive(0, "data"))
    loader.set_epoch(0)
    batch = next(iter(loader))
    networks = [
        build_network(cast.student.identity["network"], one.spec, seeds.derive(0, "weights")) for one in (module, seen)
    ]
    networks[1].load_state_dict(load_file(teacher.weights()))
    hidden = [
        functional.relu(network[1](inputs.flatten(1)))
        for network, inputs in zip(networks, (batch["inputs"], seen.inputs(batch["ids"])), strict=True)
    ]
    assert found["feature"]["value"] == pytest.approx(float((hidden[0] - hidden[1]).square().mean()), rel=1e-5)
    assert not torch.equal(batch["inputs"], seen.inputs(batch["ids"]))


def test_cached_features_are_those_of_the_live_teacher_and_shared_between_views(tmp_path):
    lab = make_lab(tmp_path)
    cast, teacher = before(lab)
    settings = cast.config["teacher"]
    cached, online = (
        lab.get(distil(cast.student, teacher, sees=BONE, teaching={**settings, "source": source}))
        for source in ("cached", "online")
    )
    for name, tensor in weights(cached).items():
        torch.testing.assert_close(weights(online)[name], tensor, rtol=1e-4, atol=1e-6)
    assert cached.record["teacher"]["features"] == 8 and cached.record["teacher"]["verified"] == 16
    assert len(list((tmp_path / "outputs").iterdir())) == 1
    other = lab.get(distil(cast.student, teacher, sees=BONE, data={"window": "mediastinal"}))
    assert other.record["teacher"]["found"] is True and len(list((tmp_path / "outputs").iterdir())) == 1
    (folder,) = (tmp_path / "outputs").iterdir()
    assert np.load(folder / "logits.npy").shape == (1, 40, 2 + 8)


def test_what_a_teacher_sees_is_in_the_fingerprint(tmp_path):
    lab = make_lab(tmp_path)
    cast, teacher = before(lab)
    stages = [distil(cast.student, teacher, epochs=1, sees=sees) for sees in ({}, BONE, {"window": "mediastinal"})]
    assert len({fingerprint(stage.settled(lab.workshop).parts(lab.context)) for stage in stages}) == 3
    with pytest.raises(UserError, match="trained on inputs with mean"):  # of bone windows, in a lung window
        lab.get(stages[0])


def test_an_adaptor_trains_along_is_resumed_and_is_no_part_of_the_student(tmp_path):
    labs = [make_lab(tmp_path / "a"), make_lab(tmp_path / "b", Silent(stop_at=10))]
    results = []
    for lab in labs:
        cast = Cast(cell(*CT, "trainer.checkpoint_seconds=0", "trainer.optimizer.momentum=0.9"))
        teacher = make_lab(lab.store.root).get(supervised(cast.teacher, data=BONE, epochs=2))  # 64 wide, the student 8
        stage = distil(cast.student, teacher, sees=BONE)
        if lab.report.stop_at:
            with pytest.raises(Interrupted):
                lab.get(stage)
            (checkpoint,) = (lab.store.root / "unfinished").glob("*/checkpoint.pt")
            saved = torch.load(checkpoint, weights_only=True)
            assert saved["state_dict"]["adaptor.features.weight"].shape == (64, 8)
            lab = make_lab(lab.store.root)
        results.append(lab.get(stage))
    same(*results)
    assert results[1].record["cost"]["tries"] == 2
    assert not any("adaptor" in name for name in weights(results[0]))
    assert results[0].record["parameters"] == sum(tensor.numel() for tensor in weights(results[0]).values())


def test_an_adaptor_moves(tmp_path, monkeypatch):
    made, plain = [], assembly._wired
    monkeypatch.setattr(assembly, "_wired", lambda *arguments: made.append(plain(*arguments)) or made[-1])
    lab = make_lab(tmp_path)
    cast = Cast(cell(*CT))
    teacher = lab.get(supervised(cast.teacher, data=BONE, epochs=2))
    lab.get(distil(cast.student, teacher, sees=BONE, epochs=1))
    (adaptor,) = [adaptors.features for _, adaptors in made if adaptors is not None]
    with seeded(seeds.derive(0, "adaptor")):
        fresh = nn.Linear(8, 64)
    assert adaptor.weight.shape == (64, 8) and not torch.equal(adaptor.weight, fresh.weight)


def test_a_student_that_starts_as_its_teacher_is_looked_at_once_they_differ(tmp_path):
    lab = make_lab(tmp_path)
    cast, own = before(lab, data={"window": "lung"})
    with pytest.raises(UnfitTeacher, match="no better than a guess"):  # lung windows show nothing here
        lab.get(distil(cast.student, own, start=own, epochs=1))
    settings = {**cast.config["teacher"], "unchecked": True}
    trained = make_lab(tmp_path).get(distil(cast.student, own, start=own, epochs=1, teaching=settings))
    assert trained.record["first_step"]["feature"]["value"] > 0


def test_features_that_nothing_compares_with_stop_the_run(tmp_path):
    """Not the same stage, but the same weights, and both networks given the same batches: the term is 0 and stays an error."""
    lab = make_lab(tmp_path)
    cast, own = before(lab, data={"window": "lung"})
    again = lab.get(supervised(cast.student, start=own, data={"window": "lung"}, epochs=1, optimizer={"lr": 1e-30}))
    with pytest.raises(NoEffect, match="feature"):
        lab.get(
            distil(
                cast.student,
                own,
                start=again,
                epochs=1,
                teaching={**cast.config["teacher"], "source": "online", "unchecked": True},
            )
        )


def test_random_crops_of_two_views_are_refused(tmp_path):
    lab = make_lab(tmp_path)
    cast, teacher = before(lab)
    stage = distil(cast.student, teacher, sees=BONE, data={"augment": {"flip": True}})
    with pytest.raises(UserError, match=r"data.window=bone.*would differ"):
        stage.settled(lab.workshop)


def test_samples_that_are_not_the_same_are_refused(tmp_path):
    lab = make_lab(tmp_path)
    cast, teacher = before(lab)
    with pytest.raises(UserError, match="are not the samples of the student"):
        lab.get(distil(cast.student, teacher, sees={"window": "bone", "seed": 5}))


def test_rows_of_validation_and_test_are_kept(tmp_path):
    lab = make_lab(tmp_path)
    _, trained = before(lab)
    rows = {split: read_samples(trained.path, split) for split in ("val", "test")}
    assert [len(rows[split]) for split in ("val", "test")] == [20, 20]
    assert not {row["id"] for row in rows["val"]} & {row["id"] for row in rows["test"]}
    assert all(sum(row["probabilities"]) == pytest.approx(1) for row in rows["val"] + rows["test"])
    assert {"auc", "sensitivity", "specificity", "threshold"} <= set(trained.record["test"]["best"])


def spec(classes=2):
    return DataSpec("x", tuple("abcdef"[:classes]), (1, 4, 4), SIZES, (0.0,), (1.0,))


def test_one_logit_for_two_classes_is_the_binary_cross_entropy():
    network, task = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), Classification(spec())
    inputs, targets = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 1, 0, 1])
    logits = task.predict(network, inputs).logits
    binary = functional.binary_cross_entropy_with_logits(network(inputs)[:, 0], targets.float(), reduction="none")
    torch.testing.assert_close(functional.cross_entropy(logits, targets, reduction="none"), binary)
    torch.testing.assert_close(logits.softmax(1)[:, 1], network(inputs)[:, 0].sigmoid())
    with pytest.raises(ValueError, match="has 3 classes"):
        Classification(spec(3)).predict(network, inputs)


def test_features_are_what_the_last_linear_layer_reads_and_hooks_go():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2))
    task = Classification(spec())
    assert classifier(network) is network[3] and task.feature_width(network.train()) == 5
    assert network.training
    task.prepare(frozenset({"student_features"}))
    inputs = torch.randn(3, 1, 4, 4)
    found = task.predict(network, inputs).features["features"]
    assert torch.equal(found, network[:3](inputs)) and found.requires_grad
    assert not network[3]._forward_pre_hooks
    with pytest.raises(RuntimeError), captured(network):
        network(torch.randn(3, 7))
    assert not network[3]._forward_pre_hooks
    with pytest.raises(UserError, match="no linear layer"):
        classifier(nn.Conv2d(1, 1, 1))
