"""Flow of the solution procedure: how features of one layer go with those of the next."""

from itertools import pairwise

from torch import Tensor

from kdrun.objectives.features import maps, products, wide

SEMANTICS = 1


def fsp(student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
    """Flow of solution procedure of Yim et al. 2017 (A Gift from Knowledge Distillation, CVPR), equations 1 and 2.

        G[a, b] = mean over positions of f_a * g_b,  f: channels of one layer, g: of the next one that is captured
        value = sum over pairs of neighbouring layers of mean_ab (G_student[a, b] - G_teacher[a, b])^2

    The paper sums over a and b; RepDistiller, whose weight this is for, takes the mean. Of two layers the larger grid is averaged over the
    smaller one (the paper's has maximum pooling). The matrices have to be of one size: where widths differ, the adaptor of
    each pair maps the student's channels to the teacher's; grids of the two networks may differ. The paper trains in two stages: this
    term alone, then the labels alone. objective=fsp does so by the weights.

    student_captured, teacher_captured: lists of two or more float [B, C, ...], computed in float32 or wider.
    Returns [B]; equal features give exactly 0. Raises ValueError for fewer layers, or widths that differ.
    """
    if len(student_captured) < 2:
        raise ValueError(f"fsp compares neighbouring layers: capture two or more, not {len(student_captured)}")
    values = []
    for ours, theirs in zip(_flows(student_captured), _flows(teacher_captured), strict=True):
        if ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"matrices of the student {tuple(ours.shape[1:])} and of the teacher {tuple(theirs.shape[1:])} disagree: give "
                "adaptor=auto"
            )
        student, teacher = wide(ours, theirs)
        values.append((student - teacher).square().mean((1, 2)))
    return sum(values)


fsp.settings = {"resize": "none"}


def _flows(layers: list[Tensor]) -> list[Tensor]:
    """[B, C of a layer, C of the next one] each."""
    return [_flow(*pair) for pair in pairwise(layers)]


def _flow(first: Tensor, second: Tensor) -> Tensor:
    first, second = (x.flatten(2) for x in maps(first, second, constant=False))
    return products(first, second) / first.shape[2]
