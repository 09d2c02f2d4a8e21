"""Any encoder of transformers (BERT, RoBERTa, MiniLM, DistilBERT ...) with a layer for classes, as a teacher or a student."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.folders import pretrained
from kdrun.networks.huggingface import (
    MOST_UNUSED,
    HuggingFaceNetwork,
    check_length,
    check_vocabulary,
    of_fields,
    other_tokenizer,
)
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

SEMANTICS = 1

TARGETS = ("HuggingFaceEncoder",)

MINILM = "minilm"
SHIFTED = ("roberta", "camembert", "longformer", "mpnet")
"""Kinds of networks (parts of a model_type) whose first position is that behind the pad token."""
TOKENIZER, LENGTH = "data.tokens.tokenizer", "data.tokens.max_length"


class HuggingFaceEncoder(HuggingFaceNetwork):
    """A network of transformers' AutoModelForSequenceClassification with the classes of the data.

    model: a folder with config.json and weights, a name on the Hugging Face hub (found in its cache, or downloaded unless
        HF_HUB_OFFLINE is set), or minilm (kdrun fetch minilm); no code that comes with it is run. The layer for classes is new where
        the folder has none for as many.
    config: in place of model, {"model_type": "bert", ...} with fields of its configuration: random weights. Size of the vocabulary,
        pad token and number of positions are the data's where it leaves them out.
    from_layers: numbers of the layers that are kept, from 0, in this order; null: all.
    vocabulary, pad, max_length, num_classes: of the data.

    network(input_ids int64 [B, L], attention_mask bool [B, L] or None, token_type_ids int64 [B, L] of pairs) -> logits [B, num_classes].
    Raises UserError where transformers is absent, there is no such network or layer, or it was made for another vocabulary, another
    pad token or shorter texts.
    """

    def __init__(
        self,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        from_layers: list[int] | None = None,
        vocabulary: int | None = None,
        pad: int | None = None,
        max_length: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        example = "for example network.model=minilm, or 'network.config={model_type: bert}'"
        super().__init__(model, config, "an encoder", example)
        if model is None:
            self.model = _random(config, vocabulary, pad, max_length, num_classes)
        else:
            self.model = _pretrained(model, num_classes)
        self._check(model or config["model_type"], vocabulary, pad, max_length)
        self.keep(from_layers)
        self.typed = getattr(self.model.config, "type_vocab_size", 0) > 1

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        types = {"token_type_ids": token_type_ids} if token_type_ids is not None and self.typed else {}
        unasked = attention_mask is None or attention_mask.is_meta  # there transformers would ask for its values
        mask = None if unasked else attention_mask.long()
        return logits_of(self.model(input_ids=input_ids, attention_mask=mask, **types))

    def _check(self, name: str, vocabulary: int | None, pad: int | None, max_length: int | None) -> None:
        settings = self.model.config
        if vocabulary is not None:
            check_vocabulary(name, settings.vocab_size, vocabulary, MOST_UNUSED, TOKENIZER)
        theirs = settings.pad_token_id
        if None not in (theirs, pad) and theirs != pad:
            raise UserError(
                f"{name}: padding is token {theirs}, the data's tokenizer has {pad}", other_tokenizer(TOKENIZER)
            )
        shifted = any(kind in settings.model_type for kind in SHIFTED)
        check_length(name, settings, max_length, LENGTH, (theirs or 0) + 1 if shifted else 0)


def _random(
    config: dict[str, Any], vocabulary: int | None, pad: int | None, max_length: int | None, classes: int | None
) -> nn.Module:
    known = quiet.transformers("this network").models.auto.modeling_auto
    positions = None if max_length is None else max_length + (pad or 0) + 1
    return of_fields(
        "AutoModelForSequenceClassification",
        known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "encoder",
        config,
        {"vocab_size": vocabulary, "pad_token_id": pad, "max_position_embeddings": positions},
        **({} if classes is None else {"num_labels": classes}),
    )


def _pretrained(model: str, classes: int | None) -> nn.Module:
    if model == MINILM:
        from kdrun.domains.text.tokens import minilm_folder

        model = str(minilm_folder())
    library = quiet.transformers("this network")
    labels = {} if classes is None else {"num_labels": classes}
    kind = library.AutoModelForSequenceClassification
    # Another number of classes than the folder's is no mistake: the layer is made anew.
    made = pretrained(kind, model, ("missing_keys",), new=_of_the_head, ignore_mismatched_sizes=True, **labels)
    return made.float()


def _of_the_head(model: nn.Module, name: str) -> bool:
    """Whether a parameter that a folder lacks is of what makes classes, and not of the encoder."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name
