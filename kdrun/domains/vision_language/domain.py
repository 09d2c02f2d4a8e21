"""Questions about pictures, as the rest of kdrun asks for them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kdrun.domains.base import Domain
from kdrun.domains.translation.domain import TranslationDomain
from kdrun.domains.vision_language.question_subset import QuestionSubset
from kdrun.schema import key


@dataclass
class Vision:
    """How conversations about images become tokens."""

    tower: str | None = key("efficientnet_lite0", "vision tower whose features are cached; null: networks see pixels")
    size: int = key(96, "height and width of images", minimum=1)
    features: str = key("cached", "tower features: kept on disk or computed each step", choices=("cached", "online"))
    image_tokens: int | None = key(None, "slots of an image, where the tower is the network's own", minimum=1)
    tokenizer: str | None = key(
        None, "tokenizer file or folder, or smollm2; null: trained on words", path=True, exists=True, words=("smollm2",)
    )
    template: str = key("plain", "chat template", choices=("plain", "chatml", "vicuna", "tokenizer"))
    max_length: int = key(128, "longest sequence in tokens, image slots included", minimum=2)


class VisionLanguageDomain(Domain):
    """Pictures and questions in, answers out."""

    name = "vision_language"
    metrics = MappingProxyType({"accuracy": "max", "loss": "min", "token_accuracy": "max"})
    settings = MappingProxyType({"vision": Vision, "questions": QuestionSubset})
    supplies = (
        *TranslationDomain.supplies,
        "image_token",
        "image_tokens",
        "image_size",
        "tower",
        "modalities",
        "feature_width",
    )
    commands = ("chat",)
    divided = ("questions", "types")
    per_position = transfers = True
    decoding = frozenset(("max_extra",))
    evaluates = (
        "as a further test set beside data to train on: data=llava_json data.root=FOLDER data.file=FILE "
        "data.tests.NAME._target_=SOURCE data.tests.NAME.root=FOLDER",
    )
    source = "kdrun.domains.vision_language.source:Conversations"
    learned = "kdrun.domains.vision_language.task:VisionLanguage"
    described = "kdrun.domains.vision_language.spec:VisionSpec"
    makes, node = "kdrun.domains.vision_language.build:vision_module", "vision"
    unlabelled = "kdrun.domains.vision_language.transfer.unlabelled_pictures"

    def content_hash(self, source: Any, config: dict[str, Any]) -> str:
        """With the content of a tokenizer that is given, in the place of the text that one would be made from."""
        given = config["vision"]["tokenizer"]
        if not given:
            return source.content_hash
        from kdrun.domains.vision_language.tokens import tokenizer_hash

        return hashlib.sha256(f"{source.source_hash} {tokenizer_hash(given)}".encode()).hexdigest()


DOMAIN = VisionLanguageDomain()
