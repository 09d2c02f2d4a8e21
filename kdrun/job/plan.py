"""The plan of a job: its stages, what is in the store, what the rest would cost. Nothing is trained."""

from __future__ import annotations

from typing import Any


def make_plan(job: Any, *, why: bool = False) -> dict[str, Any]:
    """The plan in JSON types: {"job", "data", "other_data", "features", "assumed", "stages": [...], "estimate": {...}, "least"}.

    other_data  data of stages that learn from others than the job's: what they are, and the keys that differ
    features    {"missing": images, "bytes": disk} of features that are kept; None where the data have none
    assumed     what to know of it: settings that stay beside others of the same name, choices that depend on results
                which are not there
    estimate    of all seeds: {"stages", "seconds", "at_once", "elapsed"}; least: of as many as seeds=auto has before it looks for
                the first time, else None
    """
    with job.allowing():
        return _make_plan(job, why)


def _make_plan(job: Any, why: bool) -> dict[str, Any]:
    from kdrun.job.cells import expected, fit_cells, make_lab, planned_on
    from kdrun.lab.fingerprint import differences
    from kdrun.lab.stages.base import Look
    from kdrun.learning.device import apply_threads, foreseen
    from kdrun.learning.report import Report
    from kdrun.processes.pool import jobs_within
    from kdrun.tracking.credentials import resolve_mode

    resolve_mode(job.config["tracker"])
    hardware = foreseen(job.config["hardware"])
    apply_threads(hardware)
    from kdrun.learning.beforehand import check_aligned, check_builds

    lab = make_lab(job.config["paths"], hardware, Report(), lambda item: None, dry=True)
    main = job.config["data"]
    planned = expected(job.config, lab.workshop)
    module = lab.workshop.data(main)
    module.task().notes()  # a score that lacks its package is told now
    data = {**_told(module), "audit": module.audit()}
    check_builds(*planned_on(planned, main, lab.workshop), hardware)
    check_aligned(planned, lab.workshop)
    at_once = jobs_within(None, job.config["hardware"])
    looks = job.config["looks"] or [len(job.cells)]
    fit_cells([{**cell, "hardware": hardware} for cell in job.cells[: looks[0]]], lab)
    least = len(lab.planned)
    if cells := job.cells[looks[0] :]:
        fit_cells([{**cell, "hardware": hardware} for cell in cells], lab)
    stages: dict[str, dict[str, Any]] = {}
    others, features, probes = [], Features(), {}
    # All stages of one data view before the next: the workshop keeps one at a time.
    for view in _views([main, *(planned.result.stage.data for planned in lab.planned)]):
        module = lab.workshop.data(view)
        features.add(module)
        same_split = [cell["data"] for cell in job.cells if cell["data"]["split_seed"] == view.get("split_seed")]
        differs = {key: there for key, (_, there) in differences(next(iter(same_split), main), view).items()}
        if differs and differs not in [other["differs"] for other in others]:
            others.append({**_told(module), "differs": differs})
        for planned in lab.planned:
            if planned.result.stage.data == view:
                stages[planned.result.fingerprint] = _entry(
                    planned, Look(module, lab.workshop, probes), differs, lab, why
                )
    ordered = [stages[planned.result.fingerprint] for planned in lab.planned]
    return {
        "job": {
            "hash": job.hash,
            "slug": job.slug,
            "seeds": job.config["seeds"],
            "vary": job.config["vary"],
            "auto": job.auto,
        },
        "data": data,
        "other_data": others,
        "features": features.found(),
        "assumed": [*job.notes, *lab.assumed],
        "stages": ordered,
        "estimate": _estimate(lab.planned, ordered, at_once),
        "least": {"seeds": looks[0], **_estimate(lab.planned[:least], ordered, at_once)}
        if job.config["looks"]
        else None,
    }


def _estimate(planned: list[Any], stages: list[dict[str, Any]], at_once: int) -> dict[str, Any]:
    """Of the stages that are not in the store: their number, and their time as far as it is known, one after another (`seconds`)
    and so many at a time (`elapsed`), each begun as soon as a place is free and the stages that it builds upon are there."""
    new = [stage for stage in stages[: len(planned)] if stage["status"] != "done"]
    known = [stage["estimate"]["seconds"] for stage in new if stage["estimate"]["seconds"] is not None]
    if new and not known:
        return {"stages": len(new), "seconds": None, "at_once": at_once, "elapsed": None}
    from kdrun.job.parallel_lab import results_in

    ends: dict[str, float] = {}
    places = [0.0] * at_once
    for item, stage in zip(planned, stages, strict=False):
        seconds = 0.0 if stage["status"] == "done" else stage["estimate"]["seconds"] or 0.0
        before = [ends.get(other.fingerprint, 0.0) for other in results_in(item.result.stage)]
        place = places.index(min(places))
        begin = max(places[place], *before, 0.0)
        ends[item.result.fingerprint] = begin + seconds
        if seconds:
            places[place] = begin + seconds
    return {"stages": len(new), "seconds": sum(known), "at_once": at_once, "elapsed": max(ends.values(), default=0.0)}


def _views(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct ones, in order."""
    found: list[dict[str, Any]] = []
    for config in configs:
        if config not in found:
            found.append(config)
    return found


def _told(module) -> dict[str, Any]:
    return {"name": module.spec.name, "about": module.spec.about, "sizes": module.spec.sizes}


class Features:
    """Features of images that data modules keep on disk; data that share a cache count once."""

    def __init__(self) -> None:
        self._used: dict[Any, tuple[Any, set[int]]] = {}

    def add(self, module) -> None:
        cache = getattr(getattr(module, "pictures", None), "features", None)
        if cache is not None:
            images = {int(image) for split in module.spec.sizes for image in module.samples(split).images.flat}
            self._used.setdefault(cache.folder, (cache, set()))[1].update(images)

    def found(self) -> dict[str, int] | None:
        """{"missing": images that are used and have none yet, "bytes": disk that all take in the end}."""
        if not self._used:
            return None
        import numpy as np

        missing = [cache.missing(np.array(sorted(images), np.int64)) for cache, images in self._used.values()]
        return {"missing": sum(missing), "bytes": sum(cache.bytes for cache, _ in self._used.values())}


def _entry(planned, look: Any, differs: dict[str, Any], lab, why: bool) -> dict[str, Any]:
    """What the stage says of itself, and what there is of it in the store."""
    result = planned.result
    entry = {"label": result.stage.label, "status": planned.status, "fingerprint": result.fingerprint}
    entry |= {"data": result.stage.data["name"], "data_differs": differs, **result.stage.plan(look)}
    if why and planned.status != "done":
        entry["why"] = _nearest(planned, lab)
    return entry


def _nearest(planned, lab) -> dict[str, Any] | None:
    nearest = lab.why(planned)
    return nearest and {"nearest": nearest[0], "differs": {k: list(v) for k, v in nearest[1].items()}}
