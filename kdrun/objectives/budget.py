"""The expected cost of a nested student, as a share of what its budget allows (networks.elastic)."""

import torch
from torch import Tensor

SEMANTICS = 1


def budget(
    student_logits: Tensor, student_captured: list[Tensor], *, margin: float = 0.05, largest: float = 10.0
) -> Tensor:
    """Router loss of Star Elastic (arXiv 2605.07182, with the authors' code in Megatron-LM).

        value = |C(pi) / (b C) - 1|                              for a budget b below 1, 0 where that is below `margin`
        value = |C(pi) / C - 1| + largest * mean((pi - e)^2)     for b = 1, e the one-hot of the largest widths

    student_logits: float [..., C], for the positions alone. student_captured: what a network `told` of its forward pass, [3]: C(pi) / C with
        C(pi) the expected cost under the router's probabilities pi and C that of the whole network; b; the mean of (pi - e)^2.
    margin: share of a budget by which its student may miss it. largest: weight of the second part; the authors add it up over axes, here it is a mean.
    Returns [...], the same value at all positions.
    """
    share, allowed, distance = student_captured[0]
    missed = (share / allowed - 1).abs()
    whole = allowed >= 1
    value = torch.where(whole, missed + largest * distance, missed * (missed > margin))
    return value.expand(student_logits.shape[:-1])


budget.settings = {"student": "told"}
budget.starts_at_zero = True  # where the router begins at its budget
