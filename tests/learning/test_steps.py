"""What happens in a training step: clipping under a loss scale, micro-batches, frozen statistics, the first look at terms."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning.firststep import NoEffect, check_first_step
from kdrun.learning.learner import LearnerModule
from kdrun.learning.microbatches import micro_batch_sizes, micro_batches
from kdrun.learning.trainer import make_trainer
from kdrun.networks.modes import hold_frozen
from kdrun.networks.parts import select_parts
from kdrun.objectives.terms import build_objective
from kdrun.strategies.cast import Cast, supervised

from .stages import cell, make_lab

CE = {"ce": {"weight": 1.0}}
HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def module():
    config = cell()
    return load_data(config["data"], config["paths"])


def linear(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        network[1].weight.mul_(scale)
    return network


def fused(parameters, lr):
    """Divides gradients by the loss scale itself, in its step."""
    return torch.optim.SGD(parameters, lr, fused=True)


def one_step(
    module, clip, precision, optimizer=torch.optim.SGD, accumulate=1, objective=CE, scale=1.0, allowed=(), **options
):
    """(how far the step went, the learner) on CPU; fp16 with a scaler of its own, as on a GPU."""
    student = linear(scale)
    before = [parameter.detach().clone() for parameter in student.parameters()]
    learner = LearnerModule(
        student, Classification(module.spec), build_objective(objective, allowed), clip=clip, accumulate=accumulate,
        optimizer=lambda parameters: optimizer(parameters, lr=1.0), **options,
    )  # fmt: skip
    trainer = make_trainer({**HARDWARE, "precision": "fp32" if precision == "fp16" else precision}, [], max_epochs=1)
    if precision == "fp16":
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    trainer.fit_loop.epoch_loop.max_steps = 1
    trainer.limit_train_batches, trainer.limit_val_batches = 1, 0
    trainer.fit(learner, module.train_loader(60, 0))
    moved = [parameter.detach() - old for parameter, old in zip(student.parameters(), before, strict=True)]
    return torch.cat([one.flatten() for one in moved]).double().norm().item(), learner


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, fused])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [0.3, 1e6, None])
def test_gradients_are_clipped_without_the_loss_scale_of_fp16(module, clip, accumulate, optimizer):
    plain, _ = one_step(module, clip, "fp32", accumulate=accumulate)
    scaled, learner = one_step(module, clip, "fp16", optimizer, accumulate)
    assert (
        learner.first_step["ce"]["gradient"] == pytest.approx(one_step(module, None, "fp32")[0], rel=1e-2)
        or accumulate > 1
    )
    assert scaled == pytest.approx(plain, rel=1e-2)  # fp16 has three digits
    if clip == 0.3:
        assert plain == pytest.approx(0.3, rel=1e-3)


def test_the_first_step_sees_gradients_that_fp16_needs_the_loss_scale_for(module, tmp_path, monkeypatch):
    """A gradient of 1e-8 is 0 in half precision, and not with a loss multiplied by 65536."""
    (tmp_path / "faint.py").write_text(
        "def faint(student_logits):\n    return student_logits.square().sum(-1) * 1e-6\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    objective = {"faint": {"_target_": "faint.faint"}, **CE}
    _, learner = one_step(module, None, "fp16", objective=objective, allowed=["faint"])
    _, exact = one_step(module, None, "fp32", objective=objective, allowed=["faint"])
    for name in ("faint", "ce"):
        assert learner.first_step[name]["gradient"] == pytest.approx(exact.first_step[name]["gradient"], rel=0.05)


def test_backward_passes_are_outside_of_autocast(module, tmp_path, monkeypatch):
    (tmp_path / "watching.py").write_text(
        "import torch\n\n\nSEEN = []\n\n\nclass Watch(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        SEEN.append(torch.is_autocast_enabled('cpu'))\n"
        "        return x.clone()\n\n"
        "    @staticmethod\n    def backward(ctx, x):\n        SEEN.append(torch.is_autocast_enabled('cpu'))\n"
        "        return x\n\n\ndef watch(student_logits):\n    return Watch.apply(student_logits).square().sum(-1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    one_step(module, None, "bf16", objective={"watch": {"_target_": "watching.watch"}}, allowed=["watching"])
    import watching

    assert watching.SEEN == [False] * 3  # forward, first look, backward


# micro-batches


@pytest.mark.parametrize("smallest", [1, 2])
def test_micro_batches_are_those_of_chunk_unless_one_would_be_too_small(smallest):
    for count in range(1, 40):
        for parts in range(1, 12):
            found = micro_batch_sizes(count, parts, smallest)
            usual = [len(piece) for piece in torch.zeros(count).chunk(parts)]
            assert sum(found) == count and len(found) <= parts
            assert min(found) >= min(smallest, count)
            if min(usual) >= smallest:
                assert found == usual


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (5, 3), (5, 4), (6, 6), (3, 2)])
def test_batch_normalisation_never_gets_a_single_sample(module, batch_size, accumulate):
    """301 samples in batches of 4: the last batch has five, of which three parts would leave one sample."""
    seen = []

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(64), nn.Linear(64, 10)

        def forward(self, inputs):
            if self.training:
                seen.append(len(inputs))
            return self.out(self.norm(inputs.flatten(1)))

    learner = LearnerModule(
        Normed(), Classification(module.spec), build_objective(CE), accumulate=accumulate,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )  # fmt: skip
    trainer = make_trainer(HARDWARE, [], max_epochs=1)
    loader = module.train_loader(batch_size, 0)
    trainer.fit(learner, loader, module.eval_loader("val", 256))
    assert min(seen) >= 2 and sum(seen) == len(loader.samples)


def test_a_network_without_batch_normalisation_keeps_the_micro_batches_that_were_asked_for(module):
    batch = next(iter(module.train_loader(5, 0)))
    assert [len(chunk["targets"]) for chunk in micro_batches(batch, 3)] == [2, 2, 1]
    assert [len(chunk["inputs"]) for chunk in micro_batches(batch, 3, smallest=2)] == [2, 3]


@pytest.mark.parametrize("rows", [4, 5, 9, 23])
def test_parts_that_all_ranks_agree_on_hold_everything_once(rows):
    batch = {"ids": torch.arange(rows), "inputs": {"x": torch.arange(rows)[:, None]}, "size": 7, "sizes": {"mask": 3}}
    for agreed in range(1, 5):
        found = micro_batches(batch, 4, agreed=lambda number, most=agreed: min(number, most))
        assert len(found) <= agreed and all(part["size"] == 7 and part["sizes"] == {"mask": 3} for part in found)
        for parts in ([part["ids"] for part in found], [part["inputs"]["x"][:, 0] for part in found]):
            assert torch.equal(torch.cat(parts), batch["ids"])
            assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_a_job_of_a_network_with_batch_normalisation_in_micro_batches(tmp_path):
    cast = Cast(cell("student=resnet8_w2", "trainer.batch_size=4", "trainer.accumulate=3", "trainer.epochs=1",
                     "data.limit.train=25"))  # fmt: skip
    record = make_lab(tmp_path).get(supervised(cast.student)).record
    assert record["cost"]["steps"] == 6


# frozen parts


def buffers(path) -> dict:
    return {name: tensor for name, tensor in load_file(path).items() if "running" in name or "batches" in name}


@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_frozen_parts_keep_their_statistics_and_trained_ones_do_not(tmp_path, ema):
    cast = Cast(cell("student=resnet8_w2", "trainer.epochs=2", f"trainer.ema={ema}"))
    lab = make_lab(tmp_path)
    start = lab.get(supervised(cast.student, epochs=1))
    before = load_file(start.weights("best"))
    head = lab.get(supervised(cast.student, start=start, parts=["head"]))
    after = load_file(head.weights("last"))
    assert all(torch.equal(before[name], after[name]) == (not name.startswith("head")) for name in before)
    stage = load_file(lab.get(supervised(cast.student, start=start, parts=["head", "stage3"])).weights("last"))
    moved = {name for name in before if not torch.equal(before[name], stage[name])}
    assert {name.partition(".")[0] for name in moved} == {"head", "stage3"}
    assert any("running_var" in name for name in moved)


class Mixed(nn.Module):
    """Every kind of running statistics, in a part that may be frozen, with and without parameters."""

    def __init__(self):
        super().__init__()
        norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.SyncBatchNorm(4),
                 nn.InstanceNorm2d(4, track_running_stats=True), nn.InstanceNorm2d(4, True, True)]  # fmt: skip
        self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), norm) for norm in norms)
        self.flat = nn.BatchNorm1d(4, affine=False)
        self.dropout = nn.Dropout(0.5)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)


def test_all_kinds_of_running_statistics_are_held_and_nothing_else():
    network = Mixed()
    select_parts(network, ["head"])
    for _ in range(2):
        hold_frozen(network.train())
        off = {name for name, part in network.named_modules() if not part.training}
        assert {name for name in off if not name.startswith("spectral")} == {f"body.{i}.1" for i in range(5)} | {"flat"}
        assert "spectral.parametrizations.weight.0" in off
    network = Mixed()
    select_parts(network, ["head", "body"])
    hold_frozen(network.train())
    assert [name for name, part in network.named_modules() if not part.training and "spectral" not in name] == ["flat"]
    network = Mixed()
    hold_frozen(network.train())
    assert all(part.training for part in network.modules())


def test_a_network_that_froze_itself_keeps_its_statistics_too(module):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8, affine=False)).requires_grad_(False)
            self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, 10)

        def forward(self, inputs):
            modes.append((self.training, self.tower[1].training, self.dropout.training))
            return self.head(self.dropout(self.tower(inputs.flatten(1))))

    modes = []
    learner = LearnerModule(
        Frozen(), Classification(module.spec), build_objective(CE),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in learner.student.tower.state_dict().items()}
    learner.train()
    make_trainer(HARDWARE, [], max_epochs=2).fit(learner, module.train_loader(64, 0), module.eval_loader("val", 256))
    assert (True, False, True) in modes and not any(norm for _, norm, _ in modes)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.student.tower.state_dict().items())


# the first look at every term


def looked(function, student, adaptor=None, objective=None, **options):
    """check_first_step of one term on random inputs. function(logits, features) -> scalar."""
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    objective = objective or build_objective(CE)
    (term,) = objective.active
    return check_first_step(
        objective,
        {term.name: function(inputs)},
        student,
        beside={} if adaptor is None else {"adaptor": adaptor},
        **options,
    )


def test_a_value_of_zero_with_a_gradient_is_a_term_like_any_other():
    student = nn.Linear(4, 3)

    def centred(inputs):  # as of a policy whose advantages have the mean 0
        values = student(inputs).sum()
        return values - values.detach()

    found = looked(centred, student)["ce"]
    assert found["value"] == 0.0 and found["gradient"] > 0


def test_a_term_that_reaches_nothing_is_told_with_what_was_measured():
    student, adaptor = nn.Linear(4, 3), nn.Linear(3, 5)
    with pytest.raises(
        NoEffect, match=r"the ce term is 0 on the first batch, and its gradient .* norm 0: it would do nothing"
    ) as told:
        looked(lambda inputs: 0.0 * student(inputs).sum(), student)
    assert "identical" not in str(told.value)
    with pytest.raises(NoEffect, match=r"the ce term is 2\.5 .* norm 0: it would do nothing"):
        looked(lambda inputs: 2.5 + 0.0 * student(inputs).sum(), student)
    with pytest.raises(NoEffect, match="is 2 and does not depend on any trainable parameter"):
        looked(lambda inputs: torch.tensor(2.0), student)
    with pytest.raises(NoEffect, match=r"norm 0, that of the adaptor alone [0-9.]+: it would do nothing"):
        looked(lambda inputs: adaptor(student(inputs).detach()).square().sum(), student, adaptor)
    with pytest.raises(NoEffect, match=r"norm nan.*: it would end the run"):
        looked(lambda inputs: (student(inputs) - student(inputs)).square().sum().sqrt(), student)


def test_a_term_that_may_be_zero_at_first_is_looked_at_again():
    """Steps of a spiking network whose last neurons are silent; one step has nothing to say at any time."""
    student, steps = nn.Linear(4, 3), build_objective({"sta": {"weight": 1.0}})
    assert looked(lambda inputs: 0.0 * student(inputs).sum(), student, objective=steps) == {}
    with pytest.raises(NoEffect, match="is 0 and does not depend on any"):
        looked(lambda inputs: torch.tensor(0.0), student, objective=steps)


@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**120])
def test_the_scale_of_the_loss_changes_no_measured_gradient(scale):
    student = nn.Linear(4, 3)
    expected = looked(lambda inputs: student(inputs).square().sum(), student)["ce"]
    assert looked(lambda inputs: student(inputs).square().sum(), student, scale=scale)["ce"] == pytest.approx(expected)
