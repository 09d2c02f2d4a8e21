"""Only labels of public samples travel, and the majority is what all learn from: FedCT."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdrun.federation.client import Client
from kdrun.federation.messages import Arrays, Broadcast, Expected, Update, refusal
from kdrun.federation.methods.digest import Digest
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError

SEMANTICS = 1

LABELS = "labels"


class FedCT(Digest):
    """Abourayya et al. 2023 (arXiv 2310.05696), federated co-training: clients name a class for each public sample, the server takes
    the class that most of them named (of several the first), and clients learn from it as from a label.

    The paper adds the public samples to a client's own; here they are a pass before those, as in the other methods.
    """

    @property
    def digest(self) -> Objective:
        return Objective((Term("digest", 1.0, hard, ("student_logits", "teacher_logits")),))

    def suits(self, regression: bool, width: int | None = None) -> None:
        if regression:
            raise UserError("fedct: clients vote for classes; targets are numbers here")

    def initial(self, resources):
        self.width = resources.width
        return {}

    def expected(self, arrays: Arrays, resources) -> Expected:
        return {LABELS: ((len(resources.public),), np.dtype(np.int16))}

    def refusal(self, update: Update, expected: Expected) -> str | None:
        if reason := refusal(update, expected):
            return reason
        labels = update.arrays[LABELS]
        return None if ((labels >= 0) & (labels < self.width)).all() else "its labels are of no class"

    def combine(self, arrays, updates, how, trim, round, resources):
        votes = np.stack([updates[client].arrays[LABELS] for client in sorted(updates)]).astype(np.int64)
        counts = np.stack([(votes == label).sum(axis=0) for label in range(resources.width)])
        return {LABELS: counts.argmax(axis=0).astype(np.int16)}

    def target(self, client: Client, broadcast: Broadcast):
        if LABELS not in broadcast.arrays:
            return None
        labels = torch.from_numpy(np.array(broadcast.arrays[LABELS], np.int64))
        return functional.one_hot(labels, len(client.loop.task.spec.classes)).float().log()

    def answer(self, client: Client):
        named = client.loop.table("private", client.private, client.public).argmax(-1)
        return {LABELS: named.cpu().numpy().astype(np.int16)}


def hard(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """[B]: cross-entropy of logits [B, C] with the class of the largest of the teacher's."""
    return functional.cross_entropy(student_logits, teacher_logits.argmax(-1), reduction="none")
