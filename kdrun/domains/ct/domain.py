"""Scans (and other images) judged by how well each class is told from the rest, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from kdrun.domains.images.domain import ClassificationDomain
from kdrun.moved import current
from kdrun.problems import UserError, closest, listed

COHORT = "kdrun.domains.ct.ct_folder.ct_folder"


class DiagnosisDomain(ClassificationDomain):
    """Scans in, one of C classes out, judged by the AUC."""

    name = "diagnosis"
    metrics = MappingProxyType(
        {"auc": "max", "accuracy": "max", "worst_class": "max", "loss": "min", "calibration": "min"}
    )
    keeps_rows = True
    commands = ()  # a picture has no window of Hounsfield units
    learned = "kdrun.domains.ct.task:Diagnosis"

    def foreseen(self, planned: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """Of scans the shape is in their config: a channel for each window."""
        if "slices" in data and "shape" not in planned:
            from kdrun.domains.ct.windows import windows

            shape = (len(windows(data["window"])), data["slices"], data["size"], data["size"])
            planned = {**planned, "shape": shape}
        return super().foreseen(planned, data)

    def reads_unlabelled(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Scans as those of a cohort; ordinary images as of a classification."""
        target = str(data.get("_target_", ""))
        if current(target) != COHORT:
            return super().reads_unlabelled(data)
        shared = ("window", "slices", "size", "fraction", "spacing", "incomplete")
        return {"_target_": COHORT, "labels": None, **{key: data[key] for key in shared if key in data}}

    def view_key(self, data: Mapping[str, Any]) -> str:
        return "window" if "window" in data else "view"

    def view_names(self, data: Mapping[str, Any], key: str) -> Sequence[Any]:
        """Windows of scans, or views of ordinary images."""
        from kdrun.domains.ct.windows import WINDOWS
        from kdrun.domains.images.views import VIEWS

        return list(data.get("among") or WINDOWS) if key == "window" else list(VIEWS)

    def view_name(self, view: Any, data: Mapping[str, Any], key: str) -> str:
        from kdrun.domains.ct.windows import window

        if key == "window":
            return window(view).name
        known = self.view_names(data, key)
        if "window" not in data and view not in known:
            raise UserError(f"there is no view {view!r}{closest(str(view), known)}; all: {listed(known)}")
        return str(view)

    def view_about(self, name: str) -> str:
        """`L -600  W 1500 HU`, of a window."""
        from kdrun.domains.ct.windows import window

        level_width = name.split("/")
        try:
            found = window([float(part) for part in level_width] if len(level_width) == 2 else name)
        except (UserError, ValueError):
            return ""
        return f"L {found.level:g}  W {found.width:g} HU"


DOMAIN = DiagnosisDomain()
