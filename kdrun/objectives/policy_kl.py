"""How far a policy has gone from the one that it started as, at the tokens that it wrote."""

import torch

from kdrun.objectives.grpo import chosen

SEMANTICS = 1


def policy_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    sampled_tokens: torch.Tensor,
    sample_weights: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The divergence from the reference policy, estimated at sampled tokens (DeepSeekMath, arXiv 2402.03300, equation 4).

        d = log p_reference - log p,  value = w * (exp(d) - d - 1)

    One value per token that the student wrote, never below 0, whose mean over drawn tokens is KL(student, reference). p and
    p_reference are of softmax(logits / T) at the sampled token; the reference stands where other objectives have a teacher.

    student_logits, teacher_logits: float [..., V]; sampled_tokens: int64 [...]; sample_weights: w, float [...] (see learning.policy).
    Returns [...]; equal logits give 0 and no gradient.
    """
    d = chosen(teacher_logits, sampled_tokens, temperature) - chosen(student_logits, sampled_tokens, temperature)
    return sample_weights * (torch.exp(d) - d - 1)


policy_kl.pointwise = True  # see objective_term.Term
