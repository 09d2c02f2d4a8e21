"""Variational information distillation: how well the student's features foretell the teacher's, with a learned variance."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kdrun.objectives.features import ANY_SIZE, as_map, convolution, directions, maps

SEMANTICS = 1


class Vid(nn.Module):
    """Variational information distillation of Ahn et al. 2019 (arXiv 1904.05835), equations 5 and 6: the negative log-likelihood of the
    teacher's features t under normal distributions.

        variance_c = softplus(a_c) + epsilon,  a learned
        value = mean over channels and positions of ((mu(s) - t)^2 / variance_c + log(variance_c)) / 2

    The sum over pairs of layers. mu is three convolutions of kernel 1 without bias and with ReLU between them, as wide as the teacher, as
    in RepDistiller and mdistiller (the paper has batch normalisation between them); both are trained along. mdistiller leaves the variances
    out of its optimizer, which keeps them at 5; here they learn, as in the paper. The constant log(2 pi) / 2 is left out. The value
    is not 0 for a student that foretells everything: then it is mean log(variance) / 2, down to log(epsilon) / 2.

    student_captured, teacher_captured: lists of float [B, C, ...] or [B, C]; the larger grid is averaged over the smaller one.
    initial_variance: of all channels. Returns [B].
    """

    settings = ANY_SIZE

    def __init__(
        self,
        student_shapes: list[tuple[int, ...]],
        teacher_shapes: list[tuple[int, ...]],
        initial_variance: float = 5.0,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        if not initial_variance > epsilon > 0:
            raise ValueError(f"initial_variance={initial_variance} must be above epsilon={epsilon}, and that above 0")
        self.epsilon = epsilon
        pairs = list(zip(student_shapes, teacher_shapes, strict=True))
        self.means = nn.ModuleList(_mean(directions(theirs), ours[0], theirs[0]) for ours, theirs in pairs)
        start = math.log(math.expm1(initial_variance - epsilon))
        self.variances = nn.ParameterList(torch.full((theirs[0],), start) for _, theirs in pairs)

    def forward(self, student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
        values = []
        for ours, theirs, mean, raw in zip(student_captured, teacher_captured, self.means, self.variances, strict=True):
            student, teacher = maps(as_map(ours), as_map(theirs))
            variance = (softplus(raw) + self.epsilon).view(-1, *(1,) * (student.dim() - 2))
            surprise = (mean(student) - teacher).square() / variance + variance.log()
            values.append(surprise.flatten(1).mean(1) / 2)
        return sum(values)


def _mean(dimensions: int, ours: int, theirs: int) -> nn.Sequential:
    first, *further = (convolution(dimensions, width, theirs) for width in (ours, theirs, theirs))
    return nn.Sequential(first, nn.ReLU(), further[0], nn.ReLU(), further[1])
