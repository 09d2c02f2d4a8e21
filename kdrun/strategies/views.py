"""Views of samples that a strategy trains networks on: Hounsfield windows of CT images, colour, grey, edges of others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdrun import kinds
from kdrun.lab.stages.combine import Combine
from kdrun.problems import UserError, listed
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
    """The key of data that chooses the view; auto: as the kind of data says (window where the data have one, else view)."""
    return kinds.find(data["task"]).view_key(data) if over == AUTO else over


def views_of(data: dict[str, Any], views: str | list[Any] = AUTO, over: str = AUTO) -> dict[str, dict[str, Any]]:
    """Name -> the keys of data that give this view. Raises UserError where the data have no such views."""
    key, domain = key_of(data, over), kinds.find(data["task"])
    if not domain.keeps_rows:
        raise UserError(
            f"strategy=cross_window is for data.task=diagnosis, which keeps what is said of single samples; data.task={data['task']}",
            "add data.task=diagnosis: the main metric is then the AUC",
        )
    if views != AUTO:
        chosen = list(views)
    elif key != "view":
        chosen = list(domain.view_names(data, key))
    else:
        raise UserError(
            f"strategy.views=auto: data={data['name']} has no windows; name the views to train on",
            f"strategy.views=[grey,edges]; all: {listed(domain.view_names(data, key))}",
        )
    names = [_name(view, data, key) for view in chosen]
    if len(set(names)) < len(names):
        raise UserError(f"strategy.views={views}: a view is named twice")
    return {name: {key: view} for name, view in zip(names, chosen, strict=True)}


def _name(view: Any, data: dict[str, Any], key: str) -> str:
    """What a view is called. Raises UserError where the data have none such."""
    try:
        return kinds.find(data["task"]).view_name(view, data, key)
    except UserError as error:
        first = error.lines[0].removeprefix(f"data.{key}")
        raise UserError(f"strategy.views{'' if first != error.lines[0] else ': '}{first}", *error.lines[1:]) from None


def late_fusion(lab: Lab, student: Learner, views: dict[str, dict[str, Any]], epochs: int) -> Result:
    """One network with an encoder for each window, whose features are concatenated, trained on labels."""
    if any("window" not in view for view in views.values()):
        raise UserError(
            "strategy.controls: late_fusion reads all views as channels of one image, which data.window has and data.view not",
            "leave it out: strategy.controls=[alone,equal_compute]",
        )
    network = {"_target_": FUSION, "encoder": {**student.identity["network"], "_partial_": True}}
    windows = [view["window"] for view in views.values()]
    stage = supervised(student, role="late_fusion_all", data={"window": windows}, epochs=epochs, pretrain=False)
    fused = lab.get(replace(stage, learner={"name": "late_fusion", "network": network, "weights": None}))
    return lab.get(Combine("late_fusion", {"all": fused}, ("all",), None, student.cast.config["seed"]))
