"""What most distillation code gets wrong somewhere, each once: teacher state, optimizer, checkpoint, no-op terms, scale."""

import pytest
import torch
from torch import nn

from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning.diverged import growth
from kdrun.learning.firststep import NoEffect, check_first_step
from kdrun.learning.learner import LearnerModule
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.report import Interrupted
from kdrun.learning.teacher import FrozenTeacher, renormalisation, state_digest
from kdrun.learning.teaching import UnfitTeacher
from kdrun.learning.trainer import make_trainer
from kdrun.objectives.terms import build_objective
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab, teach

HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}
KD = {"ce": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 2.0}}


@pytest.fixture(scope="module")
def module():
    config = cell()
    return load_data(config["data"], config["paths"])


def network(width: int = 16) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10)
    )


class Watched(LearnerModule):
    """Notes the modes of student and teacher at every training step."""

    def training_step(self, batch, batch_idx):
        self.modes.append((self.student.training, [m.training for m in self.teacher.network.modules()]))
        return super().training_step(batch, batch_idx)


def fit(module, learner, epochs=2):
    trainer = make_trainer(HARDWARE, callbacks=[], max_epochs=epochs)
    trainer.fit(learner, module.train_loader(64, 0), module.eval_loader("val", 256))
    return trainer


def make(module, teacher=None, objective=KD, kind=LearnerModule, **options):
    task = Classification(module.spec)
    frozen = FrozenTeacher(teacher, task, "t") if teacher is not None else None
    learner = kind(
        network(8), task, build_objective(objective),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1), teacher=frozen, **options,
    )  # fmt: skip
    learner.modes = []
    return learner


def test_teacher_stays_in_eval_and_bit_identical_and_the_student_trains_in_train_mode(module):
    teacher = network()
    before = state_digest(teacher.state_dict())
    learner = make(module, teacher, kind=Watched)
    learner.train()
    teacher.train()  # somebody calls it after it was frozen
    teacher[2].train(True)
    fit(module, learner, epochs=3)
    assert len(learner.modes) == 3 * len(module.train_loader(64, 0))
    assert all(student and not any(modes) for student, modes in learner.modes)
    assert state_digest(teacher.state_dict()) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())
    learner.teacher.close()


def test_a_teacher_that_was_changed_is_noticed(module):
    learner = make(module, network())
    learner.teacher.network[1].weight.data += 1
    with pytest.raises(RuntimeError, match="changed while it taught"):
        learner.teacher.close()


def test_teacher_outputs_repeat_and_need_no_gradient(module):
    learner = make(module, network())
    batch = next(iter(module.train_loader(64, 0)))
    one, two = learner.teacher.outputs(batch).logits, learner.teacher.outputs(batch).logits
    assert torch.equal(one, two) and not one.requires_grad


def test_optimizer_checkpoint_and_parameters_hold_the_student_only(module):
    learner = make(module, network(64), ema=0.9)
    trainer = fit(module, learner)
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in learner.student.parameters()}
    assert {id(p) for p in learner.parameters()} == optimised
    assert all(name.startswith("student.") for name in learner.state_dict())


