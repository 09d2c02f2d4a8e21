"""Any encoder of transformers (BERT, RoBERTa, MiniLM, DistilBERT ...) with a layer for classes, as a teacher or a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.folders import check_fields, pretrained
from kdrun.networks.output import logits_of
from kdrun.problems import UserError, closest

SEMANTICS = 1

TARGETS = ("HuggingFaceEncoder",)

MOST_UNUSED = 128
"""Embeddings are often padded to a round number of rows; more than this much larger means another tokenizer."""
MINILM = "minilm"
SHIFTED = ("roberta", "camembert", "longformer", "mpnet")
"""Kinds of networks (parts of a model_type) whose first position is that behind the pad token."""


class HuggingFaceEncoder(nn.Module):
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
        super().__init__()
        if (model is None) == (config is None):
            raise UserError(
                "an encoder of transformers needs either model (name or folder) or config",
                "for example network.model=minilm, or 'network.config={model_type: bert}'",
            )
        if model is None:
            self.model = _random(config, vocabulary, pad, max_length, num_classes)
        else:
            self.model = _pretrained(model, num_classes)
        self._check(model or config["model_type"], vocabulary, pad, max_length)
        if from_layers is not None:
            keep_layers(self.model, from_layers)
        self.typed = getattr(self.model.config, "type_vocab_size", 0) > 1

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        types = {"token_type_ids": token_type_ids} if token_type_ids is not None and self.typed else {}
        mask = None if attention_mask is None else attention_mask.long()
        return logits_of(self.model(input_ids=input_ids, attention_mask=mask, **types))

    def _check(self, name: str, vocabulary: int | None, pad: int | None, max_length: int | None) -> None:
        settings = self.model.config
        own = settings.vocab_size
        hint = (
            "a network made for another tokenizer cannot be used; give the data its own: data.tokens.tokenizer=FOLDER"
        )
        if vocabulary is not None and not 0 <= own - vocabulary <= MOST_UNUSED:
            raise UserError(f"{name} has a vocabulary of {own}, the data's tokenizer has {vocabulary}", hint)
        theirs = settings.pad_token_id
        if None not in (theirs, pad) and theirs != pad:
            raise UserError(f"{name}: padding is token {theirs}, the data's tokenizer has {pad}", hint)
        most = getattr(settings, "max_position_embeddings", None)
        if most and any(kind in settings.model_type for kind in SHIFTED):
            most -= (theirs or 0) + 1
        if most and (max_length or 0) > most:
            raise UserError(
                f"{name} reads at most {most} tokens, data.tokens.max_length is {max_length}",
                f"data.tokens.max_length={most} or less",
            )


def keep_layers(model: nn.Module, chosen: Sequence[int]) -> None:
    """The network with these of its layers alone, in this order. Raises UserError for a layer that it does not have."""
    count = model.config.num_hidden_layers
    stacks = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if not stacks:
        raise UserError(f"from_layers: {type(model).__name__} has no list of {count} layers to choose from")
    wrong = [number for number in chosen if not 0 <= number < count]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"from_layers={list(chosen)}: {type(model).__name__} has the layers 0 to {count - 1}, each can be kept once"
        )
    parent, _, name = stacks[0].rpartition(".")
    layers = model.get_submodule(stacks[0])
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[number] for number in chosen))
    model.config.num_hidden_layers = len(chosen)


def _random(
    config: Mapping[str, Any] | None,
    vocabulary: int | None,
    pad: int | None,
    max_length: int | None,
    classes: int | None,
) -> nn.Module:
    library = quiet.transformers("this network")
    fields = dict(config or {})
    kind = fields.pop("model_type", None)
    known = library.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise UserError(f"transformers has no encoder with model_type={kind}{closest(str(kind), known)}")
    usual = library.AutoConfig.for_model(kind).to_dict()
    check_fields(kind, fields, usual)
    positions = None if max_length is None else max_length + (pad or 0) + 1
    of_data = {"vocab_size": vocabulary, "pad_token_id": pad, "max_position_embeddings": positions}
    from_data = {name: value for name, value in of_data.items() if value is not None and name in usual}
    labels = {} if classes is None else {"num_labels": classes}
    made = library.AutoConfig.for_model(kind, **{**from_data, **labels, **fields})
    return library.AutoModelForSequenceClassification.from_config(made)


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
