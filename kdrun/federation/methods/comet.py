"""Clients are drawn to the mean predictions of their cluster on public samples: COMET."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.federation.methods.clusters import Clusters
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class Comet(Clusters):
    """Cho et al. 2023 (arXiv 2204.10965, IEEE JSTSP 17): without a network of the server, clients minimise
    weight ||f(x) - p||^2 on public samples, with class probabilities f(x) and the mean p of their cluster, by k-means.

    The paper has the loss of labels and this one in the same step; here they are two passes, as in the other methods. Its number of
    clusters is told beforehand; here it is that of the largest silhouette.
    """

    @property
    def digest(self):
        both = ("student_logits", "teacher_logits")
        return Objective((Term("digest", float(self.options.weight), squared, both),))


def squared(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """[B]: the squared distance of class probabilities, of logits [B, C] each."""
    return (torch.softmax(student_logits, -1) - torch.softmax(teacher_logits, -1)).square().sum(-1)
