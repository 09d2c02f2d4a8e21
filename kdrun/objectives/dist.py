"""Relations instead of values: probabilities of student and teacher should correlate, over classes and over the samples of a batch."""

import torch

from kdrun.objectives.probabilities import check_temperature
from kdrun.objectives.ranks import whole_batch
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1
EPSILON = 1e-8
"""Added by the paper's code to the product of the lengths, by which it divides."""


def dist(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Distillation from a stronger teacher (Huang et al. 2022, arXiv 2205.10536), section 3.

        q, p: softmax of logits / T, rows of the n samples of a batch;  r(a, b) = a'.b' / (|a'| |b'| + 1e-8), a' = a - mean(a)
        inter-class relation of sample i:  1 - r(q_i, p_i), over classes
        intra-class relation:              mean over classes c of 1 - r(q_.c, p_.c), over the samples
        value of sample i = T^2 * (beta * inter-class relation + gamma * intra-class relation)

    Without a unit, in 0..2 * T^2 * (beta + gamma). The factor T^2 and the 1e-8 are those of the code. The latter keeps the value at
    equality of both networks a little above 0: by 1e-8 over the variance of the probabilities times their number. Over the whole
    batch: the intra-class relation is over the samples (or valid positions) of all ranks, and `trainer.accumulate` is refused. The
    teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider.
    beta, gamma: factors of the two. temperature: T > 0. The code's defaults for ImageNet (with a weight of 2 beside `ce` of weight
        1); for CIFAR-100 it has T = 4.
    Returns [...]. Raises ValueError where the shapes disagree or T is not a positive number.
    """
    check_temperature(temperature)
    student, teacher = wide_pair(student_logits, teacher_logits, "logits")
    q, p = ((logits / temperature).softmax(-1).flatten(0, -2) for logits in (student, teacher))
    inter = 1 - correlation(q, p)
    (all_q, _), (all_p, _) = whole_batch(q), whole_batch(p)
    intra = (1 - correlation(all_q.T, all_p.T)).mean()
    return (temperature**2 * (beta * inter + gamma * intra)).view(student.shape[:-1])


dist.pointwise = True  # see objective_term.Term
dist.zero_at_equality = False
dist.whole_batch = True


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[n]: Pearson's coefficient of the rows of two matrices [n, m], a little less by EPSILON."""
    first, second = (rows - rows.mean(1, keepdim=True) for rows in (first, second))
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1) + EPSILON)
