"""Contrastive representation distillation: a sample's features are nearer to the teacher's of the same sample than to those of others."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from kdrun.objectives.features import ANY_SIZE, products, unit, wide
from kdrun.objectives.ranks import of_all_ranks
from kdrun.objectives.sample_memory import RowMemory

SEMANTICS = 1

EPSILON = 1e-7
"""Of the published code."""
UNKNOWN = -1.0


class Crd(nn.Module):
    """Contrastive representation distillation of Tian, Krishnan and Isola 2020 (arXiv 1910.10699), equations 17 and 18 with its memory.

        P(v, w) = exp(v . w / temperature) / Z,  v: embedding of one network, w: a remembered one of the other
        h(P) = P / (P + K/N + e),  N samples, K of them as negatives
        value = sum over both networks of -log h(P of the sample itself) - sum_k log((K/N) / (P of negative k + K/N + e))

    Embeddings are linear layers to `width` numbers, divided by their length; both are trained. Each sample has one row for each
    network, at first drawn uniformly, then momentum * row + (1 - momentum) * embedding, of length 1, after each step. Z is N times the
    mean of the exponential over the first batch. Negatives are drawn with replacement from samples of other classes, as far as their labels
    have been seen (the paper's code knows all labels from the start, and draws without replacement where it can); without labels,
    from all other samples. They are functions of the run's seed, the step and the sample, so that ranks and a resume draw
    the same. Over the whole batch: rows of all ranks are written together, and `trainer.accumulate` is refused.

    student_captured, teacher_captured: lists of one float [B, ...] each, flattened. ids: int64 [B] of samples; targets: int64 [B], classes.
    Returns [B]. It is not 0 at equality: the embeddings are of different layers.
    """

    settings = ANY_SIZE
    whole_batch = True

    def __init__(
        self,
        sample_ids: Tensor,
        student_shapes: list[tuple[int, ...]],
        teacher_shapes: list[tuple[int, ...]],
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ):
        super().__init__()
        if len(teacher_shapes) != 1:
            raise ValueError(f"crd compares one pair of layers, not {len(teacher_shapes)}")
        if negatives < 1 or not temperature > 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"negatives={negatives}, temperature={temperature}, momentum={momentum}: at least 1, above 0, from 0 on and below 1"
            )
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        sizes = {"student": student_shapes[0], "teacher": teacher_shapes[0]}
        self.embeddings = nn.ModuleDict({who: nn.Linear(math.prod(size), width) for who, size in sizes.items()})
        self.memories = nn.ModuleDict({who: RowMemory(sample_ids, width) for who in sizes})
        self.labels = RowMemory(sample_ids, fill=UNKNOWN)
        bound = 1 / math.sqrt(width / 3)
        for memory in self.memories.values():
            nn.init.uniform_(memory.rows, -bound, bound)
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("normalisers", torch.zeros(2))

    def forward(
        self,
        student_captured: list[Tensor],
        teacher_captured: list[Tensor],
        ids: Tensor,
        step: int = 0,
        targets: Tensor | None = None,
    ) -> Tensor:
        pair = dict(zip(("student", "teacher"), wide(student_captured[0], teacher_captured[0]), strict=True))
        embedded = {who: unit(self.embeddings[who](features.flatten(1))) for who, features in pair.items()}
        if targets is not None:
            self.labels.write(ids, targets)
        chosen = self.chosen(ids, int(step), targets)
        value = torch.zeros((), device=ids.device)
        for number, (who, other) in enumerate((("student", "teacher"), ("teacher", "student"))):
            # A copy: the rows change before the backward pass.
            scores = products(embedded[who], self.memories[other].rows.clone())
            likely = (scores.gather(1, chosen) / self.temperature).exp()
            value = value + self.contrast(likely / self.normaliser(number, likely))
        for who, rows in embedded.items():
            memory = self.memories[who]
            memory.write(ids, unit(self.momentum * memory.read(ids) + (1 - self.momentum) * rows.detach()))
        return value

    def contrast(self, likely: Tensor) -> Tensor:
        """[B] from P [B, 1 + K], that of the sample itself first."""
        noise = (likely.shape[1] - 1) / len(self.labels.ids)
        positive, negative = likely[:, 0], likely[:, 1:]
        return -(positive / (positive + noise + EPSILON)).log() - (noise / (negative + noise + EPSILON)).log().sum(1)

    @torch.no_grad()
    def normaliser(self, number: int, likely: Tensor) -> Tensor:
        """Z, of the first batch."""
        if not self.normalisers[number]:
            self.normalisers[number] = of_all_ranks(likely.mean(1)).mean() * len(self.labels.ids)
        return self.normalisers[number].clone()

    @torch.no_grad()
    def chosen(self, ids: Tensor, step: int, targets: Tensor | None) -> Tensor:
        """int64 [B, 1 + K]: places in the memory of each sample and of its negatives."""
        labels = self.labels.rows.cpu().numpy()
        places = np.searchsorted(self.labels.ids.cpu().numpy(), ids.cpu().numpy())
        others = {}
        rows = []
        for place in places.tolist():
            label = UNKNOWN if targets is None else labels[place]
            if label not in others:
                others[label] = np.flatnonzero(labels != label) if label != UNKNOWN else np.arange(len(labels))
            draw = np.random.default_rng((int(self.seed), step, int(self.labels.ids[place])))
            among = others[label] if len(others[label]) else np.arange(len(labels))
            drawn = among[draw.integers(len(among), size=self.negatives)]
            rows.append(np.concatenate([[place], np.where(drawn == place, (drawn + 1) % len(labels), drawn)]))
        return torch.from_numpy(np.stack(rows)).to(ids.device)
