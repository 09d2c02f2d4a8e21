"""What every shipped loss on logits promises, one row per loss (tests/logit_losses.py) and one test per promise."""

import math

import pytest
import torch
from logit_losses import BOTH, LOSSES, TOP, every_loss, gradient, made, total, zero_losses
from loss_references import slow_kd

from kdrun.objectives.ce import ce
from kdrun.objectives.kd import kd


@every_loss
def test_equals_the_slow_reference_at_every_position(loss):
    tensors = made(4, 3, dtype=torch.float64)
    values = loss(tensors)
    assert values.shape == (4, 3)
    rows = [tensors[name].detach().reshape(12, *tensors[name].shape[2:]).tolist() for name in loss.wants]
    expected = [loss.reference(*row, **loss.options) for row in zip(*rows, strict=True)]
    torch.testing.assert_close(values.flatten().tolist(), expected, rtol=1e-12, atol=1e-12)


@every_loss
def test_float32_is_close_to_the_reference(loss):
    narrow, wide = made(50, classes=100), made(50, classes=100, dtype=torch.float64)
    torch.testing.assert_close(loss(narrow).double(), loss(wide), rtol=1e-5, atol=loss.rounding)


@every_loss
def test_gradient_is_the_derivative_of_the_value(loss):
    if loss.constant_part:
        pytest.skip("a factor is held constant; its own test has its gradient")
    tensors = made(3, classes=5, dtype=torch.float64)
    student = tensors.pop("student_logits")
    assert torch.autograd.gradcheck(lambda logits: loss({**tensors, "student_logits": logits}), student)


@zero_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_equal_logits_give_exactly_zero_and_no_gradient(loss, dtype, scale):
    tensors = made(16, 9, classes=11, scale=scale, dtype=dtype)
    tensors["teacher_logits"] = tensors["student_logits"].detach().clone()
    value = loss(tensors).sum()
    assert value.item() == 0.0
    assert not gradient(value, tensors).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_ce_is_never_below_the_entropy_of_its_label_and_reaches_it(smoothing):
    classes = 5
    q = [smoothing / classes + (1 - smoothing) * (c == 2) for c in range(classes)]
    entropy = -math.fsum(p * math.log(p) for p in q if p > 0)
    best = torch.tensor([[math.log(p) if p > 0 else -1e4 for p in q]])
    target = torch.tensor([2])
    assert ce(best, target, label_smoothing=smoothing).item() == pytest.approx(entropy, abs=1e-6)
    others = made(200, classes=classes)
    assert (ce(others["student_logits"], target.expand(200), label_smoothing=smoothing) >= entropy).all()


@zero_losses
def test_divergence_is_not_negative(loss):
    assert (loss(made(500, classes=10, scale=1e-3)) >= -loss.rounding).all()
    assert (loss(made(500, classes=10)) > 0).all()


@every_loss
def test_adding_a_constant_to_all_logits_of_a_position_changes_nothing(loss):
    tensors = made(8, dtype=torch.float64)
    for name in loss.shifts:
        shift = torch.linspace(-500, 500, 8, dtype=torch.float64)[:, None]
        moved = {**tensors, name: tensors[name].detach() + shift}
        torch.testing.assert_close(loss(moved), loss(tensors), rtol=1e-9, atol=1e-9)


@zero_losses
def test_a_shift_of_a_whole_network_in_float32_does_not_drown_a_small_difference(loss):
    tensors = made(8, scale=0.1)
    moved = {**tensors, "teacher_logits": tensors["teacher_logits"] + 4096.0}
    rounded = {**tensors, "teacher_logits": moved["teacher_logits"] - 4096.0}  # what is left of it after rounding
    torch.testing.assert_close(loss(moved), loss(rounded), rtol=1e-4, atol=loss.rounding)


