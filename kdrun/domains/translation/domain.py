"""Parallel text, as the rest of kdrun asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun.domains.base import Domain, Foreseen
from kdrun.domains.rows import Rows, Sums
from kdrun.moved import current
from kdrun.schema import CONTENT, key

if TYPE_CHECKING:
    import numpy as np


@dataclass
class TextConfig:
    """How sentences become tokens."""

    vocabulary: int = key(4_000, "pieces of the joint tokenizer that is trained on the training split", minimum=1)
    tokenizer: str | None = key(
        None, "file or folder of an existing tokenizer instead", path=True, exists=True, left_out=CONTENT
    )
    max_length: int = key(128, "longest sequence in tokens; longer pairs are left out of training", minimum=2)
    duplicates: str = key("remove", "what to do with pairs that are in two splits", choices=("remove", "keep"))
    bleu: str = key(
        "auto",
        "how sentences are cut into words for BLEU; auto: by the target language",
        choices=("auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "flores101", "none"),
        added=True,
    )


def _counts(rows: Rows) -> np.ndarray:
    import numpy as np

    return np.asarray([row["counts"] for row in rows], dtype=np.float64)


class TranslationDomain(Domain):
    """Sentences in one language in, sentences in another out."""

    name, kind = "translation", "parallel_text"
    metrics = MappingProxyType({"bleu": "max", "chrf": "max", "loss": "min", "token_accuracy": "max"})
    settings = MappingProxyType({"text": TextConfig})
    supplies = ("vocabulary", "vocab_size", "pad", "bos", "eos", "max_length")
    commands = ("translate",)
    normalised, per_position, transfers = False, True, True
    generates = frozenset(("beam", "length_penalty"))
    decoding = frozenset(("beam", "val_beam", "length_penalty", "max_factor", "max_extra"))
    source = "kdrun.domains.translation.source:Pairs"
    learned = "kdrun.domains.translation.task:Translation"
    described = "kdrun.domains.translation.spec:TextSpec"
    makes, node = "kdrun.domains.translation.build:text_module", "text"
    tokenizers = "kdrun.data.tokenizer:existing"
    unlabelled = "kdrun.domains.translation.transfer.unlabelled_sentences"

    def foreseen(self, planned: Mapping[str, Any], data: Mapping[str, Any]) -> Foreseen:
        """Pairs of `planned["tokens"]` tokens on either side."""
        from kdrun.domains.translation.spec import TextSpec

        tokens, most = planned["tokens"], data["text"]["max_length"]
        ids = {"pad": 0, "bos": 1, "eos": 2, "unk": 3, "vocabulary": data["text"]["vocabulary"]}
        languages = tuple(str(data["direction"]).split("-"))
        sizes = {"train": planned["train"]}
        spec = TextSpec("foreseen", languages=languages, sizes=sizes, max_length=most, tokenizer="", **ids)

        def passes(count: int) -> Callable[[Any], object]:
            def forward(network: Any) -> object:
                import torch

                rows = torch.zeros((count, tokens), dtype=torch.int64, device="meta")
                return network(source=rows, source_mask=torch.ones_like(rows, dtype=torch.bool), target=rows)

            return forward

        return Foreseen(spec, passes, tokens)

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """BLEU and chrF, from what sacreBLEU counts in a sentence."""
        if "counts" not in row:
            return {}
        from kdrun.domains.translation.scores import FIELDS, scores

        def score(name: str, sums: np.ndarray) -> np.ndarray:
            import numpy as np

            return np.asarray([scores(one, [name])[name] / 100 for one in sums.astype(np.int64)])

        return {name: Sums(_counts, partial(score, name)) for name in FIELDS}

    def left_out(self, target: str) -> tuple[str, ...]:
        """Of pairs of files: paths, and where in them the sentences are, which are in instead."""
        if current(target) != "kdrun.domains.translation.parallel_text.parallel_text":
            return ()
        paths = (f"{split}{side}" for split in ("", "val_", "test_") for side in ("source", "target"))
        return (*paths, "columns", "msgstr_language")


DOMAIN = TranslationDomain()
