"""aligned_kd over two tokenizations: a slow reference that multiplies probabilities, one span at a time."""

import math

import pytest
import torch
from loss_references import softmax

from kdrun.objectives.aligned_kd import aligned_kd, two_outcomes
from kdrun.objectives.kd import kd
from kdrun.objectives.uld import uld

SPANS = torch.tensor([[1, 2, 0, 1, 0, 1]])
"""Spans of 1, 2 and 1 tokens, a place where nothing is compared, and a last token."""
COINCIDE = torch.tensor([[True, False, False, False, False, True]])


def given(vocabulary=7, more=3, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    teacher = torch.randn((1, 6, vocabulary + more), generator=draw, dtype=dtype)
    teacher[..., [2, 5]] = -torch.inf  # tokens that the teacher does not have
    return {
        "student_logits": torch.randn((1, 6, vocabulary), generator=draw, dtype=dtype, requires_grad=True),
        "teacher_logits": teacher,
        "targets": torch.randint(vocabulary, (1, 6), generator=draw),
        "teacher_spans": SPANS,
        "teacher_coincide": COINCIDE,
        "teacher_span_log_probs": torch.full((1, 6), math.log(0.3), dtype=dtype),
    }


def slow(tensors) -> list[float]:
    """One value per position."""
    rows = {name: tensor[0].tolist() for name, tensor in tensors.items()}
    values = [0.0] * len(rows["targets"])
    for place, length in enumerate(rows["teacher_spans"]):
        if not length:
            continue
        ours, theirs = (
            rows["student_logits"][place],
            rows["teacher_logits"][place][: len(rows["student_logits"][place])],
        )
        if rows["teacher_coincide"][place]:
            both = [at for at, logit in enumerate(theirs) if logit != -math.inf]
            p, q = softmax([theirs[at] for at in both]), softmax([ours[at] for at in both])
            values[place] = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            continue
        q = math.prod(softmax(rows["student_logits"][at])[rows["targets"][at]] for at in range(place, place + length))
        p = math.exp(rows["teacher_span_log_probs"][place])
        values[place] = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return values


def test_spans_are_compared_as_in_the_slow_reference():
    tensors = given()
    values = aligned_kd(**tensors)
    torch.testing.assert_close(
        values[0].tolist(), slow({k: v.detach() for k, v in tensors.items()}), rtol=1e-12, atol=1e-12
    )
    assert values[0, 4] == 0 and values[0, 2] == 0


def test_gradient_is_the_derivative_of_the_value():
    tensors = given()
    student = tensors.pop("student_logits")
    assert torch.autograd.gradcheck(lambda logits: aligned_kd(student_logits=logits, **tensors), student)


def test_where_every_token_is_a_span_of_both_it_is_kd_bit_for_bit():
    tensors = given(more=0, dtype=torch.float32)
    tensors["teacher_logits"] = torch.randn(1, 6, 7)
    tensors |= {
        "teacher_spans": torch.ones(1, 6, dtype=torch.int64),
        "teacher_coincide": torch.ones(1, 6, dtype=torch.bool),
    }
    values = aligned_kd(**tensors, temperature=2.0)
    assert torch.equal(values, kd(tensors["student_logits"], tensors["teacher_logits"], temperature=2.0))


def test_rows_that_no_token_belongs_to_change_nothing():
    tensors = given(dtype=torch.float32)
    padded = {
        **tensors,
        "teacher_logits": torch.cat([tensors["teacher_logits"], torch.full((1, 6, 54), -torch.inf)], -1),
    }
    assert torch.equal(aligned_kd(**tensors), aligned_kd(**padded))
    both = tensors["student_logits"], tensors["teacher_logits"]
    torch.testing.assert_close(uld(*both), uld(both[0], padded["teacher_logits"]))
    assert uld(*both).min() > 0 and not uld(*both, torch.zeros(1, 6)).any()


@pytest.mark.parametrize("log_p", [0.0, -1e-9, -1.0, -200.0, -torch.inf])
def test_certain_and_impossible_spans_are_finite(log_p):
    log_q = torch.tensor([-0.0, -1e-9, -2.0, -300.0], requires_grad=True)
    value = two_outcomes(torch.full((4,), log_p), log_q)
    value.sum().backward()
    assert value.isfinite().all() and log_q.grad.isfinite().all() and (value >= -1e-6).all()


def test_equal_spans_are_exactly_zero_without_gradient():
    log_q = torch.tensor([-3.0, -0.1, -1e-6], requires_grad=True)
    value = two_outcomes(log_q.detach(), log_q)
    value.sum().backward()
    assert not value.any() and log_q.grad.abs().max() < 1e-6


def test_logits_of_fewer_tokens_than_the_student_has_are_refused():
    tensors = given()
    with pytest.raises(ValueError, match="disagree"):
        aligned_kd(**{**tensors, "teacher_logits": tensors["teacher_logits"][..., :5]})
