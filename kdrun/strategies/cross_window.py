"""strategy=cross_window: one network per view of the samples; the best on validation teaches the others (arXiv 2605.12562)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.lab.stages.combine import Combine
from kdrun.problems import UserError, closest, listed
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, merged, supervised, weighted
from kdrun.strategies.views import AUTO, late_fusion, several, views_of

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

BEST, WORST, SELF = "best_validation", "worst_validation", "self"
SHARES = {"feature": {"feature": 1.0}, "logit": {"kd": 1.0}, "both": {"feature": 0.5, "kd": 0.5}}


@dataclass(frozen=True)
class CrossWindow(Strategy):
    """Every view has a network of the student's make, trained on labels; then each but the teacher's goes on, taught.

    teacher       best_validation: the view with the best main metric on validation (the paper); worst_validation; self:
                  each view its own; or the name of a view
    transfer      feature: what stands before the last layer (the paper); logit: soft targets; both, half of the weight each
    feature_norm  none: raw features (the paper); l2: of unit length
    weight        of the teacher; labels have 1 - weight. The objective's own weights are factors beside it
    epochs        of the second training of each view; null: as the student's trainer says
    views         auto: all windows that the data have; or a list of them: [lung, bone], [grey, edges]
    over          key of data that chooses the view; auto: window where the data have one, else view
    stack         one answer of all views: logistic regression on their probabilities of validation, with C = 1 (the
                  paper); mean of the probabilities; none

    Figures are a mean over all views but the one that is best on validation, whoever teaches, so that all arms speak of the same
    views. A view that teaches counts as it was. Where the config's teacher is another network than the student's, it is trained
    on the chosen view and teaches instead. Inferred: the second training has the epochs and the schedule of the first.
    """

    teacher: str = "best_validation"
    transfer: str = "feature"
    feature_norm: str = "none"
    weight: float = 0.5
    epochs: int | None = None
    views: str | list[Any] = "auto"
    over: str = "auto"
    stack: str = "logistic"

    arms: ClassVar[dict[str, str]] = {
        "alone": "views alone (before)",
        "equal_compute": "views alone, trained on for as many steps",
        "worst_teacher": "views, from the worst view",
        "self_teacher": "views, each from itself",
        "logit_kd": "views, soft targets of the best view",
        "late_fusion": "one network of all views, on labels",
    }
    variants: ClassVar = {
        "worst_teacher": {"teacher": WORST},
        "self_teacher": {"teacher": SELF},
        "logit_kd": {"transfer": "logit"},
    }
    against: ClassVar[str] = "equal_compute"
    choices: ClassVar = {"transfer": SHARES, "feature_norm": ("none", "l2"), "stack": ("logistic", "mean", "none")}
    ranges: ClassVar = {
        "teacher": (lambda name: "test" not in name.split("_"), f"test would leak: {BEST} is there to choose by"),
        "weight": (lambda weight: 0 < weight <= 1, "above 0 and at most 1"),
        "epochs": (lambda epochs: epochs >= 1, "the second training needs at least one epoch"),
        "views": (lambda views: views == AUTO or several(views), "auto, or a list of at least two: [lung, bone]"),
    }

    def check(self, cast: Cast) -> None:
        self._views(cast)

    def run(self, lab: Lab, cast: Cast, role: str = "student") -> Result:
        views, before, epochs = self._views(cast), self._before(lab, cast), self.student_epochs(cast)
        chosen, after, teacher = self._chosen(lab, before), dict(before), None
        # A control, or a teacher asked for as it is, may be no better than chance; the best view has to be.
        teaching = {**cast.config["teacher"], "unchecked": role != "student" or self.teacher in (WORST, SELF)}
        for name in [name for name in before if name != chosen]:
            source = name if chosen == SELF else chosen
            teacher = self._teacher(lab, cast, before, source)
            settings = {"objective": self._objective(cast), "data": views[name], "teaching": teaching, "epochs": epochs}
            settings |= {"start": before[name], "sees": {} if source == name else views[source]}
            after[name] = lab.get(distil(cast.student, teacher, role=f"{role}_{name}", **settings))
        return self._mean(lab, cast, role, before, after, teacher)

    def _before(self, lab: Lab, cast: Cast) -> dict[str, Result]:
        """Every view's network after its first training."""
        views = self._views(cast).items()
        return {name: lab.get(supervised(cast.student, role=f"before_{name}", data=view)) for name, view in views}

    def _chosen(self, lab: Lab, before: dict[str, Result]) -> str:
        """The view that teaches, or `self`."""
        if self.teacher in (BEST, WORST):
            return lab.choose(f"{self.teacher.split('_')[0]} view", before, worst=self.teacher == WORST)
        return self.teacher

    def _teacher(self, lab: Lab, cast: Cast, before: dict[str, Result], view: str) -> Result:
        """The view's own network, or the config's teacher where that is another one."""
        teacher = cast.teacher
        if teacher.identity["network"] == cast.student.identity["network"] and not teacher.brought:
            return before[view]
        return lab.get(supervised(teacher, role=f"teacher_{view}", data=self._views(cast)[view]))

    def _mean(self, lab: Lab, cast: Cast, role: str, before: dict, members: dict, teacher=None) -> Result:
        """All views together; the mean is over those that were not best on validation before."""
        best = lab.choose("best view", before)
        counted, stack = tuple(name for name in members if name != best), None if self.stack == "none" else self.stack
        return lab.get(Combine(role, members, counted, stack, cast.config["seed"], teacher))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """One arm; views, networks, seed and data are those of `run`.

        alone is every view before, equal_compute trained on from there on labels, but for the teacher's view; late_fusion is one
        network of all views, for the epochs of both trainings.
        """
        views, student, epochs = self._views(cast), cast.student, self.student_epochs(cast)
        if name in self.variants:
            return super().control(name, lab, cast)
        if name == "late_fusion":
            return late_fusion(lab, student, views, student.trainer["epochs"] + epochs)
        before = after = self._before(lab, cast)
        if name == "equal_compute":
            chosen, after = self._chosen(lab, before), dict(before)
            for view in [view for view in before if view != chosen]:
                settings = {"role": f"{name}_{view}", "data": views[view], "epochs": epochs}
                after[view] = lab.get(supervised(student, start=before[view], **settings))
        return self._mean(lab, cast, name, before, after)

    def label(self, cast: Cast) -> str:
        kinds = {BEST: "the best view", WORST: "the worst view", SELF: "themselves"}
        return f"views, taught by {kinds.get(self.teacher, self.teacher)}"

    def student_epochs(self, cast: Cast) -> int:
        return cast.student.trainer["epochs"] if self.epochs is None else self.epochs

    def _objective(self, cast: Cast) -> dict[str, Any]:
        """The run's: labels with 1 - weight, what is transferred with weight, the other kind of transfer with none."""
        shares = {"feature": 0.0, "kd": 0.0, **SHARES[self.transfer]}
        factors = {"ce": 1 - self.weight, **{name: self.weight * share for name, share in shares.items()}}
        objective = weighted(cast.config["objective"], factors)
        return objective if self.feature_norm == "none" else merged(objective, {"feature": {"norm": self.feature_norm}})

    def _views(self, cast: Cast) -> dict[str, dict[str, Any]]:
        views = views_of(cast.config["data"], self.views, self.over)
        if self.teacher not in (choices := (BEST, WORST, SELF, *views)):
            raise UserError(f"strategy.teacher={self.teacher}{closest(self.teacher, choices)}; all: {listed(choices)}")
        return views