def test_the_checkpoint_is_plain_and_small(tmp_path):
    lab = make_lab(tmp_path)
    cast = Cast(cell())
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path, Silent(7)).get(stage)
    (path,) = tmp_path.glob("unfinished/*/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert set(name.partition(".")[0] for name in state["state_dict"]) == {"student"}
    assert "hyper_parameters" not in state


def test_a_teacher_without_weight_is_never_asked(module):
    teacher = network()
    teacher.forward = None
    learner = make(module, teacher, objective={"ce": {"weight": 1.0}, "kd": {"weight": 0.0}})
    assert learner.teacher is None
    fit(module, learner, epochs=1)


@pytest.mark.parametrize("parts", [2, 3, 64])
def test_accumulation_changes_nothing(module, parts):
    def gradients(accumulate):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        objective, task = build_objective(KD), Classification(module.spec)
        batch = next(iter(module.train_loader(43, 0)))
        teacher = FrozenTeacher(network(), task, "t")
        for chunk in micro_batches(batch, accumulate):
            tensors = task.tensors(chunk, task.predict(student, chunk["inputs"]), teacher.outputs(chunk))
            objective(tensors, batch["size"])[0].backward()
        return student[1].weight.grad

    assert torch.allclose(gradients(1), gradients(parts), atol=1e-6)


def step(student, teacher_logits, objective=KD, batch=None, task=None):
    built = build_objective(objective)
    prediction = task.predict(student, batch["inputs"])
    tensors = {"student_logits": prediction.logits, "teacher_logits": teacher_logits, "targets": batch["targets"]}
    return check_first_step(built, built(tensors, batch["size"])[1], student)


def test_the_first_step_finds_what_does_nothing(module):
    task, batch = Classification(module.spec), next(iter(module.train_loader(64, 0)))
    student = network(8).eval()
    found = step(student, torch.randn(64, 10), batch=batch, task=task)
    assert found["kd"]["gradient"] > 0 and found["ce"]["value"] > 0
    with pytest.raises(NoEffect, match=r"the kd term is 0 .* norm 0: it would do nothing"):
        step(student, student(batch["inputs"]).detach(), batch=batch, task=task)
    with pytest.raises(NoEffect, match="nan"):
        step(student, torch.full((64, 10), float("nan")), batch=batch, task=task)
    student[1].unused = nn.Parameter(torch.zeros(3))
    with pytest.raises(NoEffect, match=r"1\.unused"):
        step(student, torch.randn(64, 10), batch=batch, task=task)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(NoEffect, match="no trainable"):
        step(student, torch.randn(64, 10), batch=batch, task=task)


def test_a_bad_teacher_does_not_teach(tmp_path):
    with pytest.raises(UnfitTeacher, match=r"0\.99"):
        teach(make_lab(tmp_path), "teacher.accuracy=0.99", "teacher.tolerance=0.001")


@pytest.mark.parametrize("source", ["cached", "online"])
def test_cached_and_online_teachers_agree(tmp_path, source):
    record = teach(make_lab(tmp_path), f"teacher.source={source}").record
    other = teach(make_lab(tmp_path / "b"), "teacher.source=online").record
    assert record["test"]["last"]["accuracy"] == pytest.approx(other["test"]["last"]["accuracy"], abs=0.02)
    assert record["teacher"]["source"] == source


def test_a_cache_for_random_augmentation_is_refused_and_replay_is_allowed(tmp_path):
    from kdrun.problems import UserError

    with pytest.raises(UserError, match=r"data\.augment\.seed"):
        teach(make_lab(tmp_path), "teacher.source=cached", "data.augment.crop=1")
    record = teach(make_lab(tmp_path), "teacher.source=cached", "data.augment.crop=1", "data.augment.seed=0",
                   "data.augment.views=2").record  # fmt: skip
    assert record["teacher"]["source"] == "cached"
    assert record["teacher"]["largest_error"] < 1e-3


def test_renormalisation_gives_the_teacher_its_own_inputs():
    raw = torch.rand(4, 2, 3, 3)
    own, other = ([0.1, 0.2], [0.5, 0.6]), ([0.3, 0.4], [0.7, 0.8])

    def normalised(mean, std):
        return (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    found = renormalisation(own, {"mean": other[0], "std": other[1]})
    turned = normalised(*own) * found["scale"][:, None, None] + found["shift"][:, None, None]
    assert torch.allclose(turned, normalised(*other), atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    with pytest.raises(FloatingPointError, match="became"):
        teach(make_lab(tmp_path), "trainer.optimizer.lr=1e30")


def test_what_grew_before_a_loss_was_not_finite_is_named():
    values = torch.tensor([[1.0, 2.0], [1.5, 40.0], [3.0, 1e9], [torch.nan, torch.nan]])
    assert "hint times its weight grew from 2 at step 7 to 1e+09 at step 9" in growth(["ce", "hint"], values, 10)
    fell = torch.tensor([[-316.0], [101.0], [torch.inf]])
    assert "ce times its weight changed from -316 at step 8 to 101 at step 9" in growth(["ce"], fell, 10)
    assert "ce times its weight was 3 at step 9" in growth(["ce"], values[2:, :1], 10)
    assert growth(["ce"], values[3:, :1], 10) == growth(["ce"], values[:3, :1], 10) == ""


@pytest.mark.slow
def test_two_processes_evaluate_like_one_and_end_equal(tmp_path):
    """Gloo on two CPU processes; the network has no batch normalisation, so one process computes the same sums."""
    overrides = ("student=mlp_64", "strategy=alone")
    one = make_lab(tmp_path / "one").get(supervised(Cast(cell(*overrides)).student))
    two = make_lab(tmp_path / "two").get(supervised(Cast(cell(*overrides, "hardware.devices=2")).student))
    assert two.record["test"]["last"]["accuracy"] == pytest.approx(one.record["test"]["last"]["accuracy"], abs=0.01)
    assert two.record["test"]["last"]["loss"] == pytest.approx(one.record["test"]["last"]["loss"], abs=1e-2)
    assert two.record["cost"]["steps"] == one.record["cost"]["steps"]


def test_channels_last_is_a_layout_not_another_result(tmp_path):
    """Not in the fingerprint, so it has to give the same network up to rounding, in the usual layout on disk."""
    from safetensors.torch import load_file

    overrides = ("student=resnet8_w2", "trainer.epochs=1", "data.limit.train=128")
    plain = make_lab(tmp_path / "a").get(supervised(Cast(cell(*overrides)).student))
    other = make_lab(tmp_path / "b").get(supervised(Cast(cell(*overrides, "hardware.channels_last=true")).student))
    assert other.fingerprint == plain.fingerprint
    one, two = load_file(plain.weights("last")), load_file(other.weights("last"))
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)
