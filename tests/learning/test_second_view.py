"""Terms that look at a second view of each sample, and what losses say of a step beside their values."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdrun.data.loader import BatchLoader
from kdrun.data.samples import Samples
from kdrun.domains.images.augment import Augment
from kdrun.domains.load import load_data
from kdrun.learning.backend import Backend
from kdrun.learning.beforehand import check_builds
from kdrun.learning.step import train_step
from kdrun.objectives.ela import corrected
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised

from .shipped import NODES, assembled
from .stages import cell, make_lab, teach

HOME = "kdrun.data.image_transforms"
CUTOUT = {"cutout": {"_target_": f"{HOME}.cutout", "length": 4}}
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), np.uint8)
STRONG = "data.augment.strong={cutout: {length: 3}}"


def samples(augment, count=24):
    raw, rows, ids = torch.from_numpy(IMAGES), torch.arange(count), torch.arange(100, 100 + count)
    return Samples(raw, rows, ids, rows % 5, (0.5,), (0.25,), augment)


def strong_by_id(loader):
    return {number: row for batch in loader for number, row in zip(batch["ids"].tolist(), batch["strong"], strict=True)}


@pytest.mark.parametrize("crop", [0, 2])
def test_the_second_view_is_a_function_of_seed_epoch_and_sample(crop):
    augment = Augment(crop, crop > 0, strong=CUTOUT, size=(8, 8))
    whole = strong_by_id(BatchLoader(samples(augment), 24, seed=3))
    small = strong_by_id(BatchLoader(samples(augment), 5, seed=3))
    assert all(torch.equal(whole[number], small[number]) for number in whole)
    later = BatchLoader(samples(augment), 24, seed=3)
    later.set_epoch(1)
    assert any(not torch.equal(whole[number], row) for number, row in strong_by_id(later).items())


def test_the_first_view_stays_and_only_the_second_is_changed():
    plain = next(iter(BatchLoader(samples(None), 24, seed=3)))
    batch = next(iter(BatchLoader(samples(Augment(strong=CUTOUT, size=(8, 8))), 24, seed=3)))
    assert torch.equal(batch["inputs"], plain["inputs"]) and "strong" not in plain
    differs = batch["strong"] != batch["inputs"]
    assert differs.any() and (batch["strong"][differs] == -2).all()  # black, normalised


def published(weak, strong, targets):
    """The sum of the published code, with its masks; weak, strong: (student, teacher) logits [n, C], float64."""

    def kd(pair, temperature):
        q, p = (logits.div(temperature).softmax(1) for logits in pair)
        return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()

    def alike(pair, temperature, batch):
        q, p = (logits.div(temperature).softmax(1) for logits in pair)
        both = [x @ x.T if batch else x.T @ x for x in (q, p)]
        return (both[0] - both[1]).square().sum() / len(both[0])

    sure = weak[1].softmax(1).amax(1)
    common = weak[1].softmax(1).sum(0)
    of_samples = (sure <= np.percentile(sure.numpy(), 50)).double()
    of_classes = (common <= np.percentile(common.numpy(), 50)).double()
    total = 0.1 * sum(functional.cross_entropy(pair[0], targets) for pair in (weak, strong))
    for temperature in (4, 3, 5, 2, 6):
        total = total + 0.9 * (kd(weak, temperature) * of_samples).mean()
        total = total + 0.9 * (alike(weak, temperature, False) * of_classes).mean()
        total = total + 0.9 * (alike(weak, temperature, True) * of_samples).mean()
    for pair, temperature in ((strong, 4), (strong, 3), (strong, 5), (weak, 2), (weak, 6)):
        total = total + 0.9 * kd(pair, temperature)
    return total


def test_mlkd_strong_is_the_sum_of_the_published_code():
    random = torch.Generator().manual_seed(0)
    views = [[3 * torch.randn(16, 10, generator=random, dtype=torch.float64) for _ in range(2)] for _ in range(2)]
    targets = torch.arange(16) % 10
    first, second = ({"student_logits": s, "teacher_logits": t, "targets": targets} for s, t in views)
    total, raw = build_objective(NODES["mlkd_strong"])({**first, "strong": second}, 16)
    torch.testing.assert_close(total.double(), published(*views, targets), rtol=1e-6, atol=0)
    assert set(raw) == set(NODES["mlkd_strong"])


def test_a_step_asks_both_networks_for_both_views():
    made = assembled("mlkd_strong")
    values, gradient = made.of([made.batch])
    objective, asked = build_objective({"kd": {"view": "strong"}}), dict(made.batch)
    with torch.no_grad():
        student, teacher = made.student(asked["strong"]), made.teacher.network(asked["strong"])
    expected, _ = build_objective({"kd": {}})({"student_logits": student, "teacher_logits": teacher}, len(student))
    before = made.teacher.samples
    backend = Backend(made.backend.task, made.student)
    backend.trained = [list(made.student.parameters())]
    found = train_step(made.student, made.teacher, objective, asked, None, 0, backend)
    torch.testing.assert_close(found[0], expected)
    assert made.teacher.samples - before == 2 * len(student)
    assert torch.isfinite(values).all() and gradient.abs().sum() > 0


def test_a_run_has_both_views_and_counts_them(tmp_path):
    lab = make_lab(tmp_path)
    once, both = (
        teach(lab, "objective=kd", "objective.ce.weight=0.5", *words)
        for words in ((), (STRONG, "+objective.further={_target_: kdrun.objectives.kd.kd, view: strong}"))
    )
    flops = [result.record["cost"]["flops"]["student"] for result in (once, both)]
    assert flops[1] == 2 * flops[0]
    assert both.stage.teacher.fingerprint == once.stage.teacher.fingerprint  # which is taught by labels, in one view
    assert [row["train/further"] > 0 for row in lab.report.told if "train/further" in row]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=mlkd_strong"], "one view"),
        (["objective=mlkd_strong", STRONG, "data.augment.mixup=0.2"], "not mixed"),
        (["objective=mlkd_strong", STRONG, "objective.mlkd.view=weak"], "strong or null"),
        (["objective=mlkd_strong", STRONG, "teacher.source=cached", "data.augment.seed=0"], "second view"),
    ],
)
def test_what_has_no_second_view_is_refused_before_anything_is_trained(words, told, tmp_path):
    with pytest.raises(UserError, match=told):
        config = cell(*words)
        module = load_data(config["data"], config["paths"])
        lab = make_lab(tmp_path)
        cast = Cast(config)
        student = distil(cast.student, lab.get(supervised(cast.teacher)))
        check_builds([student], module, config["hardware"])
        lab.get(student)


def test_losses_of_steps_say_how_many_steps_they_correct():
    steps = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    targets = torch.tensor([0, 0])
    assert corrected(steps, targets).tolist() == [0.5, 1.0]
    made = assembled("seal", training=True)
    made.backend.trained = [list(made.student.parameters())]
    values = train_step(made.student, made.teacher, made.objective, made.batch, None, 0, made.backend)
    with torch.no_grad():
        said = made.student(made.batch["inputs"])["steps"]
    wrong = (said.argmax(-1) != made.batch["targets"][:, None]).float().mean()
    assert float(values[len(made.objective.active) + 1]) == pytest.approx(float(wrong)) and 0 < wrong <= 1
