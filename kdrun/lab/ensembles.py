"""Several networks with one view each of the same samples, combined into one answer. From their kept rows; no torch.

The members' probabilities on validation are what a logistic regression learns from (a stack, Wolpert 1992); in
cross-window distillation with C = 1. Test chooses nothing: members, thresholds and the stack are those of validation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.auc import at_threshold, macro_auc, nine_digits, youden
from kdrun.learning.resampling import SELECTION, read_samples
from kdrun.problems import UserError, closest, listed

if TYPE_CHECKING:
    import numpy as np

SEMANTICS = 1
USES = ("kdrun.auc",)

METHODS = ("logistic", "mean")
COMBINED = "combined"
BINS = 15
"""Of the expected calibration error, as in tasks.scores."""
STEPS = 10_000
"""Most steps of the solver, which needs some hundred."""

Row = dict[str, Any]


def combine(
    members: Mapping[str, str | Path],
    counted: Sequence[str],
    method: str | None = "logistic",
    regularisation: float = 1.0,
) -> dict[str, Any]:
    """{"rows", "metrics", "stack"} of networks that saw the same samples, each through its own view.

    members         view -> folder of its stage, which holds rows of "val" and "test" and perhaps of further test sets
    counted         the views that averages are over, as the students without their teacher
    method          "logistic": a stack of all members; "mean" of their probabilities; None: they are only put together
    regularisation  C of the logistic regression, the inverse strength of its L2 penalty

    "rows": {split: [{"id", "target", "members": {view: [C]}, "counted", "combined": [C]}]} for "val", "test" and the
    further sets that all members have; without "combined" where there is no method.
    "metrics": {split: {name: value}}. auc, accuracy, worst_class, loss (nats) and calibration are means over `counted`;
    auc/<view> is that of each member, auc/combined and accuracy/combined of the combination. Of two classes also
    sensitivity and specificity (a mean over `counted`) and of the combination (.../combined), each at the Youden
    threshold of the same scores on validation; left out where a class is absent. An undefined AUC is NaN. On
    validation, what was fitted there looks better than it is.
    "stack": {"coefficients": [1 or C][features], "intercept": [1 or C]} over the second class's probability of each
    member in turn, of more than two classes over all probabilities of each; None for other methods.

    Raises UserError for unknown views or methods, members without rows or with other samples, and where samples of
    validation are in a test set.
    """
    counted = list(counted)
    _check(members, counted, method, regularisation)
    sets = {split: _Rows(split, members) for split in _splits(members)}
    for name, rows in sets.items():
        shared = set(sets["val"].ids) & set(rows.ids) if name != "val" else ()
        if shared:
            raise UserError(
                f"{len(shared)} samples of {name} are in val too, as {min(shared)}: the stack would be fitted on {name}",
                "validation and test sets must not share samples",
            )
    stack = None
    if method == "logistic":
        stack = _stack(sets["val"], regularisation)
    for rows in sets.values():
        if stack is not None:
            rows.combined = nine_digits(stack.predict(rows))
        elif method == "mean":
            rows.combined = nine_digits(sum(rows.members.values()) / len(members))
    return {
        "rows": {name: rows.lines(counted) for name, rows in sets.items()},
        "metrics": {name: _metrics(rows, sets["val"], counted) for name, rows in sets.items()},
        "stack": None if stack is None else stack.numbers(),
    }


def keeps_probabilities(folder: str | Path) -> bool:
    """Whether a stage kept probabilities of its validation and test samples."""
    return all((rows := read_samples(folder, split)) and "probabilities" in rows[0] for split in ("val", "test"))


class _Rows:
    """The rows of all members on one split: ids, targets [N], and probabilities [N, C] by view."""

    def __init__(self, split: str, folders: Mapping[str, str | Path]) -> None:
        import numpy as np

        self.combined: np.ndarray | None = None
        self.members: dict[str, np.ndarray] = {}
        first = None
        for view, folder in folders.items():
            rows = read_samples(folder, split)
            if not rows or "probabilities" not in rows[0]:
                raise UserError(
                    f"member {view} kept no probabilities of {split}: {folder}",
                    "members are stages of data.task=diagnosis, which keep those of val and test",
                )
            samples = [(row["id"], row["target"], len(row["probabilities"])) for row in rows]
            if first is not None and samples != first[1]:
                raise UserError(
                    f"members {first[0]} and {view} have other samples, targets or classes in {split}",
                    f"{first[0]} has {len(first[1])} samples, {view} {len(samples)}: members need the same data",
                )
            first = first or (view, samples)
            self.members[view] = np.asarray([row["probabilities"] for row in rows], dtype=float)
            if not np.isfinite(self.members[view]).all():
                raise UserError(f"member {view} has probabilities in {split} that are not finite: {folder}")
        self.ids, targets, _ = (list(column) for column in zip(*first[1], strict=True))
        self.targets = np.asarray(targets)
        self.classes = first[1][0][2]

    def scores(self, view: str) -> np.ndarray:
        """[N]: the second class's probability, of a member or of the combination."""
        return (self.combined if view == COMBINED else self.members[view])[:, 1]

    def features(self) -> np.ndarray:
        """[N, members], or [N, members C] of more than two classes."""
        import numpy as np

        parts = self.members.values()
        return np.concatenate([part[:, 1:] for part in parts] if self.classes == 2 else list(parts), axis=1)

    def lines(self, counted: list[str]) -> list[Row]:
        members = {view: part.tolist() for view, part in self.members.items()}
        combined = None if self.combined is None else self.combined.tolist()
        return [
            {
                "id": number,
                "target": target,
                "members": {view: part[place] for view, part in members.items()},
                "counted": list(counted),
                **({} if combined is None else {COMBINED: combined[place]}),
            }
            for place, (number, target) in enumerate(zip(self.ids, self.targets.tolist(), strict=True))
        ]


