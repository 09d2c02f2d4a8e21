"""Views of samples that a strategy trains networks on: Hounsfield windows of CT images, colour, grey, edges of others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdrun import kinds
from kdrun.domains.ct.windows import WINDOWS, window
from kdrun.domains.images.views import VIEWS
from kdrun.lab.stages.combine import Combine
from kdrun.problems import UserError, closest, listed
from kdrun.strategies.cast import Learner, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

AUTO = "auto"
FUSION = "kdrun.domains.ct.networks.late_fusion.LateFusion"


def several(views: Any) -> bool:
    """Whether this is a list of at least two."""
    return not isinstance(views, str) and len(views) > 1


def key_of(data: dict[str, Any], over: str = AUTO) -> str:
    """The key of data that chooses the view; auto: window where the data have one, else view."""
    if over != AUTO:
        return over
    return "window" if "window" in data else "view"


def views_of(data: dict[str, Any], views: str | list[Any] = AUTO, over: str = AUTO) -> dict[str, dict[str, Any]]:
    """Name -> the keys of data that give this view. Raises UserError where the data have no such views."""
    key = key_of(data, over)
    if not kinds.find(data["task"]).keeps_rows:
        raise UserError(
            f"strategy=cross_window is for data.task=diagnosis, which keeps what is said of single samples; data.task={data['task']}",
            "add data.task=diagnosis: the main metric is then the AUC",
        )
    if views != AUTO:
        chosen = list(views)
    elif key == "window":
        chosen = list(data.get("among") or WINDOWS)
    else:
        raise UserError(
            f"strategy.views=auto: data={data['name']} has no windows; name the views to train on",
            f"strategy.views=[grey,edges]; all: {listed(VIEWS)}",
        )
    names = [_name(view, key, "window" in data) for view in chosen]
    if len(set(names)) < len(names):
        raise UserError(f"strategy.views={views}: a view is named twice")
    return {name: {key: view} for name, view in zip(names, chosen, strict=True)}


def _name(view: Any, key: str, scans: bool) -> str:
    """What a view is called. Raises UserError for a window that there is not, and for no view of ordinary images."""
    if key == "window":
        try:
            return window(view).name
        except UserError as error:
            raise UserError(error.lines[0].replace("data.window", "strategy.views", 1), *error.lines[1:]) from None
    if key == "view" and not scans and view not in VIEWS:
        raise UserError(f"strategy.views: there is no view {view!r}{closest(str(view), VIEWS)}; all: {listed(VIEWS)}")
    return str(view)


def late_fusion(lab: Lab, student: Learner, views: dict[str, dict[str, Any]], epochs: int) -> Result:
    """One network with an encoder for each window, whose features are concatenated, trained on labels."""
    if any("window" not in view for view in views.values()):
        raise UserError(
            "strategy.controls: late_fusion reads all views as channels of one image, which data.window has and data.view not",
            "leave it out: strategy.controls=[alone,equal_compute]",
        )
    network = {"_target_": FUSION, "encoder": {**student.identity["network"], "_partial_": True}}
    windows = [view["window"] for view in views.values()]
    stage = supervised(student, role="late_fusion_all", data={"window": windows}, epochs=epochs)
    fused = lab.get(replace(stage, learner={"name": "late_fusion", "network": network, "weights": None}))
    return lab.get(Combine("late_fusion", {"all": fused}, ("all",), None, student.cast.config["seed"]))
