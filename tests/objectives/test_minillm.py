"""minillm: a slow reference that goes through each text token by token, and the gradient of the divergence of whole texts."""

import itertools
import math

import pytest
import torch

from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.minillm import minillm

TOKENS, ROWS, LENGTH = 4, 3, 9
DOCUMENTS = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0], [1] * 9, [1, 1, 2, 2, 2, 2, 3, 3, 3]])
MASK = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 1, 1, 1, 1]]).bool()


def made():
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, LENGTH, TOKENS)
    logits = [2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    student, teacher = (torch.where(MASK.unsqueeze(-1), each, 0.0) for each in logits)
    return student.requires_grad_(), teacher, torch.randint(TOKENS, shape[:2], generator=generator)


def slow(student, teacher, written, normalised, share):
    """(values, what the gradient is of) of each place, as Python numbers and tensors."""
    values, surrogate = torch.zeros(ROWS, LENGTH), torch.zeros((), dtype=torch.float64)
    q, p = student.softmax(-1), teacher.softmax(-1)
    for row, place in itertools.product(range(ROWS), range(LENGTH)):
        if not MASK[row, place]:
            continue
        token = int(written[row, place])
        later = [
            math.log(p[row, t, written[row, t]] / q[row, t, written[row, t]])
            for t in range(place + 1, LENGTH)
            if MASK[row, t] and DOCUMENTS[row, t] == DOCUMENTS[row, place]
        ]
        reward = sum(later) / (len(later) if normalised and later else 1)
        weight = float(q[row, place, token] / (share * p[row, place, token] + (1 - share) * q[row, place, token]))
        single = sum(q[row, place, c] * (q[row, place, c] / p[row, place, c]).log() for c in range(TOKENS))
        values[row, place] = weight * float(single)
        surrogate = surrogate + weight * (single - reward * q[row, place, token].log())
    return values, surrogate


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_values_and_gradients_are_those_of_a_loop_over_tokens(normalised, share):
    student, teacher, written = made()
    values = minillm(student, teacher, MASK, written, DOCUMENTS, share, normalised=normalised)
    expected, surrogate = slow(student, teacher, written, normalised, share)
    torch.testing.assert_close(torch.where(MASK, values, 0.0), expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    (wanted,) = torch.autograd.grad(surrogate, student)
    (gradient,) = torch.autograd.grad(values[MASK].sum(), student)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_of_texts_drawn_some_steps_ago_it_is_the_clipped_ratio_token_by_token(clip, share):
    student, teacher, written = made()
    drawn = (student.detach() + 0.3 * torch.randn(student.shape, generator=torch.Generator().manual_seed(2))).softmax(
        -1
    )
    old = drawn.gather(-1, written.unsqueeze(-1)).squeeze(-1)
    values = minillm(student, teacher, MASK, written, DOCUMENTS, share, old.log(), clip=clip)
    q, p = student.softmax(-1), teacher.softmax(-1)
    expected, surrogate, clipped = torch.zeros(ROWS, LENGTH), torch.zeros((), dtype=torch.float64), 0
    for row, place in itertools.product(range(ROWS), range(LENGTH)):
        if not MASK[row, place]:
            continue
        later = [
            math.log(p[row, t, written[row, t]] / old[row, t])
            for t in range(place + 1, LENGTH)
            if MASK[row, t] and DOCUMENTS[row, t] == DOCUMENTS[row, place]
        ]
        reward = sum(later) / max(len(later), 1)
        token, before = int(written[row, place]), float(old[row, place])
        weight = before / (share * float(p[row, place, token]) + (1 - share) * before)
        ratio = weight * q[row, place, token] / before
        single = sum(q[row, place, c] * (q[row, place, c] / p[row, place, c]).log() for c in range(TOKENS))
        expected[row, place] = weight * float(single)
        far = clip is not None and (ratio > 1 + clip if reward > 0 else ratio < 1 - clip)
        clipped += bool(far and reward)
        surrogate = surrogate + weight * single - (0.0 if far else ratio * reward)
    torch.testing.assert_close(torch.where(MASK, values, 0.0), expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    (wanted,) = torch.autograd.grad(surrogate, student)
    (gradient,) = torch.autograd.grad(values[MASK].sum(), student)
    torch.testing.assert_close(gradient, wanted)
    assert bool(clipped) == (clip is not None)


def test_what_was_drawn_at_this_step_has_the_gradient_of_the_first_of_several():
    student, teacher, written = made()
    now = student.detach().log_softmax(-1).gather(-1, written.unsqueeze(-1)).squeeze(-1)
    one, other = (
        torch.autograd.grad(minillm(student, teacher, MASK, written, DOCUMENTS, 0.0, *drawn)[MASK].sum(), student)[0]
        for drawn in ((), (now,))
    )
    torch.testing.assert_close(one, other)


def test_its_mean_over_what_a_student_writes_is_the_gradient_of_the_divergence_of_texts():
    """Of all 27 texts of three tokens, each with the probability that the student writes it: not normalised, nothing is left out."""
    generator = torch.Generator().manual_seed(1)
    shape = (4, 3)  # of the token before (3: the beginning), the next one
    student = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64)
    texts = torch.tensor(list(itertools.product(range(3), repeat=3)))
    before = torch.cat([torch.full((27, 1), 3), texts[:, :-1]], 1)
    log_q, log_p = (
        table[before].log_softmax(-1).gather(-1, texts.unsqueeze(-1)).squeeze(-1).sum(1) for table in (student, teacher)
    )
    (wanted,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), student, retain_graph=True)
    values = minillm(student[before], teacher[before], written=texts, normalised=False).sum(1)
    (gradient,) = torch.autograd.grad((log_q.detach().exp() * values).sum(), student)
    torch.testing.assert_close(gradient, wanted)


def test_without_own_text_it_is_the_reverse_divergence_and_for_equal_networks_nothing():
    student, teacher, written = made()
    assert torch.equal(minillm(student, teacher), kl_reverse(student, teacher))
    values = minillm(student, student.detach(), MASK, written, DOCUMENTS, 0.2)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert not values.any() and not gradient.any()
    shifted = minillm(student + 3.0, teacher - 2.0, MASK, written, DOCUMENTS, 0.2)
    torch.testing.assert_close(shifted, minillm(student, teacher, MASK, written, DOCUMENTS, 0.2))
