"""The table of shipped losses on logits: one row per loss, with a slow reference and what is promised of it.

A new loss adds a row to LOSSES; tests/objectives/test_losses.py has one test per promise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from loss_references import (
    slow_akl,
    slow_akl_topk,
    slow_aligned_kd,
    slow_ce,
    slow_dist,
    slow_divergence,
    slow_dkd,
    slow_hard,
    slow_jsd,
    slow_kd,
    slow_kd_standardized,
    slow_kd_topk,
    slow_kl_reverse,
    slow_mlkd,
    slow_nkd,
    slow_skewed,
    slow_skewed_reverse,
    slow_tf_kd,
    slow_topk,
    slow_ttm,
    slow_tvd,
    slow_uld,
    slow_vocabulary_ce,
    slow_vocabulary_ce_kd,
    slow_vocabulary_kd,
    slow_wsld,
    slow_wttm,
)

from kdrun.objectives.akl import akl
from kdrun.objectives.aligned_kd import aligned_kd
from kdrun.objectives.ce import ce
from kdrun.objectives.ce_kd import ce_kd
from kdrun.objectives.chunked import ce_chunked, ce_kd_chunked, divergence_chunked
from kdrun.objectives.dist import dist
from kdrun.objectives.dkd import dkd
from kdrun.objectives.hard import hard
from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.minillm import minillm
from kdrun.objectives.mlkd import mlkd
from kdrun.objectives.nkd import nkd
from kdrun.objectives.objective_term import Term
from kdrun.objectives.skewed import skewed
from kdrun.objectives.skewed_reverse import skewed_reverse
from kdrun.objectives.terms import Objective
from kdrun.objectives.tf_kd import tf_kd
from kdrun.objectives.topk import kd_topk
from kdrun.objectives.ttm import ttm
from kdrun.objectives.tvd import tvd
from kdrun.objectives.uld import uld
from kdrun.objectives.wsld import wsld
from kdrun.objectives.wttm import wttm

# Shapes: B samples, L positions, C classes.


def over_identity(function: Callable) -> Callable:
    """A term on hidden states as one on logits: the output layer is the identity, so logits are hidden states."""

    def on_logits(**given) -> torch.Tensor:
        for who in ("student", "teacher"):
            if (logits := given.pop(f"{who}_logits", None)) is not None:
                given[f"{who}_hidden"], given[f"{who}_head"] = logits, torch.eye(logits.shape[-1], dtype=logits.dtype)
        return function(**given)

    return on_logits


@dataclass(frozen=True)
class Loss:
    """name; function; its tensors in order; slow reference on one position; options to try; value at equality."""

    name: str
    function: Callable
    wants: tuple[str, ...]
    reference: Callable
    options: dict = field(default_factory=dict)
    zero_at_equality: bool = False
    shifts: tuple[str, ...] = ("student_logits",)
    temperature: bool = False
    of_few_classes: bool = False  # further classes without probability change it
    constant_part: bool = (
        False  # a factor computed from the student is held constant: the gradient is not the derivative of the value
    )

    @property
    def rounding(self) -> float:
        """The last digit of a float32 log-probability, 2.4e-7 to 4.8e-7; T squared multiplies it like all else."""
        return 1e-6 * (self.options.get("temperature", 4.0) ** 2 if self.temperature else 1.0)

    @property
    def declares(self) -> Callable:
        """Whose declarations hold: wrapped ones have none."""
        return self.function if hasattr(self.function, "pointwise") else kd

    def term(self, weight: float = 1.0) -> Term:
        return Term(self.name, weight, self.function, self.wants, options=self.options, loss=self.declares)

    def __call__(self, tensors: dict) -> torch.Tensor:
        return self.function(**{name: tensors[name] for name in self.wants}, **self.options)


BOTH = ("student_logits", "teacher_logits")
LABELS = ("student_logits", "targets")
THREE = (*BOTH, "targets")
TOP = 3
TOPS = ("student_logits", "teacher_top_ids", "teacher_top_log_probs")
LOSSES = [
    Loss("ce", ce, LABELS, slow_ce),
    Loss("ce_smoothed", ce, LABELS, slow_ce, {"label_smoothing": 0.1}),
    Loss("kd", kd, BOTH, slow_kd, zero_at_equality=True, shifts=BOTH, temperature=True),
    Loss("kd_t1", kd, BOTH, slow_kd, {"temperature": 1.0}, zero_at_equality=True, shifts=BOTH, temperature=True),
    Loss("kd_topk", kd_topk, TOPS, slow_kd_topk, {"k": TOP}),
    *(
        Loss(
            f"{loss.__name__}_topk", loss.executions["topk"], TOPS, partial(slow_topk, kind=kind), {"k": TOP, **options}
        )
        for loss, kind, options in (
            (tvd, "total_variation", {}),
            (kl_reverse, "reverse", {}),
            (jsd, "jsd", {"beta": 0.3}),
            (skewed, "skewed", {"skew": 0.1}),
            (skewed_reverse, "skewed_reverse", {"skew": 0.4}),
        )
    ),
    Loss("akl_topk", akl.executions["topk"], TOPS, slow_akl_topk, {"k": TOP}, constant_part=True),
    Loss("akl_topk_h09", akl.executions["topk"], TOPS, slow_akl_topk, {"k": TOP, "head": 0.9}, constant_part=True),
    Loss("kl_reverse", kl_reverse, BOTH, slow_kl_reverse, {"temperature": 1.0}, True, BOTH, temperature=True),
    Loss("kl_reverse_t4", kl_reverse, BOTH, slow_kl_reverse, {"temperature": 4.0}, True, BOTH, temperature=True),
    # on text that the student did not write; on what it did: tests/objectives/test_minillm.py
    Loss("minillm", minillm, BOTH, partial(slow_kl_reverse, temperature=1.0), zero_at_equality=True, shifts=BOTH),
    Loss("jsd", jsd, BOTH, slow_jsd, {"temperature": 1.0}, True, BOTH, temperature=True),
    Loss("jsd_b09", jsd, BOTH, slow_jsd, {"beta": 0.9, "temperature": 2.0}, True, BOTH, temperature=True),
    Loss("vocabulary_ce", over_identity(ce_chunked), LABELS, slow_vocabulary_ce, {"chunk": 5}),
    Loss("vocabulary_ce_smoothed", over_identity(ce_chunked), LABELS, slow_vocabulary_ce, {"label_smoothing": 0.1}),
    *(
        Loss(
            f"vocabulary_{name}", over_identity(divergence_chunked), BOTH, slow_vocabulary_kd, options, True, BOTH, True
        )
        for name, options in {
            "kd": {"temperature": 1.0, "chunk": 5},
            "kd_reverse": {"kind": "reverse", "temperature": 2.0, "chunk": 5},
            "kd_jsd": {"kind": "jsd", "temperature": 2.0, "beta": 0.3, "chunk": 5},
        }.items()
    ),
    *(
        Loss(f"vocabulary_{name}", over_identity(ce_kd_chunked), THREE, slow_vocabulary_ce_kd, options, shifts=BOTH)
        for name, options in {
            "ce_kd": {"ce": 1.5, "label_smoothing": 0.2, "temperature": 1.0, "chunk": 5},
            "ce_kd_t4": {"temperature": 4.0},
            "ce_kd_jsd": {"kind": "jsd", "temperature": 2.0, "chunk": 5},
        }.items()
    ),
    Loss("ce_kd", ce_kd, THREE, slow_vocabulary_ce_kd, {"ce": 1.5, "kind": "reverse", "temperature": 2.0}, shifts=BOTH),
    Loss(
        "kd_standardized",
        kd,
        BOTH,
        slow_kd_standardized,
        {"temperature": 2.0, "standardize": True},
        shifts=BOTH,
        of_few_classes=True,
    ),
    Loss("dkd", dkd, THREE, slow_dkd, shifts=BOTH, temperature=True),
    Loss("dkd_b2", dkd, THREE, slow_dkd, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}, shifts=BOTH),
    Loss("nkd", nkd, THREE, slow_nkd, shifts=BOTH),
    Loss("nkd_t2", nkd, THREE, slow_nkd, {"gamma": 0.5, "temperature": 2.0}, shifts=BOTH),
    Loss("wsld", wsld, THREE, slow_wsld, shifts=BOTH, constant_part=True),
    Loss("ttm", ttm, BOTH, slow_ttm, shifts=BOTH),
    Loss("wttm", wttm, BOTH, slow_wttm, {"exponent": 0.5}, shifts=BOTH),
    Loss("tf_kd", tf_kd, LABELS, slow_tf_kd, of_few_classes=True),
    Loss("tf_kd_t1", tf_kd, LABELS, slow_tf_kd, {"correct": 0.7, "temperature": 1.0}, of_few_classes=True),
    Loss("hard", hard, BOTH, slow_hard, shifts=BOTH),
    Loss("skewed", skewed, BOTH, slow_skewed, zero_at_equality=True, shifts=BOTH),
    Loss("skewed_t2", skewed, BOTH, slow_skewed, {"skew": 0.6, "temperature": 2.0}, True, BOTH, temperature=True),
    Loss("skewed_reverse", skewed_reverse, BOTH, slow_skewed_reverse, zero_at_equality=True, shifts=BOTH),
    Loss("skewed_reverse_b09", skewed_reverse, BOTH, slow_skewed_reverse, {"skew": 0.9}, True, BOTH),
    Loss("tvd", tvd, BOTH, slow_tvd, zero_at_equality=True, shifts=BOTH),
    Loss("uld", uld, BOTH, slow_uld, zero_at_equality=True, shifts=BOTH),
    # with one tokenizer; of two: tests/objectives/test_aligned_kd.py
    Loss("aligned_kd", aligned_kd, THREE, slow_aligned_kd, {"temperature": 2.0}, True, BOTH, temperature=True),
    Loss("akl", akl, BOTH, slow_akl, zero_at_equality=True, shifts=BOTH, constant_part=True),
    Loss("akl_h09", akl, BOTH, slow_akl, {"head": 0.9}, True, BOTH, constant_part=True),
    *(
        Loss(
            f"vocabulary_{options['kind']}",
            over_identity(divergence_chunked),
            BOTH,
            slow_divergence,
            {"chunk": 5, **options},
            True,
            BOTH,
            constant_part=options["kind"] == "adaptive",
        )
        for options in (
            {"kind": "skewed", "skew": 0.3, "temperature": 2.0},
            {"kind": "skewed_reverse", "skew": 0.3},
            {"kind": "total_variation"},
            {"kind": "adaptive", "head": 0.3},
        )
    ),
    Loss("kd_t20", kd, BOTH, slow_kd, {"temperature": 20.0}, zero_at_equality=True, shifts=BOTH, temperature=True),
]
OF_BATCHES = [
    # their references are of all rows of a batch at once
    Loss("dist", dist, BOTH, slow_dist, shifts=BOTH),
    Loss("dist_t4", dist, BOTH, slow_dist, {"beta": 2.0, "gamma": 0.5, "temperature": 4.0}, shifts=BOTH),
    Loss("mlkd", mlkd, BOTH, slow_mlkd, zero_at_equality=True, shifts=BOTH),
    Loss("mlkd_t1", mlkd, BOTH, slow_mlkd, {"temperatures": [1.0]}, True, BOTH),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
of_batches = pytest.mark.parametrize("loss", OF_BATCHES, ids=lambda loss: loss.name)
zero_losses = pytest.mark.parametrize("loss", [x for x in LOSSES if x.zero_at_equality], ids=lambda loss: loss.name)


def made(*shape: int, classes: int = 7, scale: float = 3.0, dtype=torch.float32, seed: int = 0) -> dict:
    """student_logits and teacher_logits [*shape, C], targets [*shape]; the student wants a gradient."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(classes, shape, generator=generator)
    student = (student * scale).to(dtype).requires_grad_()
    taught = (teacher * scale).to(dtype)
    log_probs, ids = taught.double().log_softmax(-1).topk(TOP, dim=-1)
    top = {"teacher_top_ids": ids, "teacher_top_log_probs": log_probs.to(dtype)}
    return {"student_logits": student, "teacher_logits": taught, **top, "targets": targets, "mask": None}


def total(loss: Loss, tensors: dict, count: float) -> torch.Tensor:
    return Objective((loss.term(),))(tensors, count)[0]


def gradient(value: torch.Tensor, tensors: dict) -> torch.Tensor:
    return torch.autograd.grad(value, tensors["student_logits"])[0]
