"""What of a network can be left out, and the network itself, for networks.elastic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.networks.elastic_channels import Channels
from kdrun.networks.elastic_decoder import TOKENS, Decoder
from kdrun.networks.elastic_encoder import Encoder, layout_of
from kdrun.networks.huggingface import HuggingFaceNetwork
from kdrun.problems import UserError, listed

SEMANTICS = 1


def units_of(network: nn.Module, known: Mapping[str, Any], axes: Sequence[str] | None) -> Channels | Decoder | Encoder:
    """What of a network can be left out."""
    if found := layout_of(network):
        return Encoder(
            network, found, axes, of_tokens(known) if known["vocabulary"] is not None else example(known)[:1]
        )
    if isinstance(network, HuggingFaceNetwork):
        return Decoder(network, axes, known["max_length"])
    if axes is not None:
        raise UserError(
            f"strategy.axes={list(axes)}: of networks with attention alone",
            "leave it out: channels are all that there is",
        )
    if known["vocabulary"] is not None:
        raise UserError(
            f"strategy=elastic: {type(network).__name__} cannot be taken apart",
            "networks of images and tables can be, and of transformers encoders such as BERT and language models such as Llama",
        )
    return Channels(network, example(known))


def check_cost(cost: str, body: Channels | Decoder | Encoder, network: nn.Module) -> None:
    if cost not in body.costs:
        raise UserError(f"strategy.cost={cost}: not of {type(network).__name__}", f"one of {listed(body.costs)}")


def numbers(kept: Tensor) -> list[Any]:
    """[*rows, units] -> numbers of the units that are kept, of each row."""
    return [numbers(row) for row in kept] if kept.dim() > 1 else torch.nonzero(kept).flatten().tolist()


def plain_network(base: Callable[..., nn.Module], known: Mapping[str, Any]) -> nn.Module:
    """The base itself; known: what the data say, of which it takes what it has parameters for and its node leaves out."""
    accepted = inspect.signature(base.func).parameters
    return base(**{name: value for name, value in known.items() if name in accepted and name not in base.keywords})


def example(known: Mapping[str, Any]) -> Tensor:
    """Two blank samples."""
    size = known["image_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return torch.zeros(2, known["in_channels"], *sides)


def of_tokens(known: Mapping[str, Any]) -> dict[str, Tensor]:
    """A text as long as those of the data."""
    ids = torch.zeros(1, known["max_length"] or TOKENS, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
