"""How networks are called, and where the logits are in what they return."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def called(network: nn.Module, inputs: Any) -> Any:
    """What a network returns for `batch["inputs"]`: one tensor, or several by name."""
    return network(**inputs) if isinstance(inputs, Mapping) else network(inputs)


def logits_of(output: Any) -> torch.Tensor:
    """The logits in a network's output: the tensor itself, `.logits`, `["logits"]`, or the first of a tuple or list.

    Covers plain modules, transformers' outputs, and networks with auxiliary heads (the first is the main one).
    Raises TypeError that names the type otherwise.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, torch.Tensor):
        keys = f" with keys {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise TypeError(
            f"the network returned {type(output).__name__}{keys}: expected a tensor of logits, an object or mapping "
            "with `logits`, or a tuple whose first element is the logits"
        )
    return found


def named_outputs(output: Any) -> dict[str, torch.Tensor]:
    """The tensors beside the logits in a network's output that is a mapping, by name: of further heads, or of exits on the way."""
    items = output.items() if isinstance(output, Mapping) else ()
    return {name: tensor for name, tensor in items if name != "logits" and isinstance(tensor, torch.Tensor)}
