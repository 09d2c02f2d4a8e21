"""Samples of some classes of a data set, as one task of a sequence has them: what a config says of it. No numpy."""

from __future__ import annotations

from dataclasses import dataclass

from kdrun.schema import key


@dataclass
class ClassSubset:
    """Samples of some of the classes alone; networks keep the outputs of all"""

    classes: list[int] = key([], "numbers of the classes whose samples are used, from 0; []: all", minimum=0)
    known: bool = key(
        False,
        "whether it is known that a sample is of one of these classes: metrics then look at the outputs of these alone",
    )
    replay: list[int] = key([], "further classes of which some training samples are used", minimum=0)
    replay_bytes: int = key(0, "bytes that inputs and labels of these may take together", minimum=0)
