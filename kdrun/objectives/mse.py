"""Squared error to the target: the supervised term of a regression."""

import torch

SEMANTICS = 1


def mse(student_outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error of one real output per position, in squared deviations of the target where that is standardised.

        value = (s - y)^2

    The mean over positions is the mean squared error.

    student_outputs: float [..., 1], any float type, computed in float32 or wider. targets: float [...].
    Returns [...]. Raises ValueError where the shapes disagree.
    """
    if student_outputs.shape != (*targets.shape, 1):
        raise ValueError(
            f"student_outputs {tuple(student_outputs.shape)} and targets {tuple(targets.shape)} disagree: "
            "targets hold one number per position"
        )
    wide = torch.promote_types(torch.promote_types(student_outputs.dtype, targets.dtype), torch.float32)
    return (student_outputs.squeeze(-1).to(wide) - targets.to(wide)).square()


mse.pointwise = True  # see objective_term.Term
