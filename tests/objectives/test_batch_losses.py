"""What losses on logits promise that compare the samples of a batch with each other (OF_BATCHES of tests/logit_losses.py)."""

import sys
from pathlib import Path

import pytest
import torch
import two_ranks
from forked import Forked
from logit_losses import BOTH, OF_BATCHES, gradient, made, of_batches, total

from kdrun.objectives.dist import dist
from kdrun.objectives.mlkd import mlkd


@of_batches
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_equals_the_slow_reference(loss, shape):
    tensors = made(*shape, dtype=torch.float64)
    values = loss(tensors)
    assert values.shape == shape
    rows = [tensors[name].detach().reshape(6, 7).tolist() for name in BOTH]
    expected = loss.reference(*rows, **loss.options)
    torch.testing.assert_close(values.flatten().tolist(), expected, rtol=1e-12, atol=1e-12)


@of_batches
def test_float32_is_close_to_float64(loss):
    narrow, wide = made(50, classes=20), made(50, classes=20, dtype=torch.float64)
    torch.testing.assert_close(loss(narrow).double(), loss(wide), rtol=1e-4, atol=1e-4)


@of_batches
def test_gradient_is_the_derivative_of_the_value_and_reaches_the_student_only(loss):
    tensors = made(4, classes=5, dtype=torch.float64)
    student = tensors.pop("student_logits")
    assert torch.autograd.gradcheck(lambda logits: loss({**tensors, "student_logits": logits}), student)
    tensors["teacher_logits"].requires_grad_()
    loss({**tensors, "student_logits": student}).sum().backward()
    assert student.grad.any() and tensors["teacher_logits"].grad is None


@of_batches
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_logits_give_the_documented_minimum(loss, dtype):
    tensors = made(16, classes=11, dtype=dtype)
    tensors["teacher_logits"] = tensors["student_logits"].detach().clone()
    values = loss(tensors)
    if loss.zero_at_equality:
        assert not values.any() and not gradient(values.sum(), tensors).any()
    else:
        assert values.abs().max() < 1e-4 and gradient(values.sum(), tensors).abs().max() < 1e-4
        assert (loss(made(16, classes=11)) > 1e-2).all()


@of_batches
def test_shifts_and_the_order_of_samples_change_nothing(loss):
    tensors, order = made(8, dtype=torch.float64), torch.tensor([3, 1, 0, 2, 7, 5, 6, 4])
    for name in BOTH:
        shift = torch.linspace(-500, 500, 8, dtype=torch.float64)[:, None]
        moved = {**tensors, name: tensors[name].detach() + shift}
        torch.testing.assert_close(loss(moved), loss(tensors), rtol=1e-9, atol=1e-9)
    turned = {name: tensors[name][order] for name in BOTH}
    torch.testing.assert_close(loss(turned), loss(tensors)[order])


@of_batches
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(loss):
    plain = made(4, 5)
    plain["mask"] = torch.arange(5) < torch.tensor([5, 1, 3, 4])[:, None]
    rows = {name: plain[name].detach()[plain["mask"]].requires_grad_() for name in BOTH}
    expected = total(loss, {**rows, "mask": None}, 13)
    for junk in (float("nan"), float("inf"), 1e30):
        padded = {name: torch.where(plain["mask"][..., None], plain[name].detach(), junk) for name in BOTH}
        padded["student_logits"].requires_grad_()
        value = total(loss, {**padded, "mask": plain["mask"]}, 13)
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        found = gradient(value, padded)
        torch.testing.assert_close(found[plain["mask"]], gradient(expected, rows), rtol=1e-5, atol=1e-9)
        assert not found[~plain["mask"]].any()
        rows["student_logits"] = rows["student_logits"].detach().requires_grad_()
        expected = total(loss, {**rows, "mask": None}, 13)


@of_batches
def test_a_part_of_a_batch_is_another_loss(loss):
    tensors = made(7)
    parts = sum(
        total(loss, {n: t if t is None else t[r] for n, t in tensors.items()}, 7).item()
        for r in ([0, 1], [2, 3, 4, 5, 6])
    )
    assert loss.term().whole_batch and parts != pytest.approx(total(loss, tensors, 7).item(), rel=1e-6)


@of_batches
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 2e4), (torch.bfloat16, 1e30), (torch.float32, 1e30), (torch.float32, 0.0)]
)
@pytest.mark.parametrize("samples", [1, 2, 16])
def test_extreme_logits_and_batches_of_one_sample_are_finite(loss, dtype, scale, samples):
    tensors = made(samples, classes=10, scale=1.0)
    for name in BOTH:
        tensors[name] = (tensors[name].detach().clamp(-3, 3) * scale).to(dtype)
    tensors["student_logits"].requires_grad_()
    values = loss(tensors)
    assert values.dtype == torch.float32 and values.isfinite().all()
    assert gradient((values / max(scale, 1.0)).sum(), tensors).isfinite().all()


@of_batches
def test_under_autocast_values_are_float32_ones(loss):
    tensors = made(16, classes=20)
    plain = total(loss, tensors, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(total(loss, tensors, 16), plain)


@pytest.mark.slow
def test_samples_are_compared_across_ranks(tmp_path):
    """Averaged over two ranks with unlike shares of a batch, values and gradients are those of one process."""
    script = str(Path(two_ranks.__file__))
    running = [Forked([sys.executable, script, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for loss in OF_BATCHES:
        tensors = made(7)
        whole = total(loss, tensors, 7)
        assert sum(rank[loss.name][0] for rank in ranks).item() / 2 == pytest.approx(whole.item(), rel=1e-6)
        found = torch.cat([rank[loss.name][1][0] for rank in ranks]) / 2
        torch.testing.assert_close(found, gradient(whole, tensors), rtol=1e-5, atol=1e-8)


def test_dist_does_not_see_how_large_differences_of_probabilities_are():
    """Two classes: any student that ranks samples and classes as its teacher does is at the minimum."""
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    q = 0.25 + 0.5 * teacher.softmax(-1)
    assert dist(q.log(), teacher).abs().max() < 1e-5


def test_settings_that_are_none_are_refused():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        dist(logits, logits, temperature=0.0)
    with pytest.raises(ValueError, match="at least one number"):
        mlkd(logits, logits, temperatures=[])
