"""Texts and chats for language models, as the rest of kdrun asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun.domains.base import Domain
from kdrun.domains.rows import Rows, Sums
from kdrun.schema import CONTENT, key

if TYPE_CHECKING:
    import numpy as np


@dataclass
class LanguageConfig:
    """How documents become rows of tokens."""

    vocabulary: int = key(4_000, "pieces of the tokenizer that is trained on the training split", minimum=264)
    tokenizer: str | None = key(
        None,
        "folder of an existing tokenizer instead, its name on the Hugging Face hub, or smollm2",
        path=True,
        hub=True,
        exists=True,
        words=("smollm2",),
        left_out=CONTENT,
    )
    max_length: int = key(
        256, "tokens of a row; longer texts are cut into pieces, longer chats at their end", minimum=8
    )
    pack: bool = key(True, "whether a training row holds several documents, which do not see each other")
    duplicates: str = key(
        "remove", "what to do with training documents that are in val or test too", choices=("remove", "keep")
    )
    prompts: int = key(16, "prompts of test that networks go on with, once they are trained", minimum=0, added=True)
    max_new: int = key(32, "most tokens that they write behind one", minimum=1, added=True)
    texts: str | None = key(
        None,
        "general texts whose perplexity is measured beside test: wiki_intros, made_corpus, or a file or folder of texts",
        path=True,
        exists=True,
        words=("wiki_intros", "made_corpus"),
        left_out=CONTENT,
        added=True,
    )


class LanguageDomain(Domain):
    """Texts and chats; what comes next is predicted, token by token."""

    name, kind = "causal_lm", "language"
    metrics = MappingProxyType({"bits_per_byte": "min", "loss": "min", "perplexity": "min", "token_accuracy": "max"})
    monitor = "bits_per_byte"
    settings = MappingProxyType({"language": LanguageConfig})
    supplies = ("vocabulary", "vocab_size", "pad", "bos", "eos", "max_length", "image_size")
    commands = ("generate", "chat")
    normalised, per_position, continues, transfers = False, True, True, True
    sampled = "a text file is one document, unless data.separator stands between several"
    written = ("exact_match", "rouge1", "rougeL", "distinct2", "generated_tokens")
    preferred = ("nats", "min", "bytes")
    generates = frozenset(("temperature", "prompt"))
    source = "kdrun.domains.language.source:Documents"
    learned = "kdrun.domains.language.task:CausalLanguage"
    described = "kdrun.domains.language.spec:LanguageSpec"
    makes, node = "kdrun.domains.language.module:language_module", "language"
    tokenizers = "kdrun.domains.language.tokens:existing"

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """From nats, tokens, right tokens and bytes of single documents."""
        if "nats" not in row:
            return {}
        from kdrun.domains.language.scores import SCORES

        return {name: Sums(_counts, partial(_score, score)) for name, score in SCORES.items()}

    def reads_unlabelled(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        target = data.get("_target_") or ""
        kind = "chats" if target.endswith(".chats") or data.get("chats") else "text_corpus"
        column = {"column": data["column"]} if kind == "text_corpus" and data.get("column") else {}
        return {"_target_": f"kdrun.domains.language.files.{kind}", **column}

    def view_keys(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Those that cut a text into tokens."""
        return tuple(f"language.{name}" for name in ("tokenizer", "vocabulary", "max_length"))

    def prompted(self, key: str, prompt: str | None, system: str | None) -> dict[str, Any]:
        from kdrun.domains.language.templates import check_template

        found = {name: value for name, value in (("prompt", prompt), ("system", system)) if value is not None}
        for name, template in found.items():
            check_template(f"{key}.{name}", template)
        return {"language": found}

    def content_hash(self, source: Any, config: dict[str, Any]) -> str:
        """With the content of a tokenizer that is given, of general texts, and of what a teacher reads in the place of prompts."""
        content = super().content_hash(source, config)
        if (texts := config["language"].get("texts")) is not None:
            from kdrun.domains.language import general

            content = hashlib.sha256(f"{content} texts {general.content_of(texts)}".encode()).hexdigest()
        from kdrun.domains.language.templates import Templates, content_of

        templates = Templates.of(config["language"])
        if templates is None:
            return content
        return hashlib.sha256(f"{content} {content_of(source, templates)}".encode()).hexdigest()

    def left_out(self, target: str) -> tuple[str, ...]:
        """Of files: paths and names of columns, whose content is in instead. Of a served network: where it is and how it is asked."""
        if target.endswith(".networks.served.ServedLanguageModel"):
            return ("url", "api", "key", "tokenizer", "in_flight", "timeout", "retries")
        ours = target.startswith("kdrun.domains.language.files.")
        return ("val_root", "test_root", "column") if ours else ()


def _counts(rows: Rows) -> np.ndarray:
    import numpy as np

    return np.asarray([[row[name] for name in ("nats", "tokens", "right", "bytes")] for row in rows], dtype=np.float64)


def _score(score: Any, sums: np.ndarray) -> np.ndarray:
    return score(*sums.T)


DOMAIN = LanguageDomain()
