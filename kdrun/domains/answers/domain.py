"""Questions whose answers are checked, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdrun.domains.language.domain import LanguageDomain
from kdrun.domains.rows import Sums, mean_of


class AnswersDomain(LanguageDomain):
    """Questions and answers that are checked: a language model writes an answer, which is right or wrong."""

    name, kind = "answers", "answers"
    metrics = MappingProxyType({"success": "max", **LanguageDomain.metrics})
    monitor = "success"
    commands = (*LanguageDomain.commands, "think")
    written = ()
    preferred = None
    learned = "kdrun.domains.answers.task:Answers"
    described = "kdrun.domains.answers.spec:AnswersSpec"
    held = "kdrun.domains.answers.task:AnswersModule"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """Also the share of right answers."""
        return {**({"success": mean_of("right")} if "right" in row else {}), **super().sums(row)}


DOMAIN = AnswersDomain()
