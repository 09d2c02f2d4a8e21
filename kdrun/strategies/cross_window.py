"""strategy=cross_window: one network per view of the samples; the best on validation teaches the others (arXiv 2605.12562).

The views of a CT image are its Hounsfield windows, those of other images colour, grey, edges ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.domains.ct.windows import WINDOWS, window
from kdrun.domains.images.views import VIEWS
from kdrun.lab.stage import Together
from kdrun.objectives.weights import scaled
from kdrun.problems import UserError, closest, listed
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, merged, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stage import Trained

AUTO, SELF = "auto", "self"
BEST, WORST = "best_validation", "worst_validation"
TRANSFERS = ("feature", "logit", "both")
NORMS = ("none", "l2")
STACKS = ("logistic", "mean", "none")
FUSION = "kdrun.domains.ct.networks.late_fusion.LateFusion"


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

    The student's figures are a mean over all views but the one that is best on validation, whoever teaches, so that all arms
    speak of the same views. A view that teaches counts as it was.

    Where the config's teacher is another network than the student's, it is trained on the chosen view and teaches instead, if
    need be through a linear layer between the widths.

    From the paper (abstract and two re-implementations): the choice by validation, starts from the view's own weights, half of
    the loss each, raw features, equal networks. Inferred: that the second training has the epochs, the optimizer and the schedule
    of the first.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {"transfer": TRANSFERS, "feature_norm": NORMS, "stack": STACKS}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"strategy.{name}={value}{closest(str(value), choices)}; all: {listed(choices)}")
        if "test" in str(self.teacher).split("_"):
            raise UserError(
                f"strategy.teacher={self.teacher}: test chooses nothing; a teacher chosen on it would leak it to the students",
                f"choose on validation: strategy.teacher={BEST}",
            )
        if not 0 < self.weight <= 1:
            raise UserError(f"strategy.weight={self.weight}: above 0 and at most 1")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"strategy.epochs={self.epochs}: the second training needs at least one epoch")
        if self.views != AUTO and (isinstance(self.views, str) or len(self.views) < 2):
            raise UserError(f"strategy.views={self.views}: auto, or a list of at least two views such as [lung, bone]")

    # the result

    def check(self, cast: Cast) -> None:
        self._views(cast)

    def run(self, lab: Lab, cast: Cast) -> Trained:
        return self._taught(lab, cast, "student", self.teacher, self.transfer, self._before(lab, cast))

    def label(self, cast: Cast) -> str:
        kinds = {BEST: "the best view", WORST: "the worst view", SELF: "themselves"}
        return f"views, taught by {kinds.get(self.teacher, self.teacher)}"

    def student_epochs(self, cast: Cast) -> int:
        return cast.student.trainer["epochs"] if self.epochs is None else self.epochs

    def control(self, name: str, lab: Lab, cast: Cast) -> Trained:
        """One arm; views, networks, seed and data are those of `run`.

        alone          before: every view after its first training, on labels
        equal_compute  the same weights trained on, for as many steps as the students, on labels alone; the teacher's view too
                       stays as it was
        worst_teacher, self_teacher
                       as `run`, from the view with the worst validation, or from each view itself
        logit_kd       as `run`, from soft targets
        late_fusion    one network with an encoder for each view, whose features are concatenated (on labels, for the epochs
                       of both trainings)
        """
        before = {} if name == "late_fusion" else self._before(lab, cast)
        if name == "alone":
            return self._together(lab, cast, name, before, before, None)
        if name == "equal_compute":
            teacher = self._teacher(lab, cast, before, self.teacher)
            after = {
                view: trained if view == teacher else self._continued(lab, cast, view, trained)
                for view, trained in before.items()
            }
            return self._together(lab, cast, name, before, after, None)
        if name == "late_fusion":
            return self._fused(lab, cast)
        if name == "logit_kd":
            return self._taught(lab, cast, name, self.teacher, "logit", before)
        return self._taught(
            lab, cast, name, {"worst_teacher": WORST, "self_teacher": SELF}[name], self.transfer, before
        )

    # trainings

    def _before(self, lab: Lab, cast: Cast) -> dict[str, Trained]:
        """Every view's network after its first training."""
        return {
            name: lab.fit(supervised(cast.student, role=f"before_{name}", data=self._shown(cast, view)))
            for name, view in self._views(cast).items()
        }

    def _taught(self, lab: Lab, cast: Cast, role: str, kind: str, transfer: str, before: dict[str, Trained]) -> Trained:
        chosen = self._teacher(lab, cast, before, kind)
        views, after, teacher = self._views(cast), dict(before), None
        # A control, or a teacher asked for as it is, may be no better than chance; the best view has to be.
        expected = role == "student" and kind not in (WORST, SELF)
        for name, start in before.items():
            source = name if chosen == SELF else chosen
            if name == chosen:
                continue
            teacher = self._guide(lab, cast, before, source)
            after[name] = lab.fit(
                distil(
                    cast.student,
                    teacher,
                    start=start,
                    role=f"{role}_{name}",
                    objective=self._objective(cast, transfer),
                    data=self._shown(cast, views[name]),
                    sees={} if source == name else self._shown(cast, views[source]),
                    teaching={**cast.config["teacher"], "unchecked": not expected},
                    epochs=self.student_epochs(cast),
                )
            )
        return self._together(lab, cast, role, before, after, teacher)

    def _guide(self, lab: Lab, cast: Cast, before: dict[str, Trained], name: str) -> Trained:
        """Who teaches from a view: its own network, or the config's teacher where that is another one."""
        teacher = cast.teacher
        if teacher.identity["network"] == cast.student.identity["network"] and not teacher.brought:
            return before[name]
        return lab.fit(supervised(teacher, role=f"teacher_{name}", data=self._shown(cast, self._views(cast)[name])))

    def _continued(self, lab: Lab, cast: Cast, name: str, start: Trained) -> Trained:
        return lab.fit(
            supervised(
                cast.student,
                start=start,
                role=f"equal_compute_{name}",
                data=self._shown(cast, self._views(cast)[name]),
                epochs=self.student_epochs(cast),
            )
        )

    def _fused(self, lab: Lab, cast: Cast) -> Trained:
        student = cast.student
        views = list(self._views(cast).values())
        if self._over(cast) != "window":
            raise UserError(
                "strategy.controls: late_fusion reads all views as channels of one image, which data.window has and data.view not",
                "leave it out: strategy.controls=[alone,equal_compute]",
            )
        network = {"_target_": FUSION, "encoder": {**student.identity["network"], "_partial_": True}}
        stage = supervised(
            student,
            role="late_fusion_all",
            data={self._over(cast): views},
            epochs=student.trainer["epochs"] + self.student_epochs(cast),
        )
        trained = lab.fit(replace(stage, learner={"name": "late_fusion", "network": network, "weights": None}))
        return self._group(lab, cast, "late_fusion", {"all": trained}, ("all",), None)

    def _objective(self, cast: Cast, transfer: str) -> dict[str, Any]:
        """The run's objective: labels with 1 - weight, what is transferred with weight, the other kind of transfer with none."""
        given = cast.config["objective"]
        shares = {"feature": {"feature": 1.0}, "logit": {"kd": 1.0}, "both": {"feature": 0.5, "kd": 0.5}}[transfer]
        factors = {"ce": 1 - self.weight, **{name: self.weight * shares.get(name, 0.0) for name in ("feature", "kd")}}
        own = {name: {"weight": 1.0, **given.get(name, {})} for name in factors}
        own["feature"] |= {} if self.feature_norm == "none" else {"norm": self.feature_norm}
        return merged(
            given, {name: {**node, "weight": scaled(node["weight"], factors[name])} for name, node in own.items()}
        )

    # views

    def _over(self, cast: Cast) -> str:
        if self.over != AUTO:
            return self.over
        return "window" if "window" in cast.config["data"] else "view"

    def _views(self, cast: Cast) -> dict[str, Any]:
        """Name -> value of the key that chooses it."""
        data, over = cast.config["data"], self._over(cast)
        if data["task"] != "diagnosis":
            raise UserError(
                f"strategy=cross_window is for data.task=diagnosis, which keeps what is said of single samples; data.task={data['task']}",
                "add data.task=diagnosis: the main metric is then the AUC",
            )
        if self.views != AUTO:
            chosen = list(self.views)
        elif over == "window":
            chosen = list(data.get("among") or WINDOWS)
        else:
            raise UserError(
                f"strategy.views=auto: data={data['name']} has no windows; name the views to train on",
                f"strategy.views=[grey,edges]; all: {listed(VIEWS)}",
            )
        names = [_name(view, over, "window" in data) for view in chosen]
        if len(set(names)) < len(names):
            raise UserError(f"strategy.views={self.views}: a view is named twice")
        if self.teacher not in (BEST, WORST, SELF, *names):
            choices = [BEST, WORST, SELF, *names]
            raise UserError(f"strategy.teacher={self.teacher}{closest(self.teacher, choices)}; all: {listed(choices)}")
        return dict(zip(names, chosen, strict=True))

    def _shown(self, cast: Cast, view: Any) -> dict[str, Any]:
        return {self._over(cast): view}

    def _teacher(self, lab: Lab, cast: Cast, before: dict[str, Trained], kind: str) -> str:
        """The view that teaches, or `self`."""
        if kind in (BEST, WORST):
            return lab.choose(f"{kind.split('_')[0]} view", before, worst=kind == WORST)
        return kind

    def _together(
        self,
        lab: Lab,
        cast: Cast,
        role: str,
        before: dict[str, Trained],
        members: dict[str, Trained],
        teacher: Trained | None,
    ) -> Trained:
        best = lab.choose("best view", before)
        counted = tuple(name for name in members if name != best)
        return self._group(lab, cast, role, members, counted, None if self.stack == "none" else self.stack, teacher)

    def _group(self, lab, cast: Cast, role, members, counted, method, teacher=None) -> Trained:
        return lab.together(Together(role, members, counted, method, cast.config["seed"], teacher))


def _name(view: Any, over: str, scans: bool) -> str:
    """What a view is called. Raises UserError for a window that there is not, and for no view of ordinary images."""
    if over == "window":
        try:
            return window(view).name
        except UserError as error:
            raise UserError(error.lines[0].replace("data.window", "strategy.views", 1), *error.lines[1:]) from None
    if over == "view" and not scans and view not in VIEWS:
        raise UserError(f"strategy.views: there is no view {view!r}{closest(str(view), VIEWS)}; all: {listed(VIEWS)}")
    return str(view)
