"""The table of shipped losses on features: one row per loss, with a slow reference and what is promised of it.

A new loss adds a row to PROOFS; tests/objectives/test_proofs.py has one test per promise. A loss is always called as an objective calls it: the
features lie in `captured`, and its settings are those of a config.
"""

from __future__ import annotations

import importlib
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
    """A row.

    reference: of one pair of layers of the whole batch; for `lists` of lists of all layers. A loss with state is given to it as `module`.
    shapes: pairs of shapes of the student's and the teacher's features, without the batch, that the loss is tried on.
    minimum: the value at equal features; None where it has none that is documented. leaves: changes of the student's features that leave
    the value. batch: whether it compares samples with each other. ordered: whether it depends on their order. normalizes: whether it has batch
    normalisation, which looks at all samples of a rank. alone: it takes one pair of layers. further: tensors that it takes beside
    features. largest: features of this size still give finite values.
    """

    name: str
    reference: Callable
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ((MAP, WIDE_MAP), (LARGE_MAP, SMALL_MAP))
    options: Mapping[str, Any] = field(default_factory=dict)
    minimum: float | None = 0.0
    leaves: tuple[str, ...] = ()
    batch: bool = False
    ordered: bool = False
    normalizes: bool = False
    lists: bool = False
    alone: bool = False
    further: tuple[str, ...] = ()
    largest: float = 1e30
    loss: str = ""

    @property
    def trials(self) -> list[list[tuple]]:
        """What it is tried on: lists of pairs of shapes."""
        return [list(self.shapes)] if self.lists and not self.alone else [[pair] for pair in self.shapes]

    @property
    def term(self) -> dict[str, Any]:
        target = self.loss or self.name
        module = importlib.import_module(f"kdrun.objectives.{target}")
        capitals = "".join(map(str.capitalize, target.split("_")))
        found = capitals if hasattr(module, capitals) else target
        named = {} if target == self.name else {"_target_": f"kdrun.objectives.{target}.{found}"}
        return {self.name: {**named, **self.options, "student": "s", "teacher": "t"}}


CLASSES = 4
FLAT = ((VECTOR, WIDE_VECTOR), (MAP, SMALL_MAP))
ALIKE = ((VECTOR, VECTOR), (MAP, MAP))
LEVELS = (((3, 8, 8), (3, 8, 8)), ((4, 4, 4), (4, 4, 4)), ((5, 2, 2), (5, 2, 2)))
TOKENS = (((5, 12), (5, 24)), ((4, 12), (4, 12)))
REVIEWED = (((3, 8, 8), (4, 8, 8)), ((4, 4, 4), (5, 8, 8)), ((6,), (9,)))
QUERIES_KEYS = (((5, 12), (5, 24)), ((5, 12), (5, 24)))
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
    Proof(
        "cc_adjacent", slow.slow_cc, ALIKE, {"kernel": "adjacent"}, batch=True, ordered=True, largest=1e15, loss="cc"
    ),
    Proof("vid", slow.slow_vid, minimum=None, lists=True, largest=1e12),
    Proof("vid_small", slow.slow_vid, FLAT, {"initial_variance": 0.5}, None, lists=True, largest=1e12, loss="vid"),
    Proof("fsp", slow.slow_fsp, LEVELS, lists=True, largest=1e8),
    Proof("ab", slow.slow_ab, ALIKE, minimum=None, lists=True, largest=1e15),
    Proof("ab_margin", slow.slow_ab, ALIKE, {"margin": 0.3}, None, lists=True, largest=1e15, loss="ab"),
    Proof("ft", slow.slow_ft, minimum=None, lists=True, alone=True, normalizes=True, largest=1e12),
    Proof(
        "ft_squares",
        slow.slow_ft,
        options={"channels": "mean_square", "rate": 0.7, "reconstruction": 1.0},
        minimum=None,
        lists=True,
        alone=True,
        normalizes=True,
        largest=1e12,
        loss="ft",
    ),
    Proof(
        "crd",
        slow.slow_crd,
        FLAT,
        {"width": 7, "negatives": 9},
        None,
        batch=True,
        lists=True,
        alone=True,
        further=("ids", "targets", "step"),
    ),
    Proof(
        "crd_without_labels",
        slow.slow_crd,
        FLAT,
        {"width": 7, "negatives": 9, "temperature": 0.2, "momentum": 0.1},
        None,
        batch=True,
        lists=True,
        alone=True,
        further=("ids", "targets", "step"),
        loss="crd",
    ),
    Proof("ofd", slow.slow_ofd, minimum=None, lists=True, normalizes=True, largest=1e12),
    Proof("reviewkd", slow.slow_reviewkd, REVIEWED, minimum=None, lists=True, normalizes=True, largest=1e12),
    Proof(
        "semckd",
        slow.slow_semckd,
        LEVELS,
        minimum=None,
        batch=True,
        ordered=True,
        lists=True,
        normalizes=True,
        largest=1e9,
    ),
    Proof(
        "srrl",
        slow.slow_srrl,
        FLAT,
        minimum=None,
        lists=True,
        alone=True,
        normalizes=True,
        further=("teacher_logits", "teacher_classifier"),
        largest=1e12,
    ),
    Proof(
        "catkd", slow.slow_catkd, leaves=("scaled",), minimum=None, further=("student_classifier", "teacher_classifier")
    ),
    Proof(
        "catkd_raw",
        slow.slow_catkd,
        options={"normalize": False, "resolution": 3},
        minimum=None,
        further=("student_classifier", "teacher_classifier"),
        largest=1e12,
        loss="catkd",
    ),
    Proof("hidden_states", slow.slow_hidden, (((5, 12), (5, 12)), ((12,), (12,))), largest=1e12),
    Proof("simkd", slow.slow_simkd, ((MAP, MAP), ((5, 8, 8), SMALL_MAP), (VECTOR, VECTOR)), largest=1e12),
    Proof("cosine", slow.slow_cosine, ((VECTOR, VECTOR), (WIDE_VECTOR, WIDE_VECTOR)), leaves=("scaled",)),
    Proof("attention_relations", slow.slow_relations, TOKENS, {"heads": 2}, largest=1e15),
    Proof(
        "attention_relations_fused",
        slow.slow_relations,
        TOKENS,
        {"heads": 2, "parts": 3},
        largest=1e15,
        loss="attention_relations",
    ),
    Proof("attention_scores", slow.slow_scores, QUERIES_KEYS, {"heads": 2}, lists=True, largest=1e6),
    Proof(
        "attention_scores_fused",
        slow.slow_scores,
        QUERIES_KEYS,
        {"heads": 2, "parts": 3},
        lists=True,
        largest=1e6,
        loss="attention_scores",
    ),
]
every_proof = pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
of_batches = pytest.mark.parametrize("proof", [x for x in PROOFS if x.batch], ids=lambda proof: proof.name)


