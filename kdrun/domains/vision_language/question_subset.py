"""Questions of some types of a data set, as one task of a sequence has them: what a config says of it, and what is left of the samples. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun.data import randomness
from kdrun.problems import UserError, closest, listed
from kdrun.schema import key

if TYPE_CHECKING:
    from kdrun.domains.vision_language.source import Conversations, Sample


@dataclass
class QuestionSubset:
    """Questions of some types alone"""

    types: list[str] = key([], "types of questions that are used; []: all")
    replay: list[str] = key([], "further types of which some training samples are used")
    replay_bytes: int = key(0, "bytes that inputs and texts of these may take together", minimum=0)


def restricted(
    chosen: dict[str, list[Sample]], conversations: Conversations, subset: dict[str, Any] | None
) -> dict[str, list[Sample]]:
    """What `data.questions` leaves of all splits; None: everything.

    Of `replay` as many training samples stay as fit into `replay_bytes`, in equal parts of each of these types. Which ones depends on sample ids
    alone, and those that fit into fewer bytes are among those that fit into more. Inputs of other samples are not looked at.
    Raises UserError for a type that is not there, and where nothing is left to train on.
    """
    if not subset or not (subset["types"] or subset["replay"]):
        return chosen
    known = sorted({sample.type for samples in chosen.values() for sample in samples})
    for name in ("types", "replay"):
        if wrong := [one for one in subset[name] if one not in known]:
            raise UserError(
                f"data.questions.{name}: {conversations.name} has no questions of type {wrong[0]!r}{closest(wrong[0], known)}",
                f"there are: {listed(known)}",
            )
    types = subset["types"] or known
    if both := sorted({*types} & {*subset["replay"]}):
        raise UserError(f"data.questions.replay={subset['replay']}: {both[0]} is among the types that are used anyway")
    left = {split: [sample for sample in samples if sample.type in types] for split, samples in chosen.items()}
    left["train"] = left["train"] + _remembered(chosen["train"], conversations, subset)
    if chosen["train"] and not left["train"]:
        raise UserError(f"data.questions.types={types}: {conversations.name} has no training samples of these")
    return left


def _remembered(samples: Sequence[Sample], conversations: Conversations, subset: dict[str, Any]) -> list[Sample]:
    """What a memory of `replay_bytes` holds of the types `replay`."""
    found: list[Sample] = []
    for name in subset["replay"]:
        of_type, room = (
            [sample for sample in samples if sample.type == name],
            subset["replay_bytes"] // len(subset["replay"]),
        )
        ids = np.array([sample.id for sample in of_type], np.int64)
        for place in randomness.order(randomness.key("replay", 0), ids).tolist():
            room -= _bytes(of_type[place], conversations)
            if room < 0:
                break
            found.append(of_type[place])
    return found


def _bytes(sample: Sample, conversations: Conversations) -> int:
    """Of the inputs and texts of a sample."""
    inputs = conversations.images
    texts = sum(len(text.encode()) for turn in sample.turns for text in (turn.prompt, turn.answer))
    if hasattr(inputs, "raw"):
        return texts + sum(inputs.raw(number).nbytes for number in sample.images)
    return texts + 3 * inputs.size**2 * len(sample.images)
