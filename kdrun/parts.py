"""The parts of a result, one network each: it has one, or one for each view, client, budget or task.

Whoever shows, plots, exports or counts a result goes over its parts. What records of all times say of them is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdrun.records import figure_of

BEST = "best"
WHOLE = "student"
"""The name of the part of a result that is one network."""
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One network of a result.

    name     of the view, client, budget or task; WHOLE where the result has one network
    stage    entry (in a run's record) of the stage that holds its weights
    figures  "val", "test" and further test sets -> "best" and "last" epoch -> metric -> value; of further sets the best epoch
    counted  whether the figures of the result are means over it
    file     what the names of its files of weights begin with
    facts    what was measured of it alone: parameters, samples, seconds, energy, traffic ...
    """

    name: str
    stage: Entry
    figures: Entry
    counted: bool = True
    file: str = ""
    facts: Entry = field(default_factory=dict)

    def weights(self, which: str = BEST) -> str:
        """Name of the file of its weights in the folder of its stage."""
        return f"{self.file}{which}.safetensors"

    def figure(self, metric: str, split: str = "test", which: str = BEST) -> float | None:
        return figure_of(self.figures, metric, split, which)


def parts_of(entry: Entry, stages: Iterable[Entry] = ()) -> dict[str, Part]:
    """Name -> part of the result of a stage. stages: those that its parts may be; {} where one of them is not there.
    Parts that are stages by themselves are in the order of these."""
    if members := entry.get("members"):
        known = {stage["fingerprint"]: stage for stage in stages if stage.get("fingerprint")}
        order = list(known)
        if not all(fingerprint in known for fingerprint in members.values()):
            return {}
        counted = entry.get("counted") or members
        return {
            name: Part(name, known[one], figures_of(known[one]), name in counted, facts=known[one])
            for name, one in sorted(members.items(), key=lambda item: order.index(item[1]))
        }
    if clients := entry.get("clients"):
        names = [(client, f"client {client['client']}") for client in clients]
        return {
            name: Part(name, entry, figures_of(client), file=f"client-{client['client']:02d}.", facts=client)
            for client, name in names
        }
    if tasks := entry.get("tasks"):
        return {task["name"]: Part(task["name"], entry, figures_of(task), facts=task) for task in tasks}
    parts = {WHOLE: Part(WHOLE, entry, figures_of(entry), facts=entry)}
    for peer in entry.get("peers") or ():
        name = peer["name"]
        parts[name] = Part(name, entry, figures_of(peer), counted=False, file=f"{name}.", facts=peer)
    return parts


def figures_of(said: Entry) -> dict[str, Any]:
    further = {name: {BEST: figures} for name, figures in (said.get("further") or {}).items()}
    return {"val": said.get("val") or {}, "test": said.get("test") or {}, **further}


def is_group(entry: Entry) -> bool:
    """Whether a stage looks at finished stages together: nothing was trained for it, and its parts are stages by themselves."""
    return bool(entry.get("members"))


def trained_nothing(entry: Entry) -> bool:
    """Whether a stage looks at what others trained."""
    return is_group(entry) or bool(entry.get("tasks"))


def groups_of(record: Entry) -> dict[str, dict[int, dict[str, Part]]]:
    """Role -> seed -> parts, of results that are finished stages together; those with a part that the record lacks are left out."""
    stages = record.get("stages") or []
    groups: dict[str, dict[int, dict[str, Part]]] = {}
    for stage in filter(is_group, stages):
        if parts := parts_of(stage, stages):
            groups.setdefault(stage["role"], {})[stage["seed"]] = parts
    return groups


def start_of(part: Part, stages: Iterable[Entry]) -> Entry | None:
    """The stage whose weights a part began with; its own where it is nobody's continuation."""
    stages = list(stages)
    start = part.stage.get("start")
    if (
        start is None
    ):  # a record of the time when entries did not say it, and the first training of a view had this name
        same = [s for s in stages if s["role"] == f"before_{part.name}" and s["seed"] == part.stage["seed"]]
        return same[0] if same else part.stage
    return next((stage for stage in stages if stage.get("fingerprint") == start), None)


def gains_of(arm: Entry) -> Entry:
    """What the parts of an arm gained over the same ones alone (see job.summary.gains); {} where it has one part."""
    return arm.get("gains") or arm.get("clients") or {}


def against(summary: Entry) -> str:
    """The arm that the student is held against: what would be there without a teacher."""
    if "compared_with" in summary:
        return summary["compared_with"]
    return "equal_compute" if summary.get("decisions") else "alone"  # as it was before summaries said it


def headline_epoch(summary: Entry) -> str:
    """The epoch whose figures a run is judged by: "best" or "last" (see job.selection)."""
    return (summary.get("headline") or {}).get("which", BEST)  # as it was before summaries said it


def epoch_of(record: Entry, arm: str) -> str:
    """The epoch whose weights stand for an arm of a run: that by which the run is judged. What other stages go on from or are taught
    by, as a teacher, is the selected epoch."""
    summary = record.get("summary") or {}
    return headline_epoch(summary) if arm in (summary.get("arms") or {}) else BEST


def has_last(arm: Entry) -> bool:
    """Whether an arm has a last epoch beside the selected one; networks together are at their selected ones."""
    epochs = [seed.get("epoch_best") for seed in (arm.get("seeds") or {}).values() if "epoch_best" in seed]
    return not epochs or any(epoch is not None for epoch in epochs)
