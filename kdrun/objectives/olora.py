"""Orthogonal low-rank additions: what a new task adds to weights stays out of the directions of earlier ones."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.networks.low_rank import LowRank
from kdrun.problems import UserError

SEMANTICS = 1


class Olora(nn.Module):
    """The penalty of O-LoRA (Wang et al. 2023, arXiv 2310.14152), of all layers together; that overlaps are squared is inferred.

        value = sum over layers, sum over earlier tasks i of sum_jk (A_i A_t^T)_jk^2

    A_i [r, n]: of the addition B_i A_i of an earlier task, frozen; A_t: of the one that trains. Every position of a batch is given this one number,
    so that its mean is the penalty itself, however a batch is divided.

    student_logits: [..., C], for the positions alone. Returns [...]; 0 where there is no earlier task.
    network: of the student, a networks.low_rank.LowRank. Raises UserError for another.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        if not isinstance(network, LowRank):
            raise UserError(
                f"objective.olora: {type(network).__name__} has no additions of low rank",
                "strategy=continual strategy.method=olora gives it some",
            )
        self._additions = tuple(network.additions)  # a tuple hides them from nn.Module: they are the student's

    def forward(self, student_logits: Tensor) -> Tensor:
        total = student_logits.new_zeros(())
        for addition in self._additions:
            *earlier, new = addition.a
            for old in earlier:
                total = total + (old.float() @ new.float().T).square().sum()
        return total.expand(student_logits.shape[:-1])
