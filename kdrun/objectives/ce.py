"""Cross-entropy with the labels: the supervised term."""

import torch
from torch.nn import functional

from kdrun.objectives.chunked import ce_chunked

SEMANTICS = 1

# torch skips targets equal to `ignore_index` in silence, by default -100. Positions are left out through the
# mask here, so the index is set to one no data set has and a stray negative label is an error again.
_NO_LABEL = -(2**40)


def ce(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    mixed_targets: torch.Tensor | None = None,
    mixed_share: torch.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy between the (smoothed) one-hot label and the student, one value in nats per position.

        value = -sum_c q_c * log softmax(student_logits)_c,    q = (1 - s) * onehot(target) + s / C

    Its minimum is the entropy of q: 0 without smoothing s, so it is not 0 at equality of two networks.

    student_logits: float [..., C], any float type, computed in float32 or wider.
    targets: int64 [...], class indices in 0..C-1.
    mixed_targets, mixed_share: of samples that are mixed with others, the labels of those, int64 [...], and the share m of the samples
    themselves, float [...]: the value is m times that of `targets` plus 1 - m times that of `mixed_targets` (arXiv 1710.09412).
    label_smoothing: s in 0..1 (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    Returns [...]. Raises ValueError where the shapes disagree or s is out of range.
    """
    if mixed_targets is not None and mixed_share is not None:
        own, other = (
            ce(student_logits, labels, label_smoothing=label_smoothing) for labels in (targets, mixed_targets)
        )
        return mixed_share * own + (1 - mixed_share) * other
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must lie in 0..1, got {label_smoothing}")
    if student_logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and targets {tuple(targets.shape)} disagree: "
            "targets hold one class index per position"
        )
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    logits, labels = student_logits.to(wide), targets
    if targets.dim() != 1:
        logits, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    values = functional.cross_entropy(
        logits,
        labels,
        reduction="none",
        ignore_index=_NO_LABEL,
        label_smoothing=label_smoothing,
    )
    return values if targets.dim() == 1 else values.view(targets.shape)


ce.pointwise = True  # see objective_term.Term
ce.executions = {"chunked": ce_chunked}
