"""Experts of transformers' networks that are mixtures of them (Mixtral, Qwen3-MoE) as units that can be left out (networks.elastic_decoder)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SEMANTICS = 1


@contextmanager
def masked_gate(gate: nn.Module, mask: Tensor) -> Iterator[None]:
    """Inside, a gate chooses among probabilities p_e m_e / sum p m, p those of all experts: with a mask of zeros and ones the probabilities
    that it has without the others. mask: [experts], at least as many above 0 as a token is sent to."""

    def chosen(gate: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, _ = output
        shares = torch.softmax(logits.float(), -1) * mask
        top, experts = (shares / shares.sum(-1, keepdim=True)).topk(gate.top_k, -1)
        if getattr(gate, "norm_topk_prob", True):
            top = top / top.sum(-1, keepdim=True)
        return logits, top.to(weights.dtype), experts

    handle = gate.register_forward_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


def importance_hook(add: Callable[[Tensor, Tensor], None]) -> Callable[[nn.Module, tuple], None]:
    """A hook before experts: add(sums, counts), float64 [experts]: of g_e(x) |f_e(x)|_2 over the tokens x that are sent to e, f_e its output and
    g_e its weight, and how many these are. Sums over counts are the importance of REAP (arXiv 2510.13999)."""

    @torch.no_grad()
    def before(experts: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        states, sent, weights = inputs
        sums = torch.zeros(experts.num_experts, dtype=torch.float64)
        counts = sums.clone()
        for expert in range(experts.num_experts):
            tokens, places = torch.where(sent == expert)
            if len(tokens):
                alone = torch.full_like(tokens, expert)[:, None]
                given = experts.forward(states[tokens], alone, weights[tokens, places, None])
                sums[expert], counts[expert] = float(given.double().norm(dim=-1).sum()), len(tokens)
        add(sums, counts)

    return before


def resized(block: nn.Module) -> None:
    """What gate and experts say of their own sizes, from their parameters."""
    for module, weight in ((block.gate, block.gate.weight), (block.experts, block.experts.gate_up_proj)):
        module.num_experts, module.hidden_dim = weight.shape[0], weight.shape[-1]
