"""The temperature that learns against the student: its values, its reversed gradient, and its state in a run that is stopped."""

import math

import pytest
import torch
from logit_losses import BOTH, gradient, made
from loss_references import slow_kd

from kdrun.objectives.ctkd import Ctkd
from kdrun.objectives.kd import kd
from kdrun.objectives.terms import build_objective


def temperature_of(theta: float) -> float:
    return 1 + 20 / (1 + math.exp(-theta))


@pytest.mark.parametrize("initial", [1.0, -3.0])
def test_values_and_the_students_gradient_are_those_of_kd_at_its_temperature(initial):
    tensors, loss = made(4, 3, dtype=torch.float64), Ctkd(initial=initial).double()
    values = loss(*(tensors[name] for name in BOTH), epoch=3)
    rows = [tensors[name].detach().reshape(12, 7).tolist() for name in BOTH]
    expected = [slow_kd(*pair, temperature_of(initial)) for pair in zip(*rows, strict=True)]
    torch.testing.assert_close(values.flatten().tolist(), expected, rtol=1e-9, atol=1e-12)
    plain = kd(*(tensors[name] for name in BOTH), temperature=temperature_of(initial))
    torch.testing.assert_close(gradient(values.sum(), tensors), gradient(plain.sum(), tensors))


@pytest.mark.parametrize(("epoch", "strength"), [(0, (1 - math.cos(math.pi / 10)) / 2), (4, 0.5), (9, 1.0), (50, 1.0)])
def test_the_gradient_of_the_temperature_is_reversed_and_grows_over_the_epochs(epoch, strength):
    tensors, loss, small = made(6, dtype=torch.float64), Ctkd().double(), 1e-6
    both = [tensors[name].detach() for name in BOTH]
    loss(*both, epoch=epoch).sum().backward()
    up, down = (kd(*both, temperature=temperature_of(1 + move)).sum() for move in (small, -small))
    derivative = float(up - down) / (2 * small)
    assert loss.theta.grad.item() == pytest.approx(-strength * derivative, rel=1e-5)


def test_equal_networks_give_zero_and_the_teacher_gets_no_gradient():
    tensors, loss = made(6), Ctkd()
    equal = tensors["student_logits"].detach().clone().requires_grad_()
    values = loss(tensors["student_logits"], equal)
    values.sum().backward()
    assert not values.any() and equal.grad is None


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1e30), (torch.float32, 1e30), (torch.float16, 2e4)])
def test_extreme_logits_give_finite_values_and_gradients(dtype, scale):
    student, teacher = ((tensor.detach().clamp(-3, 3) * scale).to(dtype) for tensor in map(made(8).get, BOTH))
    loss = Ctkd()
    values = loss(student.requires_grad_(), teacher)
    (values / scale).sum().backward()
    assert values.dtype == torch.float32 and values.isfinite().all()
    assert student.grad.isfinite().all() and loss.theta.grad.isfinite()


def test_padding_and_parts_of_a_batch_change_nothing():
    objective = build_objective({"ctkd": {}}).begin()
    tensors = {**made(4, 5), "mask": torch.arange(5) < torch.tensor([5, 1, 3, 4])[:, None], "epoch": 2}
    whole = objective(tensors, 13)[0]
    junk = {**tensors, "teacher_logits": tensors["teacher_logits"].masked_fill(~tensors["mask"][..., None], torch.nan)}
    assert objective(junk, 13)[0].item() == pytest.approx(whole.item(), rel=1e-6)
    parts = [
        {n: t[rows] if isinstance(t, torch.Tensor) else t for n, t in tensors.items()} for rows in ([0], [1, 2, 3])
    ]
    assert sum(objective(part, 13)[0].item() for part in parts) == pytest.approx(whole.item(), rel=1e-6)


def test_a_temperature_that_could_be_zero_is_refused():
    with pytest.raises(ValueError, match="lowest=0"):
        Ctkd(lowest=0)


def slow_theta(loss: Ctkd, student: list[float], teacher: list[float]) -> float:
    """Two layers on both predictions, unit by unit."""
    first, second = (
        [(*row, bias) for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]
        for layer in (loss.theta[0], loss.theta[2])
    )
    hidden = [max(0.0, math.fsum(w * x for w, x in zip(row, [*student, *teacher, 1.0], strict=True))) for row in first]
    return math.fsum(w * x for w, x in zip(second[0], [*hidden, 1.0], strict=True))


def per_sample(**options) -> Ctkd:
    torch.manual_seed(0)
    return Ctkd(classes=7, per_sample=True, **options).double()


def test_per_sample_each_sample_has_the_temperature_that_two_layers_give_it():
    tensors, loss = made(6, dtype=torch.float64), per_sample()
    both = [tensors[name] for name in BOTH]
    values = loss(*both, epoch=3)
    rows = list(zip(*(logits.detach().tolist() for logits in both), strict=True))
    temperatures = [temperature_of(slow_theta(loss, *pair)) for pair in rows]
    assert max(temperatures) - min(temperatures) > 0.1
    expected = [slow_kd(*pair, t) for pair, t in zip(rows, temperatures, strict=True)]
    torch.testing.assert_close(values.tolist(), expected, rtol=1e-9, atol=1e-12)
    plain = sum(
        kd(*(logits[i] for logits in both), temperature=t) for i, t in enumerate(temperatures)
    )  # the student's gradient takes the temperature as it is
    torch.testing.assert_close(gradient(values.sum(), tensors), gradient(plain, tensors))


def test_per_sample_the_gradient_of_both_layers_is_reversed():
    tensors, loss, small = made(6, dtype=torch.float64), per_sample(strength=0.5), 1e-6
    both = [tensors[name].detach() for name in BOTH]
    loss(*both, epoch=50).sum().backward()
    for place in (0, 2):
        weight = loss.theta[place].weight
        with torch.no_grad():
            weight[0, 1] += small
            up = loss(*both).sum()
            weight[0, 1] -= 2 * small
            down = loss(*both).sum()
            weight[0, 1] += small
        assert weight.grad[0, 1].item() == pytest.approx(-0.5 * float(up - down) / (2 * small), rel=1e-4)


def test_per_sample_begins_at_the_temperature_of_all_up_to_its_layers_and_needs_the_number_of_classes():
    loss = per_sample(initial=-3.0)
    assert loss.theta[2].bias.item() == -3.0
    values = loss(torch.full((2, 7), 1e30).double().requires_grad_(), torch.zeros(2, 7).double())
    assert values.isfinite().all()
    with pytest.raises(ValueError, match="per_sample=true needs data with a number of classes"):
        Ctkd(per_sample=True)