def begun(proof: Proof, pairs, samples: int = 20) -> Objective:
    """The objective of one term, its state begun for features of these pairs."""
    supplied = {
        "student_shapes": [tuple(s.shape[1:]) for s, _ in pairs],
        "teacher_shapes": [tuple(t.shape[1:]) for _, t in pairs],
        "sample_ids": torch.arange(samples),
        "classes": CLASSES,
        "batch_size": 6,
    }
    torch.manual_seed(0)
    objective = build_objective(proof.term).begin(None, lambda term: supplied)
    for module in objective.modules.values():
        module.to(torch.promote_types(pairs[0][0].dtype, torch.float32))
    return objective


def drawn(shapes, batch: int = 5, seed: int = 0, dtype=torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of features, the student's with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape):
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)

    return [(one(ours).requires_grad_(), one(theirs)) for ours, theirs in shapes]


def beside(pairs, rows: slice = slice(None)) -> dict[str, Any]:
    """Further tensors that losses take, those of samples for these rows."""
    batch, dtype = len(pairs[0][0]), pairs[0][0].dtype
    generator = torch.Generator().manual_seed(5)

    def one(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    logits = one(50, CLASSES)[:batch][rows]
    (student, teacher), ids = pairs[-1], torch.arange(batch)[rows]
    classifiers = {
        "student_classifier": (one(CLASSES, student.shape[1]), one(CLASSES)),
        "teacher_classifier": (one(CLASSES, teacher.shape[1]), one(CLASSES)),
    }
    return {**classifiers, "teacher_logits": logits, "ids": ids, "targets": ids % CLASSES, "step": 3}


def value(objective: Objective, pairs, count: float | None = None, **tensors) -> torch.Tensor:
    """The mean of the term over the batch, as training has it."""
    (term,) = objective.active
    students, teachers = map(list, zip(*pairs, strict=True))
    given = {"captured": {term.name: (students, teachers)}, "mask": None, **beside(pairs), **tensors}
    return objective(given, len(students[0]) if count is None else count)[1][term.name]


def called(proof: Proof, objective: Objective, pairs) -> torch.Tensor:
    """What the function of the term itself gives for lists of layers, or for the only pair: in float64 where the features are."""
    (term,) = objective.active
    further = {name: tensor for name, tensor in beside(pairs).items() if name in proof.further}
    students, teachers = map(list, zip(*pairs, strict=True))
    if not proof.lists:
        (students,), (teachers,) = students, teachers
        return term.function(students, teachers, **further, **term.options)
    return term.function(student_captured=students, teacher_captured=teachers, **further, **term.options)


def expected(proof: Proof, objective: Objective, pairs) -> float:
    """What the slow reference gives for them."""
    (term,) = objective.active
    pairs = [(student.detach().double(), teacher.detach().double()) for student, teacher in pairs]
    state = {"module": term.function} if isinstance(term.function, torch.nn.Module) else {}
    further = {name: tensor for name, tensor in beside(pairs).items() if name in proof.further}
    students, teachers = map(list, zip(*pairs, strict=True))
    if not proof.lists:
        (students,), (teachers,) = students, teachers
    return proof.reference(students, teachers, **state, **further, **proof.options)
