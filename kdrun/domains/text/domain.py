"""Texts and their classes, as the rest of kdrun asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from kdrun.domains.base import Domain
from kdrun.schema import CONTENT, key


@dataclass
class Tokens:
    """How texts become tokens."""

    vocabulary: int = key(8_000, "pieces of the tokenizer that is trained on the training split", minimum=261)
    tokenizer: str | None = key(
        None,
        "file or folder of an existing tokenizer instead, or minilm",
        path=True,
        exists=True,
        words=("minilm",),
        left_out=CONTENT,
    )
    max_length: int = key(128, "longest text in tokens; what is longer is cut", minimum=3)
    duplicates: str = key(
        "remove", "what to do with training texts that are in val or test too", choices=("remove", "keep")
    )


class OfTexts(Domain):
    """Texts (or pairs of texts) in. files: the source that reads files of the user's own."""

    files: str
    settings = MappingProxyType({"tokens": Tokens})
    options = ("text",)
    supplies = ("num_classes", "num_labels", "vocabulary", "vocab_size", "pad", "max_length")
    normalised = False
    transfers = True
    commands = ("predict",)
    reads = "kdrun.domains.text.reader:TextReader"
    makes, node = "kdrun.domains.text.module:text_module", "tokens"
    tokenizers = "kdrun.domains.text.tokens:existing"
    unlabelled = "kdrun.domains.text.files.unlabelled_texts"

    def left_out(self, target: str) -> tuple[str, ...]:
        """Of files: paths and names of columns, whose content is in instead."""
        return ("val_root", "test_root", "text", "label", "split") if target == self.files else ()


class TextDomain(OfTexts):
    """Texts (or pairs of texts) in, one of C classes out."""

    name = "text_classification"
    files = "kdrun.domains.text.files.text_file"
    metrics = MappingProxyType(
        {
            "accuracy": "max",
            "f1": "max",
            "mcc": "max",
            "auroc": "max",
            "top5": "max",
            "worst_class": "max",
            "loss": "min",
            "calibration": "min",
        }
    )
    source = "kdrun.domains.text.source:Texts"
    learned = "kdrun.domains.text.task:TextClassification"
    described = "kdrun.domains.text.spec:ClassifiedTextSpec"


DOMAIN = TextDomain()
