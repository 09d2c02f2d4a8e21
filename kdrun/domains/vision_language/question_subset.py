"""Questions of some types of a data set, as one task of a sequence has them: what a config says of it. No numpy."""

from __future__ import annotations

from dataclasses import dataclass

from kdrun.schema import key


@dataclass
class QuestionSubset:
    """Questions of some types alone"""

    types: list[str] = key([], "types of questions that are used; []: all")
    replay: list[str] = key([], "further types of which some training samples are used")
    replay_bytes: int = key(0, "bytes that inputs and texts of these may take together", minimum=0)
    recalled: list[str] = key(
        [], "types by which inputs of training samples are asked about as well, without an answer"
    )
    instructed: list[str] = key([], "types whose wordings are training samples without any input or answer")
    instructions: int = key(32, "wordings of each of these", minimum=1)
    answered: bool = key(True, "whether training samples that have an answer are used")
