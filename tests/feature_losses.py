"""The table of shipped losses on features: one row per loss, with a slow reference and what is promised of it.

A new loss adds a row to PROOFS; tests/objectives/test_proofs.py has one test per promise. A loss is always called as an objective calls it: the
features lie in `captured`, and its settings are those of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import feature_references as slow
import pytest
import torch

from kdrun.objectives.terms import Objective, build_objective

MAP, WIDE_MAP, LARGE_MAP, SMALL_MAP = (3, 4, 4), (5, 4, 4), (3, 8, 8), (5, 2, 2)
VECTOR, WIDE_VECTOR = (6,), (9,)


@dataclass(frozen=True)
class Proof:
    """reference: of one pair of layers of the whole batch; for `lists` of all pairs at once. shapes: pairs of shapes of the student's and the
    teacher's features, without the batch, that the loss is tried on. minimum: the value at equal features; None where it has none
    that is documented. factors: changes of the student's features that leave the value, by name. batch: whether it compares
    samples with each other. largest: features of this size still give finite values."""

    name: str
    reference: Callable
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ((MAP, WIDE_MAP), (LARGE_MAP, SMALL_MAP))
    options: Mapping[str, Any] = field(default_factory=dict)
    minimum: float | None = 0.0
    leaves: tuple[str, ...] = ()
    batch: bool = False
    lists: bool = False
    largest: float = 1e30
    loss: str = ""

    @property
    def term(self) -> dict[str, Any]:
        target = self.loss or self.name
        named = {} if target == self.name else {"_target_": f"kdrun.objectives.{target}.{target}"}
        return {self.name: {**named, **self.options, "student": "s", "teacher": "t"}}


FLAT = ((VECTOR, WIDE_VECTOR), (MAP, SMALL_MAP))
ALIKE = ((VECTOR, VECTOR), (MAP, MAP))
PROOFS = [
    Proof("at", slow.slow_at, leaves=("scaled", "channels")),
    Proof("at_p1", slow.slow_at, options={"power": 1.0}, leaves=("scaled", "channels"), loss="at"),
    Proof("sp", slow.slow_sp, FLAT, leaves=("all_scaled", "rotated"), batch=True),
    Proof("pkt", slow.slow_pkt, FLAT, leaves=("scaled", "rotated"), batch=True),
    Proof("rkd", slow.slow_rkd, FLAT, leaves=("all_scaled", "rotated", "moved"), batch=True),
    Proof("rkd_distance", slow.slow_rkd, FLAT, {"angle": 0.0}, leaves=("all_scaled", "moved"), batch=True, loss="rkd"),
    Proof("rkd_angle", slow.slow_rkd, FLAT, {"distance": 0.0}, leaves=("all_scaled", "moved"), batch=True, loss="rkd"),
    Proof("nst", slow.slow_nst, leaves=("scaled", "channels")),
    Proof("cc", slow.slow_cc, FLAT, leaves=("scaled", "rotated"), batch=True),
    Proof("cc_p3", slow.slow_cc, FLAT, {"gamma": 1.0, "order": 3}, batch=True, loss="cc"),
    Proof("cc_adjacent", slow.slow_cc, ALIKE, {"kernel": "adjacent"}, batch=True, largest=1e15, loss="cc"),
]
every_proof = pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
of_batches = pytest.mark.parametrize("proof", [x for x in PROOFS if x.batch], ids=lambda proof: proof.name)


def begun(proof: Proof, pairs, samples: int = 100) -> Objective:
    """The objective of one term, its state begun for features of these pairs."""
    supplied = {
        "student_shapes": [tuple(s.shape[1:]) for s, _ in pairs],
        "teacher_shapes": [tuple(t.shape[1:]) for _, t in pairs],
        "sample_ids": torch.arange(samples),
        "classes": 4,
    }
    torch.manual_seed(0)
    objective = build_objective(proof.term).begin(None, lambda term: supplied)
    for module in objective.modules.values():
        module.to(pairs[0][0].dtype)
    return objective


def drawn(shapes, batch: int = 5, seed: int = 0, dtype=torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of features, the student's with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape):
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)

    return [(one(ours).requires_grad_(), one(theirs)) for ours, theirs in shapes]


def value(objective: Objective, pairs, count: float | None = None, **tensors) -> torch.Tensor:
    """The mean of the term over the batch, as training has it."""
    (term,) = objective.active
    students, teachers = map(list, zip(*pairs, strict=True))
    batch = len(students[0])
    given = {
        "captured": {term.name: (students, teachers)},
        "mask": None,
        "ids": torch.arange(batch),
        "targets": torch.arange(batch) % 4,
        **tensors,
    }
    return objective(given, batch if count is None else count)[1][term.name]
