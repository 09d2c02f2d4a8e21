"""Hidden states of a transformer's layers."""

import torch

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def hidden_states(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Hidden states of TinyBERT (Jiao et al. 2020, arXiv 1909.10351), equations 8 and 9.

        value = mean over the numbers of a state of (s W - t)^2

    per position, or the mean over positions where the task has one output for a sample. The sum over layers and, where it is captured, the
    embedding. W is the adaptor of the pair, a linear layer where widths differ (one for each layer; the paper's code shares one), and is
    trained along. The map of layers is what `student` and `teacher` name: `vit.layers.*` and `vit.layers.[2::3]` let each of four layers learn
    from every third of twelve, from the third on, as in the paper.

    student_features, teacher_features: float [B, L, D], or [N, D] of single positions, computed in float32 or wider.
    Returns [B] or [N]; equal states give exactly 0. Raises ValueError where the shapes disagree.
    """
    student, teacher = wide_pair(student_features, teacher_features, "features")
    return (student - teacher).square().flatten(1).mean(1)


hidden_states.pointwise = True  # see objective_term.Term
hidden_states.pairs = "sum"
