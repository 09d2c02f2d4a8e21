"""A metric of pitches."""

import torch
from torchmetrics import Metric


class WithinSteps(Metric):
    """Share of tones whose pitch is missed by at most `steps` half tones; update(logits [N, C], targets [N])."""

    higher_is_better = True

    def __init__(self, steps: int = 1):
        super().__init__()
        self.steps = steps
        self.add_state("near", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("seen", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits, targets):
        self.near += ((logits.argmax(1) - targets).abs() <= self.steps).sum()
        self.seen += len(targets)

    def compute(self):
        return self.near / self.seen
