"""Policy gradient on texts that the student wrote, by their rewards within a group: the clipped objective of GRPO."""

import torch

SEMANTICS = 1


def grpo(
    student_logits: torch.Tensor,
    sampled_tokens: torch.Tensor,
    advantages: torch.Tensor,
    sample_weights: torch.Tensor,
    sampled_log_probs: torch.Tensor | None = None,
    *,
    clip: float = 0.2,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300, equation 3, without its divergence, which is `policy_kl`).

        p = softmax(student_logits / T)[sampled token],  r = p / p_old
        value = -w * min(r * A, clip(r, 1 - c, 1 + c) * A)

    One value per token that the student wrote. A is the advantage of the token's text: its reward less the mean of its group, over
    the deviation in the group. p_old is the probability that the token was drawn with; in the first step on a text it is p, so that
    the value is -w * A and the gradient that of the policy gradient.

    student_logits: float [..., V], computed in float32 or wider; sampled_tokens: int64 [...]; advantages, sample_weights (w, see
        learning.policy): float [...]; sampled_log_probs: log p_old, float [...], None where it is p.
    clip: c, of how far the ratio counts. temperature: T at which tokens were drawn.
    Returns [...]. An advantage of 0 gives 0 and no gradient.
    """
    log_probs = chosen(student_logits, sampled_tokens, temperature)
    old = log_probs.detach() if sampled_log_probs is None else sampled_log_probs
    ratio = torch.exp(log_probs - old)
    return -sample_weights * torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def chosen(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """log softmax(logits / temperature) of these tokens, [...]."""
    return torch.log_softmax(logits / temperature, -1).gather(-1, tokens[..., None])[..., 0]


grpo.pointwise = True  # see objective_term.Term
grpo.over = "rewarded"