class _Stack:
    """A fitted logistic regression; a class that validation lacks has probability 0."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, rows: _Rows) -> np.ndarray:
        import numpy as np

        found = np.zeros((len(rows.ids), rows.classes))
        found[:, self.model.classes_] = self.model.predict_proba(rows.features())
        return found

    def numbers(self) -> dict[str, Any]:
        return {"coefficients": self.model.coef_.tolist(), "intercept": self.model.intercept_.tolist()}


def _stack(val: _Rows, regularisation: float) -> _Stack:
    from sklearn.linear_model import LogisticRegression

    if len(set(val.targets.tolist())) < 2:
        raise UserError(
            "validation has one class only: no stack can be fitted on it", 'combine by "mean", or by nothing'
        )
    return _Stack(LogisticRegression(C=regularisation, max_iter=STEPS).fit(val.features(), val.targets))


def _check(members: Mapping[str, Any], counted: list[str], method: str | None, regularisation: float) -> None:
    if not members or not counted:
        raise UserError("an ensemble needs members, and views to count", f"members: {listed(members) or 'none'}")
    if COMBINED in members:
        raise UserError(f"no view can be called {COMBINED}: so are scores of the whole ensemble")
    for view in counted:
        if view not in members:
            raise UserError(f"{view} is no member{closest(view, members)}", f"members: {listed(members)}")
    if len(set(counted)) < len(counted):
        raise UserError(f"views are counted twice: {listed(counted)}")
    if method is not None and method not in METHODS:
        raise UserError(f"members cannot be combined by {method}{closest(method, METHODS)}", f"by: {listed(METHODS)}")
    if not (math.isfinite(regularisation) and regularisation > 0):
        raise UserError(f"regularisation of a stack must be above 0, not {regularisation}")


def _splits(members: Mapping[str, str | Path]) -> list[str]:
    """val, test, and by name the further sets that all members have rows of."""
    found = [
        {path.name.removeprefix("samples.").removesuffix(".jsonl") for path in Path(folder).glob("samples.*.jsonl")}
        for folder in members.values()
    ]
    return ["val", "test", *sorted(set.intersection(*found) - {"val", "test", SELECTION})]


def _metrics(rows: _Rows, val: _Rows, counted: list[str]) -> dict[str, float]:
    each = {view: _scores(rows.targets, probabilities) for view, probabilities in rows.members.items()}
    found = {name: statistics.fmean(each[view][name] for view in counted) for name in each[counted[0]]}
    found |= {f"auc/{view}": scores["auc"] for view, scores in each.items()}
    if rows.combined is not None:
        whole = _scores(rows.targets, rows.combined)
        found |= {f"{name}/{COMBINED}": whole[name] for name in ("auc", "accuracy")}
    if rows.classes == 2:
        groups = {"": counted, **({} if rows.combined is None else {f"/{COMBINED}": [COMBINED]})}
        for ending, views in groups.items():
            shares = [_at_youden(rows, val, view) for view in views]
            for name, values in zip(("sensitivity", "specificity"), zip(*shares, strict=True), strict=True):
                if None not in values:
                    found[name + ending] = statistics.fmean(values)
    return found


def _at_youden(rows: _Rows, val: _Rows, view: str) -> tuple[float | None, float | None]:
    threshold = youden(val.targets, val.scores(view))
    return (None, None) if threshold is None else at_threshold(rows.targets, rows.scores(view), threshold)


def _scores(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Of one score: the metrics of a diagnosis, as tasks.scores defines them, from targets [N], probabilities [N, C]."""
    import numpy as np

    right = probabilities.argmax(1) == targets
    own = probabilities[np.arange(len(targets)), targets]
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return {
        "auc": macro_auc(targets, probabilities),
        "accuracy": float(right.mean()),
        "worst_class": min(float(right[targets == one].mean()) for one in np.unique(targets)),
        # What a combination calls impossible, such as a class that validation lacks, costs much, but not infinitely.
        "loss": float(-np.log(np.maximum(own, np.finfo(float).tiny)).mean()),
        "calibration": float(np.abs(gaps).sum() / len(targets)),
    }
