"""Activation boundaries: on which side of its threshold each neuron is."""

from torch import Tensor

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1

FACTOR = 3 / 1000
"""Of the published code."""


def ab(student_captured: list[Tensor], teacher_captured: list[Tensor], *, margin: float = 1.0) -> Tensor:
    """Activation boundaries of Heo et al. 2019 (arXiv 1811.03233), equation 5, for responses before their ReLU.

        per neuron:  (s + m)^2 where t <= 0 and s > -m;  (s - m)^2 where t > 0 and s <= m;  else 0
        value = 3/1000 * sum over layers l = 1..n of 2^(l - n) * sum over the neurons of a layer

    The weights of layers and the factor are those of the code (RepDistiller's as well); the paper has neither. The adaptor of each pair is
    the paper's connector; the code's ends with batch normalisation. The paper trains in two stages: this term alone, then the
    labels alone. objective=ab does so by the weights. `before:PATH` captures what goes into the activation that a module ends with.

    student_captured, teacher_captured: lists of float [B, ...], from the first layer to the last, computed in float32 or wider.
    Returns [B]; it is 0 where all neurons are on the teacher's side by the margin m, not at equality.
    Raises ValueError where shapes disagree.
    """
    values, layers = [], len(student_captured)
    for number, pair in enumerate(zip(student_captured, teacher_captured, strict=True)):
        student, teacher = wide_pair(*pair, "features")
        off = (student + margin).square() * ((student > -margin) & (teacher <= 0))
        on = (student - margin).square() * ((student <= margin) & (teacher > 0))
        values.append((off + on).flatten(1).sum(1) * 2.0 ** (number + 1 - layers))
    return FACTOR * sum(values)
