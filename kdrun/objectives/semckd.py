"""Semantic calibration: which of the teacher's layers each of the student's learns from, by attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.objectives.features import ANY_SIZE, NORMS, as_map, convolution, directions, maps, products, unit, wide
from kdrun.objectives.ranks import whole_batch

SEMANTICS = 1


class Semckd(nn.Module):
    """Cross-layer distillation with semantic calibration of Chen et al. 2021 (arXiv 2012.03236), equations 3 to 7.

        query of a student's layer, key of a teacher's: an embedding of each sample's products with all samples of the batch
        share[l, k] = softmax over teacher layers k of query_l . key_k / softness
        value = mean over student layers l of sum_k share[l, k] * mse(projection_lk(s_l), t_k)

    As in the paper's code: two linear layers to a quarter of the batch size, then length 1; projections of convolutions 1x1, 3x3, 1x1 with
    batch normalisation, for every pair of layers. All are trained along. The embeddings are as wide as the batch: a
    sample's products come in the order of the batch; those that a smaller last batch lacks are 0 (the code leaves that batch out). Over the
    whole batch: products are with the samples of all ranks, and `trainer.accumulate` is refused; batch normalisation is of each rank.

    student_captured, teacher_captured: lists of float [B, C, ...], of any numbers of layers. Of two grids the larger one is averaged over
    the smaller one. The code's weight of 400 is for its learning rate of 0.05 and batches of 64 (trainer=cifar100); at the default rate of
    0.1 training diverges in small networks. softness: of the softmax. Returns [B]. Equal features do not give 0, since the projections are trained.
    """

    settings = ANY_SIZE
    batch_norm = True
    whole_batch = True

    def __init__(
        self,
        student_shapes: list[tuple[int, ...]],
        teacher_shapes: list[tuple[int, ...]],
        batch_size: int,
        softness: float = 1.0,
    ):
        super().__init__()
        self.batch_size, self.softness = batch_size, softness
        narrow = max(batch_size // 4, 1)
        self.queries = nn.ModuleList(_embedding(batch_size, narrow) for _ in student_shapes)
        self.keys = nn.ModuleList(_embedding(batch_size, narrow) for _ in teacher_shapes)
        self.projections = nn.ModuleList(
            nn.ModuleList(_projection(directions(theirs), ours[0], theirs[0]) for theirs in teacher_shapes)
            for ours in student_shapes
        )

    def forward(self, student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
        teacher_captured = [wide(student_captured[0], features)[1] for features in teacher_captured]
        queries = [unit(layer(self.similarities(x))) for layer, x in zip(self.queries, student_captured, strict=True)]
        keys = [unit(layer(self.similarities(x))) for layer, x in zip(self.keys, teacher_captured, strict=True)]
        shares = functional.softmax(products(torch.stack(queries, 1), torch.stack(keys, 1)) / self.softness, -1)
        apart = []
        for projections, ours in zip(self.projections, student_captured, strict=True):
            for projection, theirs in zip(projections, teacher_captured, strict=True):
                student, teacher = maps(as_map(ours), as_map(theirs))
                apart.append((projection(student) - teacher).square().flatten(1).mean(1))
        return (shares.flatten(1) * torch.stack(apart, 1)).sum(1) / len(student_captured)

    def similarities(self, features: Tensor) -> Tensor:
        """[rows of this rank, batch size]: products of features with those of the whole batch, and zeros where it is smaller."""
        everything, own = whole_batch(wide(features, features)[0].flatten(1))
        found = products(everything[own], everything)[:, : self.batch_size]
        return functional.pad(found, (0, self.batch_size - found.shape[1]))


def _embedding(ours: int, theirs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(ours, 2 * theirs), nn.ReLU(), nn.Linear(2 * theirs, theirs))


def _projection(dimensions: int, ours: int, theirs: int) -> nn.Sequential:
    norm, inner = NORMS[dimensions], 2 * theirs
    return nn.Sequential(
        convolution(dimensions, ours, inner), norm(inner), nn.ReLU(),
        convolution(dimensions, inner, inner, 3), norm(inner), nn.ReLU(),
        convolution(dimensions, inner, theirs),
    )  # fmt: skip
