"""Class attention transfer: where on the map each class is seen."""

from torch import Tensor

from kdrun.objectives.features import ANY_SIZE, pooled, products, unit, wide

SEMANTICS = 1


def catkd(
    student_features: Tensor,
    teacher_features: Tensor,
    student_classifier: tuple,
    teacher_classifier: tuple,
    *,
    resolution: int = 2,
    normalize: bool = True,
) -> Tensor:
    """Class attention transfer of Guo et al. 2023 (Class Attention Transfer Based Knowledge Distillation, CVPR), equations 5 and 6.

        CAM_k = sum_c W[k, c] f_c,  W: weights of the classifier of each network;  averaged on a grid of resolution x resolution
        value = mean over classes and positions of (CAM_student / |CAM_student| - CAM_teacher / |CAM_teacher|)^2

    |.| is over the positions of one class. The paper sums over classes; its code, which is followed with its weight of 400, takes the mean.
    The paper moves the classifier before the mean over positions, which changes no logit, so that the maps here are the same. The gradient
    goes to the student's classifier, too.

    student_features, teacher_features: float [B, C, H, W] of the last layers before the mean over positions. student_classifier,
    teacher_classifier: float [K, C] and [K] or None, with as many classes. normalize: to divide by the lengths. Returns [B]; 0 at equality.
    Raises ValueError for features that are no maps.
    """
    maps = []
    student, teacher = wide(student_features, teacher_features)
    for features, (weight, _) in (
        (student, student_classifier),
        (teacher, [x if x is None else x.detach() for x in teacher_classifier]),
    ):
        if features.dim() < 3 or features.shape[1] != weight.shape[1]:
            raise ValueError(
                f"features {tuple(features.shape)} must be maps [B, C, ...] with the {weight.shape[1]} channels that the classifier reads"
            )
        # The mean over areas and the sum over channels may change places; so fewer positions are multiplied.
        areas = pooled(features, (resolution,) * (features.dim() - 2)).flatten(2)
        attention = products(weight.to(features.dtype), areas.transpose(1, 2))
        maps.append(unit(attention) if normalize else attention)
    return (maps[0] - maps[1]).square().mean((1, 2))


catkd.settings = ANY_SIZE
catkd.pairs = "sum"
