"""Factor transfer: what the teacher's features are paraphrased to, translated from the student's."""

from itertools import pairwise

from torch import Tensor, nn

from kdrun.objectives.features import ANY_SIZE, CONVOLUTIONS, NORMS, as_map, directions, maps, unit

SEMANTICS = 1

SLOPE = 0.1
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Ft(nn.Module):
    """Factor transfer of Kim, Park and Kwak 2018 (arXiv 1802.04977), equations 1 to 3.

        F_t: the teacher's factor, by a paraphraser that reconstructs t from it;  F_s: the student's, by a translator
        value = mean |F_s / |F_s| - F_t / |F_t|| + reconstruction * mean (reconstructed t - t)^2

    The gradient of the first part goes to the student and the translator, that of the second to the paraphraser alone, whose factor
    `reconstruction` makes its weight 1 where the term has 500, that of the paper's code. The paper trains the paraphraser first, for 30
    epochs; here both train at once. |.| divides each factor by its length; with `channels: mean_square`, the factor is first reduced to the
    mean over channels of its squares, as RepDistiller does (weight 200), which is not the paper's. Made of 3x3 convolutions, leaky
    ReLUs and, in the translator, batch normalisation, with `rate` times the teacher's channels, as in both codes.

    student_captured, teacher_captured: lists of one float [B, C, ...] each. Returns [B]; the first part is 0 where factors are
    equal up to a factor.
    """

    settings = ANY_SIZE
    batch_norm = True

    def __init__(
        self,
        student_shapes: list[tuple[int, ...]],
        teacher_shapes: list[tuple[int, ...]],
        rate: float = 0.5,
        channels: str = "keep",
        reconstruction: float = 0.002,
    ):
        super().__init__()
        if channels not in ("keep", "mean_square"):
            raise ValueError(f"channels must be keep or mean_square, got {channels!r}")
        if len(teacher_shapes) != 1:
            raise ValueError(f"ft compares one pair of layers, not {len(teacher_shapes)}")
        ours, theirs, dimensions = student_shapes[0][0], teacher_shapes[0][0], directions(teacher_shapes[0])
        factors = int(theirs * rate)
        if not factors >= 1:
            raise ValueError(f"rate={rate} leaves no factor of {theirs} channels")
        self.channels, self.share = channels, reconstruction
        self.translator = _layers(CONVOLUTIONS[dimensions], (ours, ours, factors, factors), NORMS[dimensions])
        self.paraphraser = _layers(CONVOLUTIONS[dimensions], (theirs, theirs, factors, factors))
        self.reconstruction = _layers(TRANSPOSED[dimensions], (factors, factors, theirs, theirs))

    def forward(self, student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
        (student,), (teacher,) = student_captured, teacher_captured
        student, teacher = maps(as_map(student), as_map(teacher))
        factor = self.paraphraser(teacher)
        reconstructed = (self.reconstruction(factor) - teacher).square().flatten(1).mean(1)
        apart = self.reduced(self.translator(student)) - self.reduced(factor.detach())
        return apart.abs().mean(1) + self.share * reconstructed

    def reduced(self, factor: Tensor) -> Tensor:
        """[B, n], of length 1."""
        return unit((factor if self.channels == "keep" else factor.square().mean(1)).flatten(1))


def _layers(make: type[nn.Module], widths: tuple[int, ...], norm: type[nn.Module] | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ours, theirs in pairwise(widths):
        layers += [make(ours, theirs, 3, padding=1), *([norm(theirs)] if norm else []), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
