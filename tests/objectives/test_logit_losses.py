"""What single losses on logits promise beside what all do: their minima, and special cases."""

import math

import pytest
import torch
from logit_losses import BOTH, gradient, made
from loss_references import entropy_of_softmax

from kdrun.objectives.akl import akl
from kdrun.objectives.dkd import dkd
from kdrun.objectives.hard import hard
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.nkd import nkd
from kdrun.objectives.skewed import skewed
from kdrun.objectives.skewed_reverse import skewed_reverse
from kdrun.objectives.terms import build_objective
from kdrun.objectives.tf_kd import tf_kd
from kdrun.objectives.ttm import ttm
from kdrun.objectives.tvd import tvd
from kdrun.objectives.wsld import wsld
from kdrun.objectives.wttm import wttm
from kdrun.problems import UserError

MINIMA = {
    # name: (loss, logits of student and teacher at the documented minimum, its value); the label is class 1
    "dkd": (dkd, [1.0, 2.0, 0.5], [1.0, 2.0, 0.5], 0.0),
    "ttm": (ttm, [0.1, 0.2, 0.05], [1.0, 2.0, 0.5], 0.0),
    "wttm": (wttm, [0.2, 0.4, 0.1], [1.0, 2.0, 0.5], 0.0),
    "kd_standardized": (lambda s, t: kd(s, t, standardize=True), [5.0, 7.0, 4.0], [1.0, 2.0, 0.5], 0.0),
    "tf_kd": (tf_kd, [0.005 / 20, 0.99 / 20, 0.005 / 20], None, 0.0),
    "hard": (hard, [0.0, 900.0, 0.0], [1.0, 2.0, 0.5], 0.0),
    # the entropy of the other two classes, times gamma
    "nkd": (nkd, [0.5, 900.0, 0.0], [1.0, 2.0, 0.5], 1.5 * entropy_of_softmax([1.0, 0.5])),
}


@pytest.mark.parametrize("name", MINIMA)
def test_the_documented_minimum_is_reached_and_no_logits_are_below_it(name):
    loss, student, teacher, expected = MINIMA[name]
    generator = torch.Generator().manual_seed(4)

    def value(logits: torch.Tensor) -> torch.Tensor:
        taught = () if teacher is None else (torch.tensor([teacher], dtype=torch.float64).expand_as(logits),)
        labels = (torch.ones(len(logits), dtype=torch.long),) if loss in (dkd, tf_kd, nkd) else ()
        return loss(logits, *taught, *labels)

    best = torch.tensor([student], dtype=torch.float64)
    assert value(best).item() == pytest.approx(expected, abs=1e-6)
    near = best + 0.3 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    assert (value(near) >= expected - 1e-9).all()


def test_wsld_weighs_by_how_far_the_student_is_behind_its_teacher_on_the_label():
    """At equality w is 1 - 1/e; a student that is certain of the label is taught nothing."""
    logits, target = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([1])
    entropy = entropy_of_softmax([0.5, 1.0, 0.25])
    assert wsld(logits, logits, target).item() == pytest.approx((1 - math.exp(-1)) * 4 * entropy, rel=1e-5)
    assert wsld(torch.tensor([[0.0, 200.0, 0.0]]), logits, target).item() == pytest.approx(0.0, abs=1e-6)


def test_wsld_has_the_gradient_of_kd_times_its_weight():
    tensors = made(6, dtype=torch.float64)
    labels = tensors["targets"]
    of_student, of_teacher = (
        -tensors[name].detach().log_softmax(-1).gather(1, labels[:, None]).squeeze(1) for name in BOTH
    )
    weight = 1 - torch.exp(-of_student / (of_teacher + 1e-7))
    both = [tensors[name] for name in BOTH]
    found = gradient(wsld(*both, labels).sum(), tensors)
    torch.testing.assert_close(found, gradient((weight * kd(*both, temperature=2.0)).sum(), tensors))


def test_dkd_with_the_weights_of_equation_6_is_kd():
    tensors = made(20, dtype=torch.float64)
    student, teacher = (tensors[name].detach() for name in BOTH)
    p = (teacher / 4).softmax(-1).gather(1, tensors["targets"][:, None]).squeeze(1)
    parts = [dkd(student, teacher, tensors["targets"], alpha=a, beta=1.0 - a) for a in (1.0, 0.0)]
    torch.testing.assert_close(parts[0] + (1 - p) * parts[1], kd(student, teacher))


