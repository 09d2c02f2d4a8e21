"""What `data.questions` (question_subset.QuestionSubset) leaves of samples, and what it asks beside them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun.data import randomness
from kdrun.domains.vision_language.source import Sample, Turn
from kdrun.problems import UserError, closest, listed

if TYPE_CHECKING:
    from kdrun.domains.vision_language.source import Conversations

OWN, RECALLED, INSTRUCTED = GROUPS = ("own_mask", "recalled_mask", "instructed_mask")
"""Positions of answers in a batch: of samples of the data, of questions that were asked again, of wordings without an input."""
ASKED = {RECALLED: 1 << 61, INSTRUCTED: 1 << 62}
"""Added to the ids of such samples: those of conversations are below 2^51."""
APART = 1 << 52
"""Ids of one type of questions that are asked again; those of the next follow."""


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
        if of_type and (not found or found[-1].type != name):
            raise UserError(
                f"replay_bytes={subset['replay_bytes']}: no room for one question of type {name} with its input",
                f"the share of a type is 1/{len(subset['replay'])} of it",
            )
    return found


def asked(
    chosen: dict[str, list[Sample]],
    known: frozenset[int] | None,
    conversations: Conversations,
    subset: dict[str, Any] | None,
) -> tuple[dict[str, list[Sample]], frozenset[int] | None]:
    """(split -> samples, ids of training samples with an answer; None where all have one), with what `data.questions` asks beside.

    A sample is asked again by those types of `recalled` that are about inputs of its modality, and in none of which it is itself. The wording
    is drawn by its id from those that the source says of a type, so that no sample of that type is looked at.
    """
    if not subset or not (subset["recalled"] or subset["instructed"]):
        return chosen, known
    wordings, train = conversations.instructions, chosen["train"]
    if unknown := [name for name in (*subset["recalled"], *subset["instructed"]) if not wordings.get(name)]:
        raise UserError(
            f"data.questions: {conversations.name} says no wording of questions of type {unknown[0]!r}",
            f"it does of: {listed(wordings)}" if wordings else "data=modalities does",
        )
    modality_of, more = modalities_of(conversations), []
    for number, name in enumerate(subset["recalled"]):
        own = [one for one in train if one.images and modality_of[one.type] == modality_of[name] and one.type != name]
        drawn = randomness.bits(randomness.key("recalled", name), np.array([one.id for one in own], np.int64))
        for sample, place in zip(own, (drawn % np.uint64(len(wordings[name]))).tolist(), strict=True):
            turn = Turn(wordings[name][int(place)], "")
            more.append(Sample(ASKED[RECALLED] + number * APART + sample.id, sample.images, (turn,), name))
    texts = [(name, text) for name in subset["instructed"] for text in list(wordings[name])[: subset["instructions"]]]
    more += [Sample(ASKED[INSTRUCTED] + n, (), (Turn(text, ""),), name) for n, (name, text) in enumerate(texts)]
    answered = train if subset["answered"] else []
    known = frozenset(sample.id for sample in answered) if known is None or not subset["answered"] else known
    return {**chosen, "train": [*answered, *more]}, known


def groups_of(ids: np.ndarray) -> dict[str, np.ndarray]:
    """GROUPS -> bool [n]: which training samples (int64 [n]) are of each; {} where all are samples of the data."""
    recalled, instructed = ids >= ASKED[RECALLED], ids >= ASKED[INSTRUCTED]
    return {OWN: ~recalled, RECALLED: recalled & ~instructed, INSTRUCTED: instructed} if recalled.any() else {}


def modalities_of(conversations: Conversations) -> dict[str, str]:
    """Type of question -> modality of its inputs; "" where all inputs are pictures, or it has none."""
    store, found = conversations.images, {}
    for samples in conversations.samples.values():
        for sample in samples:
            if sample.type not in found:
                several = hasattr(store, "modality") and sample.images
                found[sample.type] = store.modality(sample.images[0]) if several else ""
    return found


def _bytes(sample: Sample, conversations: Conversations) -> int:
    """Of the inputs and texts of a sample."""
    inputs = conversations.images
    texts = sum(len(text.encode()) for turn in sample.turns for text in (turn.prompt, turn.answer))
    if hasattr(inputs, "raw"):
        return texts + sum(inputs.raw(number).nbytes for number in sample.images)
    return texts + 3 * inputs.size**2 * len(sample.images)
