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
    described = "kdrun.domains.answers.spec:AnswersSpec"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """Also the share of right answers."""
        return {**({"success": mean_of("right")} if "right" in row else {}), **super().sums(row)}

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.answers.task import AnswersModule
        from kdrun.domains.language.module import language_module

        return language_module(source, {**config, **config["language"]}, cache, AnswersModule)

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Any:
        from kdrun.domains.answers.task import Answers

        return Answers(module, decoding)


DOMAIN = AnswersDomain()
