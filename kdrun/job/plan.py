"""The plan of a job: its stages, what is in the store, what the rest would cost. Nothing is trained."""

from __future__ import annotations

import json
from typing import Any


def make_plan(job: Any, *, why: bool = False) -> dict[str, Any]:
    """The plan in JSON types: {"job", "data", "other_data", "features", "assumed", "stages": [...], "estimate": {...}}.

    other_data  data of stages that learn from others than the job's: what they are, and the keys that differ
    features    {"missing": images, "bytes": disk} of features that are kept; None where the data have none
    assumed     what to know of it: settings that stay beside others of the same name, choices that depend on results
                which are not there
    """
    with job.allowing():
        return _make_plan(job, why)


def _make_plan(job: Any, why: bool) -> dict[str, Any]:
    from kdrun.domains.task import task_for
    from kdrun.lab.fingerprint import differences
    from kdrun.lab.stage import Federation
    from kdrun.learning.device import apply_threads, resolve
    from kdrun.learning.report import Report
    from kdrun.run import expected, fit_cells, make_lab, planned_on
    from kdrun.tracking.credentials import resolve_mode

    resolve_mode(job.config["tracker"])
    hardware = resolve(job.config["hardware"])
    apply_threads(hardware)
    from kdrun.learning.beforehand import check_builds
    from kdrun.learning.probe import probe  # imports lightning, which `resolve` has made safe beside a torchvision

    lab = make_lab(job.config["paths"], hardware, Report(), lambda item: None, dry=True)
    main = job.config["data"]
    planned = expected(job.config)
    module = lab.shop.data(main)
    task_for(module).notes()  # a score that lacks its package is told now
    data = {**_told(module), "audit": module.audit()}
    check_builds(*planned_on(planned, main, lab.shop), hardware)
    fit_cells([{**cell, "hardware": hardware} for cell in job.cells], lab)
    stages: dict[str, dict[str, Any]] = {}
    others, features = [], Features()
    # All stages of one data view before the next: the shop keeps one at a time.
    for view in _views([main, *(planned.trained.stage.data for planned in lab.planned)]):
        module = lab.shop.data(view)
        features.add(module)
        differs = {key: there for key, (_, there) in differences(main, view).items()}
        if differs:
            others.append({**_told(module), "differs": differs})
        looked_at: dict[str, dict[str, Any]] = {}
        for planned in lab.planned:
            stage = planned.trained.stage
            if stage.data != view:
                continue
            if isinstance(stage, Federation):
                entry = _federated(planned, module, differs)
                if why and planned.status != "done":
                    entry["why"] = _nearest(planned, lab)
                stages[planned.trained.fingerprint] = entry
                continue
            # Seeds of one stage differ in nothing that a probe has to tell twice.
            teachers = [[one.stage.learner["network"], one.path and one.fingerprint] for one in stage.teachers]
            started = None if stage.start is None else stage.start.path is not None
            alike = [stage.learner, stage.objective, stage.trainer, stage.teaching, teachers, started, stage.sees]
            kind = json.dumps(alike, sort_keys=True)
            if kind not in looked_at:
                seen = lab.shop.seen(stage.seen, module) if stage.sees else None
                stored = [lab.taught_by(one, stage) if one.path else None for one in stage.teachers]
                looked_at[kind] = probe(stage, module, seen, stored)
            stages[planned.trained.fingerprint] = _entry(planned, looked_at[kind], module, differs, lab, why)
    ordered = [stages[planned.trained.fingerprint] for planned in lab.planned]
    new = [stage for stage in ordered if stage["status"] != "done"]
    known = [stage["estimate"]["seconds"] for stage in new if stage["estimate"]["seconds"] is not None]
    return {
        "job": {"hash": job.hash, "slug": job.slug, "seeds": job.config["seeds"], "auto": job.auto},
        "data": data,
        "other_data": others,
        "features": features.found(),
        "assumed": [*job.notes, *lab.assumed],
        "stages": ordered,
        "estimate": {"stages": len(new), "seconds": sum(known) if known or not new else None},
    }


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


def _entry(planned, found: dict[str, Any], module, differs: dict[str, Any], lab, why: bool) -> dict[str, Any]:
    from kdrun.learning.topk import cache_size

    stage = planned.trained.stage
    samples = (stage.trainer["epochs"] if stage.trainer else 0) * module.spec.sizes["train"]
    online = stage.teacher is not None and stage.teaching["source"] == "online"
    per_sample = None
    if found["flops"] is not None:
        per_sample = 3 * found["flops"] + ((found["teacher_flops"] or 0) if online else 0)
    # Evaluation and bookkeeping come on top of the measured step; a tenth is what they take on the shipped sets.
    seconds = None if found["step_seconds"] is None else 1.1 * found["step_seconds"] * found["steps"]
    entry = {
        "label": stage.label,
        "status": planned.status,
        "fingerprint": planned.trained.fingerprint,
        "learner": stage.learner["name"],
        "network": stage.learner["network"]["_target_"],
        "weights": stage.learner["weights"],
        "teacher": stage.teacher
        and {
            "learner": stage.teacher.stage.learner["name"],
            "fingerprint": stage.teacher.fingerprint,
            **stage.teaching,
            "also": [{"learner": one.stage.learner["name"], "fingerprint": one.fingerprint} for one in stage.also],
            "drop": stage.drop,
            "cache_bytes": cache_size(module, stage.objective, lab.shop.feature_width(stage))
            if stage.teaching["source"] == "cached"
            else None,
        },
        "start": stage.start and stage.start.fingerprint,
        "objective": {name: term for name, term in stage.objective.items() if term["weight"]},
        "terms": found["terms"],
        "untrained": found["untrained"],
        "data": stage.data["name"],
        "data_differs": differs,
        "epochs": stage.trainer["epochs"] if stage.trainer else 0,
        "parameters": found["parameters"],
        "trainable": found["trainable"] if stage.trainer else 0,
        "flops": found["flops"],
        "estimate": {
            "seconds": seconds,
            "steps": found["steps"],
            "samples": samples,
            "flops": None if per_sample is None else per_sample * samples,
            "method": "one measured step times the number of steps; FLOPs counted forward, times 3 for training",
        },
    }
    if why and planned.status != "done":
        entry["why"] = _nearest(planned, lab)
    return entry


def _nearest(planned, lab) -> dict[str, Any] | None:
    nearest = lab.why(planned)
    return nearest and {"nearest": nearest[0], "differs": {k: list(v) for k, v in nearest[1].items()}}


def _federated(planned, module, differs: dict[str, Any]) -> dict[str, Any]:
    """The entry of clients that learn together; "federation" says more (see federation.plan.planned)."""
    from kdrun.federation.plan import planned as about

    stage = planned.trained.stage
    found = about(stage, module)
    return {
        "label": stage.label,
        "status": planned.status,
        "fingerprint": planned.trained.fingerprint,
        "learner": stage.learner["name"],
        "network": stage.learner["network"]["_target_"],
        "weights": None,
        "teacher": None,
        "start": None,
        "objective": {},
        "terms": {},
        "untrained": [],
        "data": stage.data["name"],
        "data_differs": differs,
        "epochs": found["rounds"],
        "parameters": sum(one["parameters"] for one in found["private"]),
        "trainable": found["parameters"],
        "flops": None,
        "federation": found,
        "estimate": {
            "seconds": None,
            "steps": found["steps"],
            "samples": None,
            "flops": None,
            "method": "not estimated",
        },
    }