@every_loss
def test_sums_over_classes_so_that_unlikely_extra_classes_change_nothing(loss):
    """An average over classes would divide by C; here 93 classes without probability are added."""
    if loss.options.get("label_smoothing") or loss.of_few_classes:
        pytest.skip("every class has some part in it")
    few = made(6, dtype=torch.float64)
    many = dict(few)
    for name in BOTH:
        many[name] = torch.cat([few[name], few[name].detach().new_full((6, 93), -1e4)], dim=1)
    torch.testing.assert_close(loss(many), loss(few), rtol=1e-9, atol=1e-9)


@every_loss
def test_batches_may_be_split_into_accumulation_steps_of_any_size(loss):
    """The mean of means would weigh the positions of a small micro-batch more."""
    whole = made(43)
    expected = gradient(total(loss, whole, 43), whole)
    split = made(43)
    values = 0.0
    for start, end in ((0, 3), (3, 43)):
        part = {name: None if tensor is None else tensor[start:end] for name, tensor in split.items()}
        value = total(loss, part, 43)
        value.backward()
        values += value.item()
    assert values == pytest.approx(total(loss, whole, 43).item(), rel=1e-6)
    torch.testing.assert_close(split["student_logits"].grad, expected, rtol=1e-6, atol=1e-9)


@every_loss
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(loss):
    plain = made(4, 5)
    lengths = torch.tensor([5, 1, 3, 4])
    mask = torch.arange(5) < lengths[:, None]
    plain["mask"] = mask
    value = total(loss, plain, 13)
    expected = gradient(value, plain)
    for junk in (0.0, float("nan"), float("inf"), -float("inf"), 1e30):
        padded = {"mask": torch.cat([mask, torch.zeros(4, 5, dtype=torch.bool)], dim=1)}
        for name in (*BOTH, "teacher_top_log_probs"):
            longer = torch.cat([plain[name].detach(), torch.full((4, 5, plain[name].shape[-1]), junk)], dim=1)
            padded[name] = torch.where(padded["mask"][..., None], longer, junk)
        padded["teacher_top_ids"] = torch.cat([plain["teacher_top_ids"], torch.full((4, 5, TOP), -100)], dim=1)
        padded["student_logits"].requires_grad_()
        padded["targets"] = torch.cat([plain["targets"], torch.full((4, 5), -100)], dim=1)
        padded["targets"][~padded["mask"]] = -100
        other = total(loss, padded, 13)
        assert other.item() == pytest.approx(value.item(), rel=1e-6)  # a longer sum is rounded elsewhere
        found = gradient(other, padded)
        torch.testing.assert_close(found[:, :5], expected, rtol=1e-6, atol=0)
        assert not found[~padded["mask"]].any()


@every_loss
def test_the_mask_decides_and_not_the_id_so_that_padding_may_equal_the_end_token(loss):
    """Class 0 is the end token and what padding holds. The true end counts, the padding behind it does not."""
    tensors = made(2, 4)
    tensors["targets"] = torch.tensor([[3, 0, 0, 0], [5, 2, 1, 0]])
    tensors["mask"] = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = gradient(total(loss, tensors, 6), tensors)
    assert found[0, 1].any() and found[1, 3].any()
    assert not found[0, 2:].any()


@every_loss
def test_twice_the_length_by_repetition_leaves_the_value(loss):
    once = made(3, 6)
    twice = {name: None if t is None else torch.cat([t, t], dim=1) for name, t in once.items()}
    assert total(loss, twice, 36).item() == pytest.approx(total(loss, once, 18).item(), rel=1e-6)


@every_loss
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 2e4), (torch.bfloat16, 1e30), (torch.float32, 360.0), (torch.float32, 1e30)]
)
def test_extreme_logits_give_finite_values_and_gradients(loss, dtype, scale):
    tensors = made(64, classes=100, scale=1.0, dtype=torch.float64)
    for name in BOTH:
        tensors[name] = (tensors[name].detach().clamp(-3, 3) * scale).to(dtype)
        assert tensors[name].isfinite().all()
    student = tensors["student_logits"].requires_grad_()
    values = loss(tensors)
    assert values.dtype == torch.float32
    assert values.isfinite().all() and (values >= -1e-6).all()
    assert gradient((values / scale).sum(), tensors).isfinite().all()
    assert student.grad is None


