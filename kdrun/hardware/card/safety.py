"""What a mean hides: the worst class, calibration, critical classes, and errors that a student has from its teacher.

All of it is of one set of samples: logits [N, C] of a network, those of its teacher and of the student alone, targets [N]. Numpy and
the scores that records have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def recalls(logits: np.ndarray, targets: np.ndarray) -> dict[int, float]:
    """Class -> share of its samples that are recognised, for classes that occur; of equal logits the first class wins."""
    right = said(logits) == targets
    return {int(one): float(right[targets == one].mean()) for one in np.unique(targets)}


def said(logits: np.ndarray) -> np.ndarray:
    """int64 [N]: the class with the largest logit; -1, which is no class, where a logit is NaN."""
    return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))


def calibration(logits: np.ndarray, targets: np.ndarray) -> float:
    """The expected calibration error of records (tasks.scores): 15 equal bins of the largest probability."""
    import torch

    from kdrun.domains.scores import ClassificationScores

    scores = ClassificationScores(logits.shape[1])
    scores.update(torch.from_numpy(np.asarray(logits, dtype=np.float32)), torch.from_numpy(targets))
    return float(scores.compute()["calibration"])


def inherited(logits: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> float | None:
    """P(wrong | the teacher is wrong); None where the teacher is never wrong."""
    lost = said(teacher) != targets
    return float((said(logits)[lost] != targets[lost]).mean()) if lost.any() else None


def of(
    logits: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    teacher: np.ndarray | None = None,
    alone: np.ndarray | None = None,
    critical: Sequence[str] = (),
) -> dict[str, Any]:
    """The part `safety` of a card.

    worst_class, worst_class_recall   the class that is recognised least; its recall
    worst_class_samples               how many samples it has
    worst_class_drop                  recall of the teacher's own worst class minus that recall: the mean may rise while this falls
    largest_drop                      {"class", "drop"}: of all classes the one that loses most against the teacher
    ece                               see `calibration`
    inherited_errors, inherited_errors_alone    P(wrong | teacher wrong) of this network and of the student alone
    teacher_errors                    how many samples that share is over
    critical                          class -> {"false_negative_rate", "agreement": share of its samples on which it says what the teacher says}
    teacher: None where this network is the teacher, or there is none; what needs it is None then.
    """
    own = recalls(logits, targets)
    worst = min(own, key=own.__getitem__)
    found: dict[str, Any] = {
        "worst_class": classes[worst],
        "worst_class_recall": own[worst],
        "worst_class_samples": int((targets == worst).sum()),
        "worst_class_drop": None,
        "largest_drop": None,
        "ece": calibration(logits, targets),
        "inherited_errors": None,
        "inherited_errors_alone": None,
        "teacher_errors": None,
        "critical": {},
    }
    if teacher is not None:
        reference = recalls(teacher, targets)
        drops = {one: reference[one] - own[one] for one in own}
        most = max(drops, key=drops.__getitem__)
        found |= {
            "worst_class_drop": min(reference.values()) - own[worst],
            "largest_drop": {"class": classes[most], "drop": drops[most]},
            "inherited_errors": inherited(logits, teacher, targets),
            "inherited_errors_alone": None if alone is None else inherited(alone, teacher, targets),
            "teacher_errors": int((said(teacher) != targets).sum()),
        }
    for name in critical:
        one = list(classes).index(name)
        rows = targets == one
        agreement = None if teacher is None or not rows.any() else (said(logits) == said(teacher))[rows].mean()
        found["critical"][name] = {
            "false_negative_rate": 1 - own[one] if one in own else None,
            "agreement": None if agreement is None else float(agreement),
        }
    return found


def two_classes(
    logits: np.ndarray, targets: np.ndarray, val_logits: np.ndarray | None = None, val_targets: np.ndarray | None = None
) -> dict[str, float | None]:
    """{"sensitivity", "specificity", "threshold"} of two-class data, the second class being positive.

    The threshold on its probability is that of the largest Youden index on validation where validation is given, else 0.5.
    """
    from kdrun.auc import at_threshold, youden

    threshold: float | None = 0.5
    if val_logits is not None:
        threshold = youden(val_targets, _positive(val_logits))
    if threshold is None:
        return {"sensitivity": None, "specificity": None, "threshold": None}
    sensitivity, specificity = at_threshold(targets, _positive(logits), threshold)
    return {"sensitivity": sensitivity, "specificity": specificity, "threshold": threshold}


def _positive(logits: np.ndarray) -> np.ndarray:
    difference = np.asarray(logits, dtype=np.float64)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(difference[:, 0] - difference[:, 1]))
