"""Keys of data in which the training of a learner that teaches differs from the run's (`teacher.data`): which may, and why others
may not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdrun.config.trees import leaves
from kdrun.domains.base import Domain
from kdrun.problems import UserError, listed
from kdrun.schema import Data, irrelevant

HELD_OUT = (
    "validation and test are the same for all learners of a run, so that none is trained on what another is judged on"
)
REASONS = {
    **dict.fromkeys(("split_seed", "val_fraction", "test_fraction", "limit.val", "limit.test"), HELD_OUT),
    "task": "all learners of a run learn the same task",
    "name": "it is the label of the run's data",
}


def views(domain: Domain, data: dict[str, Any]) -> tuple[str, ...]:
    """Keys of data, or nodes with keys, that say how a network sees a sample."""
    return tuple(dict.fromkeys(path.partition(".")[0] for path in domain.view_keys(data)))


def check(key: str, own: dict[str, Any], domain: Domain, data: dict[str, Any]) -> None:
    """Raises UserError for a key in which the data of a learner may not differ.

    key: where it stands in the config; own: its keys of data; data: those of the run.
    """
    training = tuple(irrelevant(Data, "training", task=domain.name))
    allowed = (*training, *domain.view_keys(data))
    for path, value in leaves(own, lists=False):
        if not path:
            return
        said = f"{key}.data.{path}={'null' if value is None else value}"
        below = _below(path, training)
        if path.partition(".")[0] == "normalize":
            raise UserError(f"{said}: give {key}.normalize, which also holds where it teaches")
        if not below and path not in allowed:
            reason = REASONS.get(
                path, "the samples, and what networks are given of them, are the same for all learners"
            )
            more = f"a network that was trained on other data is brought: {key}.weights=FILE"
            raise UserError(
                f"{said}: {reason}", f"what may differ: {listed(allowed)}", *([] if path in REASONS else [more])
            )


def _below(path: str, keys: tuple[str, ...]) -> bool:
    return any(f"{path}.".startswith(f"{key}.") for key in keys)


def seen_otherwise(domain: Domain, data: dict[str, Any], teachers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Keys of `data`, with their values, in which those who teach on it see its samples otherwise; teachers: their data.

    Raises UserError where two of them see the samples in two ways."""
    keys = views(domain, data)
    found = [{key: own.get(key) for key in keys if own.get(key) != data.get(key)} for own in teachers]
    if any(other != found[0] for other in found):
        shown = listed(dict.fromkeys(str(keys or "as the student does") for keys in found))
        raise UserError(
            f"teachers that teach at once have to see the samples alike, not in several views: {shown}",
            "leave the view out of teacher.data and assistants.NAME.data",
        )
    return found[0]
