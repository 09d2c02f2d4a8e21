"""Knowledge review: layers of the student, fused from the last to the first, learn the teacher's of all levels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.objectives.features import ANY_SIZE, NORMS, as_map, convolution, directions, pooled, wide

SEMANTICS = 1

PYRAMID = (4, 2, 1)
LARGEST_WIDTH = 512


class Reviewkd(nn.Module):
    """Knowledge review of Chen et al. 2021 (arXiv 2104.09044), equation 8: attention-based fusion and hierarchical context loss.

        x_l = conv1(s_l), fused with the enlarged x_{l+1} by two attention maps;  y_l = conv2(x_l)
        value = sum over layers of (mse(y_l, t_l) + sum_k 2^-k mse(y_l, t_l pooled to n_k x n_k)) / (1 + sum_k 2^-k)

    n = 4, 2, 1, of which those below the size of the grid are taken, k counts them. As in the paper's code: convolutions with batch
    normalisation, as wide in the middle as the student's last layer (512 at most), enlarging by the nearest neighbour. The weight grows from 0 over
    20 epochs there. The student's layers are brought to the teacher's grids, so that layers may differ in width and size. The
    teacher's are taken before the ReLU in the code: `before:PATH` captures them.

    student_captured, teacher_captured: lists of float [B, C, ...] or [B, C], from the first layer to the last, which is the mean over
    positions as a rule. Returns [B]. The fusion is trained along, so equal features do not give 0.
    """

    settings = ANY_SIZE
    batch_norm = True

    def __init__(self, student_shapes: list[tuple[int, ...]], teacher_shapes: list[tuple[int, ...]]):
        super().__init__()
        dimensions = max(map(directions, student_shapes))
        width = min(LARGEST_WIDTH, student_shapes[-1][0])
        last = len(student_shapes) - 1
        self.fusions = nn.ModuleList(
            Fusion(dimensions, ours[0], width, theirs[0], number < last)
            for number, (ours, theirs) in enumerate(zip(student_shapes, teacher_shapes, strict=True))
        )
        self.dimensions = dimensions

    def forward(self, student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
        values, fused = [], None
        for fusion, ours, theirs in list(zip(self.fusions, student_captured, teacher_captured, strict=True))[::-1]:
            student, teacher = wide(*(self.as_grid(features) for features in (ours, theirs)))
            made, fused = fusion(student, fused, teacher.shape[2:])
            values.append(hierarchical_context(made, teacher))
        return sum(values)

    def as_grid(self, features: Tensor) -> Tensor:
        """Vectors as maps of one position, in as many directions as the other layers have."""
        features = as_map(features)
        return features.view(*features.shape, *(1,) * (self.dimensions + 2 - features.dim()))


class Fusion(nn.Module):
    """A layer of the student with what was fused of the layers behind it."""

    def __init__(self, dimensions: int, ours: int, width: int, theirs: int, fuses: bool):
        super().__init__()
        norm = NORMS[dimensions]
        self.inwards = nn.Sequential(convolution(dimensions, ours, width), norm(width))
        self.outwards = nn.Sequential(convolution(dimensions, width, theirs, 3), norm(theirs))
        self.attention = convolution(dimensions, 2 * width, 2, bias=True) if fuses else None
        for layer in (self.inwards[0], self.outwards[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, features: Tensor, behind: Tensor | None, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(features on the teacher's grid and as wide, what the layer before fuses with)."""
        features = self.inwards(features)
        if self.attention is not None:
            behind = functional.interpolate(behind, features.shape[2:], mode="nearest")
            shares = torch.sigmoid(self.attention(torch.cat([features, behind], 1)))
            features = features * shares[:, :1] + behind * shares[:, 1:]
        if features.shape[2:] != size:
            features = functional.interpolate(features, size, mode="nearest")
        return self.outwards(features), features


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """[B]: weighted mean of the squared distances of maps [B, C, ...] on grids of several sizes."""
    value, share, total = (student - teacher).square().flatten(1).mean(1), 1.0, 1.0
    for side in PYRAMID:
        if side >= student.shape[2]:
            continue
        size = (side,) * (student.dim() - 2)
        share /= 2
        value = value + share * (pooled(student, size) - pooled(teacher, size)).square().flatten(1).mean(1)
        total += share
    return value / total
