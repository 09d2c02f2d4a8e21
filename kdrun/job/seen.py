"""What each learner of a job was trained on, where that differs from learner to learner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def seen_by(stages: Sequence[dict[str, Any]], cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Learner (teacher, assistants.NAME, student) -> {"name", "samples", ...}: what its last stage was trained on.

    {} where no teacher has data of its own. stages: as the record lists them; cell: the config of one seed."""
    learners = {
        "teacher": cell["teacher"],
        **{f"assistants.{name}": node for name, node in cell["assistants"].items()},
        "student": cell["student"],
    }
    if not any(node.get("data") for node in learners.values()):
        return {}
    found = {stage["seen"]["by"]: stage["seen"] for stage in stages if stage.get("seen")}
    return {
        key: {"name": node["name"], **{name: value for name, value in found[key].items() if name != "by"}}
        for key, node in learners.items()
        if key in found
    }
