"""What each learner of a job was trained on, where that differs from learner to learner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def seen_by(stages: Sequence[dict[str, Any]], cell: dict[str, Any], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Learner (teacher, assistants.NAME, student, and arms of the student that saw something else) -> {"name", "samples", ...}: what its
    last stage was trained on.

    {} where no teacher has data of its own and all samples have a label. stages: as the record lists them; cell: the config of one
    seed; arms: of the summary.
    """
    learners = {
        "teacher": cell["teacher"],
        **{f"assistants.{name}": node for name, node in cell["assistants"].items()},
        "student": cell["student"],
    }
    trained = [stage for stage in stages if stage.get("seen")]
    hidden = any("labelled" in stage["seen"] for stage in trained)
    if not hidden and not any(node.get("data") for node in learners.values()):
        return {}
    found = {stage["seen"]["by"]: stage["seen"] for stage in trained}
    arms = [arm for arm in arms if arm not in learners]
    of_arms = {stage["role"]: stage["seen"] for stage in trained if stage["seen"]["by"] == "student"}
    found |= {"student": of_arms["student"]} if "student" in of_arms else {}
    found |= {arm: of_arms[arm] for arm in arms if arm in of_arms and of_arms[arm] != found["student"]}
    return {
        key: {
            "name": learners.get(key, cell["student"])["name"],
            **{name: value for name, value in seen.items() if name != "by"},
        }
        for key, seen in found.items()
        if key in (*learners, *arms)
    }