def test_dkd_of_a_label_that_is_certain_is_finite_where_probabilities_are_0_and_1():
    """Logits times 120 in float32: 1 - p is 0 there, and its logarithm minus infinity."""
    tensors = made(32, classes=100, scale=120.0)
    values = dkd(tensors["student_logits"], tensors["teacher_logits"], tensors["targets"], temperature=1.0)
    assert values.isfinite().all() and gradient(values.sum(), tensors).isfinite().all()
    wide = {name: tensors[name].detach().double() for name in BOTH}
    torch.testing.assert_close(
        values.double(), dkd(*wide.values(), tensors["targets"], temperature=1.0), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("loss", [dkd, nkd, wsld], ids=lambda loss: loss.__name__)
def test_labels_of_another_shape_or_of_no_class_are_refused(loss):
    logits = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="disagree"):
        loss(logits, logits, torch.zeros(2, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        loss(logits, logits, torch.full((2, 4), -100))


@pytest.mark.parametrize(
    "loss", [dkd, nkd, wsld, ttm, wttm, skewed, skewed_reverse, tvd, akl, hard], ids=lambda loss: loss.__name__
)
def test_classes_that_both_exclude_add_nothing(loss):
    tensors = made(6)
    labels = (tensors["targets"],) if loss in (nkd, wsld, dkd) else ()
    few = [tensors[who] for who in BOTH]
    many = [torch.cat([x, x.detach().new_full((6, 3), -torch.inf)], 1) for x in few]
    values = loss(*many, *labels)
    torch.testing.assert_close(values, loss(*few, *labels), rtol=1e-5, atol=1e-5)
    assert gradient(values.sum(), tensors).isfinite().all()


@pytest.mark.parametrize("loss", [skewed, skewed_reverse, tvd], ids=lambda loss: loss.__name__)
def test_a_class_that_one_network_excludes_leaves_bounded_distances_finite(loss):
    tensors, excluded = made(6), torch.zeros(6, 7)
    excluded[:, 2] = -torch.inf
    for who in BOTH:
        cut = {**tensors, who: tensors[who] + excluded}
        values = loss(*(cut[name] for name in BOTH))
        probabilities = {name: cut[name].detach().double().softmax(-1).clamp(min=1e-300).log() for name in BOTH}
        torch.testing.assert_close(values.double(), loss(*(probabilities[name] for name in BOTH)), rtol=1e-5, atol=1e-6)
        assert gradient(values.sum(), tensors).isfinite().all()


def test_akl_of_a_class_that_one_network_excludes_is_infinite_and_refused():
    student = torch.tensor([[0.0, 1.0, 2.0]])
    with pytest.raises(FloatingPointError, match="infinite at 1 of 1 positions: one network gives no probability"):
        akl(student, torch.tensor([[0.0, 1.0, -torch.inf]]))


def test_akl_has_the_gradients_of_both_directions_times_their_weights():
    tensors = made(6, dtype=torch.float64)
    both = [tensors[name] for name in BOTH]
    q, p = (x.detach().softmax(-1) for x in both)
    weights = []
    for row, other in zip(p.tolist(), q.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        head = [c for place, c in enumerate(order) if place == 0 or sum(row[k] for k in order[: place + 1]) <= 0.5]
        gaps = [abs(a - b) for a, b in zip(row, other, strict=True)]
        weights.append(sum(gaps[c] for c in head) / sum(gaps))
    weight = torch.tensor(weights, dtype=torch.float64)
    ratio = (q / p).log()
    of_student = q * (ratio - (q * ratio).sum(-1, keepdim=True))
    expected = weight[:, None] * (q - p) + (1 - weight[:, None]) * of_student
    torch.testing.assert_close(gradient(akl(*both).sum(), tensors), expected)


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_a_skew_is_strictly_between_its_limits(skew):
    with pytest.raises(ValueError, match=f"skew must lie between 0 and 1, got {skew}"):
        skewed(torch.zeros(1, 3), torch.zeros(1, 3), skew=skew)


def test_small_skews_tend_to_both_divergences():
    tensors = made(6, scale=1.0, dtype=torch.float64)
    both = [tensors[name].detach() for name in BOTH]
    for loss, limit in ((skewed, kd), (skewed_reverse, kl_reverse)):
        torch.testing.assert_close(loss(*both, skew=1e-8), limit(*both, temperature=1.0), rtol=1e-5, atol=1e-6)


def top_of(teacher, k):
    log_probs, ids = teacher.log_softmax(-1).topk(k, dim=-1)
    return ids, log_probs


@pytest.mark.parametrize("name", ["kd", "kl_reverse", "jsd", "skewed", "skewed_reverse", "tvd", "akl"])
def test_of_all_classes_the_likeliest_tell_what_all_logits_do(name):
    """And of fewer no more: merging classes loses information. Of akl the weight changes as well."""
    (dense,) = build_objective({name: {"temperature": 1.0} if name == "kd" else {}}).terms
    tensors = made(6, 5, dtype=torch.float64)
    both = [tensors[who] for who in BOTH]
    values = dense.function(*both, **dense.options)
    slopes = gradient(values.sum(), tensors)
    for k in (7, 20, 3, 1):
        (term,) = build_objective({name: {"execution": "topk", "k": k, **dense.options}}).terms
        found = term.function(both[0], *top_of(both[1], min(k, 7)), **term.options)
        if k >= 7:
            torch.testing.assert_close(found, values)
            torch.testing.assert_close(gradient(found.sum(), tensors), slopes)
        elif name != "akl":
            assert (found <= values + 1e-12).all() and (found > 0).all()


@pytest.mark.parametrize("name", ["kl_reverse", "jsd", "skewed", "skewed_reverse", "tvd", "akl"])
def test_a_teacher_whose_likeliest_classes_sum_to_one_leaves_values_and_gradients_finite(name):
    (term,) = build_objective({name: {"execution": "topk", "k": 2}}).terms
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]], requires_grad=True)
    certain = torch.tensor([[1.0, 0.0]]).clamp(min=1e-30).log()
    for student in (logits, logits + torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])):
        value = term.function(student, torch.tensor([[0, 1]]), certain, **term.options)
        assert value.isfinite().all() and torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_the_likeliest_classes_tell_no_divergence_at_another_temperature():
    with pytest.raises(UserError, match=r"objective.skewed.execution=topk: .* temperature 1 only, not 2"):
        build_objective({"skewed": {"execution": "topk", "temperature": 2.0}})
