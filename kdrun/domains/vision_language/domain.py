"""Questions about pictures, as the rest of kdrun asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdrun.domains.base import Domain


class VisionLanguage(Domain):
    """Pictures and questions in, answers out."""

    name = "vision_language"
    metrics = MappingProxyType({"accuracy": "max", "loss": "min", "token_accuracy": "max"})
    settings = ("vision",)
    commands = ("chat",)
    per_position = True
    decoding = frozenset(("max_extra",))
    evaluates = (
        "as a further test set beside data to train on: data=llava_json data.root=FOLDER data.file=FILE "
        "data.tests.NAME._target_=SOURCE data.tests.NAME.root=FOLDER",
    )

    def source_type(self) -> type:
        from kdrun.domains.vision_language.source import Conversations

        return Conversations

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.vision_language.build import VISION, vision_module

        return vision_module(source, {**config, **VISION, **(config["vision"] or {})}, cache)

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Any:
        from kdrun.domains.vision_language.task import VisionLanguage as Task

        return Task(module, decoding)

    def spec(self, metadata: Mapping[str, Any]) -> Any:
        from kdrun.domains.vision_language.spec import VisionSpec

        return VisionSpec.of(metadata)

    def content_hash(self, source: Any, config: dict[str, Any]) -> str:
        """With the content of a tokenizer that is given, in the place of the text that one would be made from."""
        given = (config["vision"] or {}).get("tokenizer")
        if not given:
            return source.content_hash
        from kdrun.domains.vision_language.tokens import tokenizer_hash

        return hashlib.sha256(f"{source.source_hash} {tokenizer_hash(given)}".encode()).hexdigest()


DOMAIN = VisionLanguage()
