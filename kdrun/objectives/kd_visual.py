"""Soft targets at the image slots: what the language model says where its input is the picture."""

import torch

from kdrun.objectives.kd import kd


def kd_visual(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Visual distillation of LLaVA-KD (arXiv 2410.16236): KL(teacher || student) over the vocabulary at image slots.

    No label exists there; the teacher's distribution carries what it makes of each part of the picture. Values as of
    `kd`, on the positions of `visual_mask`: their mean is over the image slots of the whole effective batch, and a batch
    without pictures has none.

    student_logits, teacher_logits: float [..., V]. temperature: T > 0; the paper has 1.
    Returns [...], in nats; equal logits give exactly 0. Raises ValueError as `kd`.
    """
    return kd(student_logits, teacher_logits, temperature=temperature)


kd_visual.pointwise = True  # see terms.Term
kd_visual.over = "visual_mask"
