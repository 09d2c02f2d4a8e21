"""Correlation congruence: how samples of a batch correlate."""

import math

import torch

from kdrun.objectives.features import ANY_SIZE, products, unit, wide
from kdrun.objectives.ranks import whole_batch

SEMANTICS = 1

KERNELS = ("gaussian", "adjacent")


def cc(
    student_features: torch.Tensor,
    teacher_features: torch.Tensor,
    *,
    kernel: str = "gaussian",
    gamma: float = 0.4,
    order: int = 2,
) -> torch.Tensor:
    """Correlation congruence of Peng et al. 2019 (arXiv 1904.01802), equation 6 with the kernel of equations 9 and 10.

        gaussian:  C[i, j] = exp(-2 g) * sum_{p=0..P} (2 g)^p / p! * cos(f_i, f_j)^p
                   value of sample i = mean_j (C_student[i, j] - C_teacher[i, j])^2
        adjacent:  value of sample i = sum_d |s_i - t_i|_d * |s_{i+1} - t_{i+1}|_d * b / (b - 1), 0 for the last sample

    whose mean over the batch of b samples is the paper's |C_student - C_teacher|^2 / b^2. `adjacent` is no correlation and depends on
    the order of the batch: it is what the code that the paper's authors gave to others computes (RepDistiller, weight 0.02, on linear
    embeddings), and is here to compare with numbers made with it. The paper's equation is the default. The sum over pairs of
    layers. Over the whole batch: the samples of all ranks are compared, and `trainer.accumulate` is refused.

    student_features, teacher_features: float [B, ...], flattened, computed in float32 or wider; sizes may differ but for `adjacent`.
    gamma, order: g and P. Returns [B]; equal features give exactly 0, and so do features that are scaled or rotated (gaussian).
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    student, teacher = (x.flatten(1) for x in wide(student_features, teacher_features))
    (student, own), (teacher, _) = whole_batch(student), whole_batch(teacher)
    if kernel == "adjacent":
        return _adjacent(student, teacher)[own]
    ours, theirs = (_correlations(unit(x), own, gamma, order) for x in (student, teacher))
    return (ours - theirs).square().mean(1)


cc.settings = ANY_SIZE
cc.pairs = "sum"
cc.whole_batch = True


def _correlations(directions: torch.Tensor, own: slice, gamma: float, order: int) -> torch.Tensor:
    cosines = products(directions[own], directions)
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    return sum(factor * cosines.pow(p) for p, factor in enumerate(factors))


def _adjacent(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    if student.shape != teacher.shape:
        raise ValueError(
            f"kernel=adjacent compares student_features {tuple(student.shape)} and teacher_features {tuple(teacher.shape)} "
            "element by element: give adaptor=linear"
        )
    apart, samples = (student - teacher).abs(), len(student)
    values = (apart[:-1] * apart[1:]).sum(1) * (samples / max(samples - 1, 1))
    return torch.cat([values, values.new_zeros(1)])
