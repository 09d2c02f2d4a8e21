"""Hard distillation: the class that the teacher finds likeliest as a label."""

import torch

from kdrun.objectives.ce import ce
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def hard(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Hard-label distillation of DeiT (Touvron et al. 2021, arXiv 2012.12877), equation 3.

        y = argmax_c teacher_logits_c
        value = -log softmax(student_logits)_y

    One value in nats per position; paper and code weigh it 1/2, and `ce` with the labels 1/2. It has no temperature. At equality of
    both networks it is -log of the largest probability; it tends to 0 as the student becomes certain of the teacher's class. Of
    several classes that are as likely the first counts.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider.
    label_smoothing: of the teacher's decision, see `ce`; neither paper nor code has any.
    Returns [...]. Raises ValueError where the shapes disagree or label_smoothing is out of range.
    """
    student, teacher = wide_pair(student_logits, teacher_logits, "logits")
    return ce(student, teacher.argmax(-1), label_smoothing=label_smoothing)


hard.pointwise = True  # see objective_term.Term
hard.zero_at_equality = False
