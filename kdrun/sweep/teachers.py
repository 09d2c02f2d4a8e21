"""Which teachers a sweep needs, and which of them are in the store: a dry run of every strategy, nothing is fitted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kdrun.sweep.plan import DONE, NO_TEACHER, STORED, TO_FIT, Point


def look_for_teachers(points: Sequence[Point], progress: Callable[[int], None] = lambda done: None) -> None:
    """Set `teacher` of every point. Points with the same data are looked at together: one view is in memory at a time."""
    from kdrun.job.cells import fit_cells, make_lab
    from kdrun.learning.device import resolve
    from kdrun.learning.report import Report

    labs: dict[str, Any] = {}
    needs: dict[int, list[str]] = {}
    order = sorted(points, key=lambda point: (json.dumps(point.job.config["data"], sort_keys=True), point.number))
    for count, point in enumerate(order):
        progress(count + 1)
        if point.status == DONE:
            point.teacher = STORED
            continue
        config = point.job.config
        hardware = resolve(config["hardware"])
        key = json.dumps([config["paths"], hardware], sort_keys=True)
        if key not in labs:
            labs[key] = make_lab(config["paths"], hardware, Report(), lambda item: None, dry=True)
        lab = labs[key]
        lab.forget()
        with point.job.allowing():
            fit_cells([{**cell, "hardware": hardware} for cell in point.job.cells], lab)
        stages = [planned for planned in lab.planned if planned.result.stage.teacher is not None]
        taught_by = [planned.result.stage.teacher for planned in stages if planned.status != DONE]
        needs[point.number] = list(dict.fromkeys(one.fingerprint for one in taught_by if not one.record))
        point.teacher = (TO_FIT if needs[point.number] else STORED) if stages else NO_TEACHER
    first: dict[str, int] = {}
    for point in points:
        missing = needs.get(point.number, [])
        if missing and all(fingerprint in first for fingerprint in missing):
            point.teacher = f"as {max(first[fingerprint] for fingerprint in missing)}"
        for fingerprint in missing:
            first.setdefault(fingerprint, point.number)
