"""What networks of transformers have in common here, whatever they are for: making them from a configuration, keeping some of their
layers, starting from the layers of a trained network, and memory for activations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.folders import check_fields
from kdrun.problems import UserError, closest

MOST_UNUSED = 128
"""Embeddings are often padded to a round number of rows; more than this much larger means another tokenizer."""


class HuggingFaceNetwork(nn.Module):
    """A network of transformers as `model`, of which some layers may have been kept.

    from_layers: their numbers in the network that it was made of; None: all of them.
    """

    model: nn.Module

    def __init__(self, model: str | None, config: Mapping[str, Any] | None, what: str, example: str) -> None:
        """UserError unless exactly one of a name and a configuration is there. what: such networks are called; example: of both."""
        super().__init__()
        if (model is None) == (config is None):
            raise UserError(f"{what} of transformers needs either model (name or folder) or config", example)
        self.from_layers: list[int] | None = None

    def keep(self, chosen: Sequence[int] | None) -> None:
        """Only these layers, in this order. Raises UserError for one that there is not."""
        if chosen is not None:
            keep_layers(self.model, chosen)
            self.from_layers = list(chosen)

    def adopt(self, metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state of this network from weights of it, or of one with more layers that it was made of: those of its layers alone.

        metadata: of the weights file, with the node of its network. Raises UserError for a layer that the other network lacks.
        """
        stack = f"model.{stack_of(self.model)}."
        pattern = re.compile(re.escape(stack) + r"(\d+)\.(.*)")
        matches = {name: pattern.fullmatch(name) for name in tensors}
        count = 1 + max((int(match[1]) for match in matches.values() if match), default=-1)
        theirs = (metadata.get("network") or {}).get("from_layers") or list(range(count))
        ours = self.from_layers or list(range(self.model.config.num_hidden_layers))
        if theirs == ours or len(theirs) != count:
            return dict(tensors)
        if missing := [number for number in ours if number not in theirs]:
            raise UserError(
                f"from_layers={ours}: the weights that it starts from have no layer {missing[0]}, only {theirs}"
            )
        places = {theirs.index(number): place for place, number in enumerate(ours)}
        kept = {}
        for name, tensor in tensors.items():
            if (match := matches[name]) is None:
                kept[name] = tensor
            elif int(match[1]) in places:
                kept[f"{stack}{places[int(match[1])]}.{match[2]}"] = tensor
        return kept


def of_fields(
    auto: str,
    known: Mapping[str, Any],
    what: str,
    config: Mapping[str, Any],
    of_data: Mapping[str, Any],
    **defaults: Any,
) -> nn.Module:
    """A network with random weights from the fields of a configuration, with its "model_type".

    auto: name of the class of transformers that makes it; known: the kinds that it makes; what: these are called.
    of_data: fields that the data know, taken where the configuration has them and leaves them out; None: not known.
    Raises UserError for a kind or field that is not there.
    """
    library, fields = quiet.transformers("this network"), dict(config)
    kind = fields.pop("model_type", None)
    if kind not in known:
        raise UserError(f"transformers has no {what} with model_type={kind}{closest(str(kind), known)}")
    usual = library.AutoConfig.for_model(kind).to_dict()
    check_fields(kind, fields, usual)
    from_data = {name: value for name, value in of_data.items() if value is not None and name in usual}
    made = library.AutoConfig.for_model(kind, **{**defaults, **from_data, **fields})
    return getattr(library, auto).from_config(made)


def check_length(name: str, config: Any, max_length: int | None, key: str, first: int = 0) -> None:
    """UserError where a network has fewer positions than texts have tokens. key: `data.` key of their length; first: position of the
    first token."""
    most = getattr(config, "max_position_embeddings", None)
    if most and (max_length or 0) > (most := most - first):
        raise UserError(f"{name} reads at most {most} tokens, {key} is {max_length}", f"{key}={most} or less")


def check_vocabulary(name: str, rows: int, vocabulary: int, most_unused: int, key: str) -> None:
    """UserError where embeddings have fewer rows than the tokenizer of the data has tokens, or many more. key: `data.` key of it."""
    if not 0 <= rows - vocabulary <= most_unused:
        raise UserError(
            f"{name} has a vocabulary of {rows}, the data's tokenizer has {vocabulary}", other_tokenizer(key)
        )


def other_tokenizer(key: str) -> str:
    """What to do about a network that was made for another tokenizer."""
    return f"a network made for another tokenizer cannot be used; give the data its own: {key}=FOLDER"


def stack_of(model: nn.Module) -> str:
    """The path of a network's list of layers. UserError where there is none."""
    count = model.config.num_hidden_layers
    for name, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return name
    raise UserError(f"from_layers: {type(model).__name__} has no list of {count} layers to choose from")


def keep_layers(model: nn.Module, chosen: Sequence[int]) -> None:
    """The network with these of its layers alone, in this order; its configuration and the places of layers in a cache of keys and
    values are those of a network that was made with so many. Raises UserError for a layer that it does not have."""
    count, stack = model.config.num_hidden_layers, stack_of(model)
    wrong = [number for number in chosen if not 0 <= number < count]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"from_layers={list(chosen)}: {type(model).__name__} has the layers 0 to {count - 1}, each can be kept once"
        )
    parent, _, name = stack.rpartition(".")
    layers = model.get_submodule(stack)
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[number] for number in chosen))
    model.config.num_hidden_layers = len(chosen)
    for field, values in list(vars(model.config).items()):
        if "layer" in field and isinstance(values, list) and len(values) == count:  # layer_types and the like
            setattr(model.config, field, [values[number] for number in chosen])
    for place, layer in enumerate(model.get_submodule(stack)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place


def checkpoint_activations(model: nn.Module) -> None:
    """What layers compute inside is computed again in the backward pass instead of kept."""
    # Newer releases of transformers call it activation checkpointing.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
