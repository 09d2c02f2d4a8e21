"""What a language model and its task have to know about questions. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdrun.domains.language.spec import LanguageSpec


@dataclass(frozen=True)
class AnswersSpec(LanguageSpec):
    """Chats as in LanguageSpec, whose last answers are checked."""

    kind: ClassVar[str] = "answers"
