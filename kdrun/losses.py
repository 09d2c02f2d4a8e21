"""Which loss a term of the objective names, and what names of losses that are settings of another one now stand for.

A term is `objective.NAME: {weight, options ...}`: the loss NAME of kdrun, or the one that `_target_` names. Besides the options
of its loss a term has the SETTINGS. A former name means the same as the loss and settings in FORMER, wherever a config, a record
or a table has it; a hash is made from the former name, so that old jobs keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdrun import signatures

HOME = "kdrun.objectives"

SETTINGS: Mapping[str, Any] = {
    "over": None,
    "execution": "dense",
    "student": None,
    "teacher": None,
    "adaptor": "auto",
    "resize": "auto",
    "logits": None,
    "only": None,
    "view": None,
}
"""Settings of every term, with their defaults; see objectives/settings.py."""

EXECUTION_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "chunked": {"chunk": None, "memory_mb": 128.0},
    "topk": {"k": 16},
}
"""Execution -> its further settings, with their defaults."""


SUPPLIED = ("sample_ids", "classes", "batch_size", "student_shapes", "teacher_shapes", "network", "importance")
"""Arguments that kdrun gives to a class of a term that names them: ids of training samples (int64 [N], ascending), number of
classes, samples of a step over all ranks, the shapes of what the term captures of each network, without the batch, the student as
the stage begins with it, and the file of what an Importance stage measured of it (None where there is none)."""


@dataclass(frozen=True)
class Former:
    """What a former name stands for. loss: name of a loss; settings: that the name implies; options: that it had, with defaults."""

    loss: str
    settings: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


_CHUNKS, _SOFT = EXECUTION_OPTIONS["chunked"], {"kind": "forward", "temperature": 1.0, "beta": 0.5}
FORMER: Mapping[str, Former] = {
    "fitnet": Former("hint", {}),
    "kd_topk": Former("kd", {"execution": "topk", "temperature": 1.0}, {"k": 16}),
    "kd_visual": Former("kd", {"over": "image_slots"}, {"temperature": 1.0}),
    "vocabulary_ce": Former("ce", {"execution": "chunked"}, {"label_smoothing": 0.0, **_CHUNKS}),
    "vocabulary_kd": Former("ce_kd", {"execution": "chunked", "ce": 0.0, "kd": 1.0}, {**_SOFT, **_CHUNKS}),
    "vocabulary_ce_kd": Former(
        "ce_kd", {"execution": "chunked"}, {"ce": 0.5, "kd": 0.5, **_SOFT, "label_smoothing": 0.0, **_CHUNKS}
    ),
    "vocabulary_kd_visual": Former(
        "kd", {"execution": "chunked", "over": "image_slots"}, {"temperature": 1.0, **_CHUNKS}
    ),
}


def former(target: str) -> Former | None:
    """What a dotted name such as kdrun.objectives.kd_topk.kd_topk stands for; None where it is no former name."""
    name = target.rpartition(".")[2]
    return FORMER.get(name) if target == f"{HOME}.{name}.{name}" else None


def present(target: Any) -> Any:
    """The dotted name under which what `target` names is to be found: of the loss that a former name stands for."""
    meant = former(target) if isinstance(target, str) else None
    return target if meant is None else f"{HOME}.{meant.loss}.{meant.loss}"


def resolve(name: str, node: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(dotted name of the loss, the term's other keys with what a former name implies) of the term `name`.

    A file of kdrun with a class instead of a function has it in capitals: `relation_memory.RelationMemory`.
    """
    rest = {key: value for key, value in node.items() if key != "_target_"}
    target = node.get("_target_") or f"{HOME}.{name}.{name}"
    if isinstance(target, str) and (meant := former(target)) is not None:
        return f"{HOME}.{meant.loss}.{meant.loss}", {**meant.options, **meant.settings, **rest}
    if not node.get("_target_"):
        capitals = "".join(word.capitalize() for word in name.split("_"))
        if capitals in signatures.callables(f"{HOME}.{name}") and not name[:1].isupper():
            target = f"{HOME}.{name}.{capitals}"
    return target, rest
