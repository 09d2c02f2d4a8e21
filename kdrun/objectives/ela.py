"""Error-aware logit alignment: a step that names the wrong class leaves the two classes in question to the labels."""

import torch

from kdrun.objectives.divergences import of_logits
from kdrun.objectives.wide import widened

SEMANTICS = 1


def ela(
    student_steps: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 3.0,
    shrink: bool = True,
) -> torch.Tensor:
    """Error-aware logit alignment of SeAl-KD (arXiv 2605.14252), as its code has it, with c_t = argmax z_t:

        c_t = y:   s = z_t,  u = a                                              (plain distillation)
        c_t != y:  s = z_t with s[c_t] := z_t[y];  u = a with u[y] := u[c_t] := min(a[y], a[c_t])
        value = (1 / T) * sum_t tau^2 * KL(softmax(u / tau) || softmax(s / tau))

    So the pair of classes that a wrong step confuses is equal on both sides, and cross-entropy alone decides between them. The gradient
    of the copied entry goes to z_t[y]; z_t[c_t] has none from this term.

    student_steps: float [B, T, C], logits of each step. teacher_logits: float [B, C], a constant. targets: int64 [B].
    temperature: tau > 0. shrink: whether the teacher's pair is made equal as well; false is an ablation.
    Returns [B] in nats. Raises ValueError where the classes disagree.
    """
    steps = widened(student_steps)
    teacher = teacher_logits.detach()[:, None].expand(-1, steps.shape[1], -1)
    labels = targets[:, None, None].expand(*steps.shape[:2], 1)
    named = steps.detach().argmax(-1, keepdim=True)
    student = steps.scatter(-1, named, steps.gather(-1, labels))  # where the step is right it is copied onto itself
    if shrink:
        smaller = torch.minimum(teacher.gather(-1, labels), teacher.gather(-1, named))
        teacher = teacher.scatter(-1, labels, smaller).scatter(-1, named, smaller)
    return of_logits(student, teacher, "forward", temperature).mean(1)


def corrected(student_steps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of the steps of each sample that name another class than the label, [B]: those that `ela` corrects."""
    return (student_steps.argmax(-1) != targets[:, None]).float().mean(1)


ela.zero_at_equality = False  # steps of one network differ from their mean
ela.figures = {"corrected": corrected}