@every_loss
def test_under_autocast_values_are_float32_ones(loss):
    tensors = made(16, classes=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = loss(tensors)
    assert values.dtype == torch.float32
    if loss.name.startswith("vocabulary"):  # products are part of these, and autocast makes them in its own type
        tensors = {name: t.bfloat16() if name in BOTH else t for name, t in tensors.items()}
    assert torch.equal(values, loss(tensors))


@pytest.mark.parametrize("loss", [x for x in LOSSES if x.temperature and x.name == "kd"], ids=lambda loss: loss.name)
def test_gradient_is_about_the_same_size_at_every_temperature(loss):
    tensors = made(256, classes=10, scale=0.05)
    norms = []
    for temperature in (1.0, 2.0, 4.0, 8.0, 20.0):
        value = loss.function(tensors["student_logits"], tensors["teacher_logits"], temperature=temperature).mean()
        norms.append(gradient(value, tensors).norm().item())
    assert max(norms) / min(norms) < 1.1


def test_kd_gradient_is_temperature_times_the_difference_of_the_probabilities():
    """Equation 2 of the paper, times T squared."""
    tensors, temperature = made(5, dtype=torch.float64), 3.0
    found = gradient(kd(tensors["student_logits"], tensors["teacher_logits"], temperature=temperature).sum(), tensors)
    q, p = ((tensors[name].detach() / temperature).softmax(-1) for name in BOTH)
    torch.testing.assert_close(found, temperature * (q - p))


def test_kd_of_one_logit_104_below_the_rest_is_finite_both_ways():
    """softmax and then log would give infinity or NaN here."""
    low = torch.tensor([[0.0, 1.0, -104.0]])
    even = torch.tensor([[0.5, 0.2, 0.1]])
    for student, teacher in ((low, even), (even, low)):
        student = student.clone().requires_grad_()
        value = kd(student, teacher, temperature=1.0)
        assert value.item() == pytest.approx(slow_kd(student[0].tolist(), teacher[0].tolist(), 1.0), rel=1e-5)
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_kd_accepts_classes_that_the_teacher_excludes():
    teacher = torch.tensor([[1.0, 2.0, -torch.inf]])
    for last in (0.0, -torch.inf):
        student = torch.tensor([[0.0, 1.5, last]], requires_grad=True)
        value = kd(student, teacher, temperature=2.0)
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_kd_sends_no_gradient_to_the_teacher():
    tensors = made(4)
    teacher = tensors["teacher_logits"].requires_grad_()
    kd(tensors["student_logits"], teacher).sum().backward()
    assert teacher.grad is None


def test_kd_of_different_numbers_of_classes_names_both():
    with pytest.raises(ValueError, match="student has 10 classes and the teacher 11"):
        kd(torch.zeros(2, 10), torch.zeros(2, 11))


@pytest.mark.parametrize("shape", [(1, 10), (10,), (4, 2, 10)])
def test_kd_does_not_broadcast(shape):
    with pytest.raises(ValueError, match="disagree"):
        kd(torch.zeros(2, 10), torch.zeros(shape))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_kd_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature"):
        kd(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)


def test_ce_of_a_label_that_no_class_has_is_an_error_and_never_skipped():
    for label in (-100, 3):
        with pytest.raises(IndexError):
            ce(torch.zeros(1, 3), torch.tensor([label]))


def test_ce_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match="disagree"):
        ce(torch.zeros(2, 4, 3), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("loss", [x for x in LOSSES if "teacher_logits" in x.wants], ids=lambda loss: loss.name)
def test_no_gradient_reaches_the_teacher(loss):
    tensors = made(4)
    tensors["teacher_logits"].requires_grad_()
    loss(tensors).sum().backward()
    assert tensors["teacher_logits"].grad is None and tensors["student_logits"].grad.any()


@every_loss
def test_samples_in_another_order_have_their_own_values(loss):
    tensors, order = made(9), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved = {name: None if tensor is None else tensor[order] for name, tensor in tensors.items()}
    torch.testing.assert_close(loss(moved), loss(tensors)[order], rtol=1e-5, atol=loss.rounding)
