"""A safetensors artifact as a network again, from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdrun.files import read_json
from kdrun.hardware.exports.formats import CONFIG, DESCRIPTION
from kdrun.problems import UserError
from kdrun.slots import allowing

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHTS = "model.safetensors"


def load_export(folder: str | Path, targets: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """(network in eval mode on the CPU, config) of a safetensors artifact; `config["spec"]` is a spec of kdrun.data.

    targets: packages of your own that the network may be from, as in `targets.NAME=true` of a job.
    The bare class is built, and all names and shapes must agree. UserError where they do not, or the class is not allowed.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder}: no exported network here ({CONFIG} and {WEIGHTS}); kdrun export RUN format=safetensors"
        )
    config = read_json(folder / CONFIG)
    with allowing(targets):
        network, spec, _ = open_network(folder / WEIGHTS, {**config["spec"], "network": config["network"]})
    return network.to(DTYPES[config["precision"]]).requires_grad_(False), {**config, "spec": spec}


def load_transformers(folder: str | Path) -> Any:
    """A module of (input_ids, attention_mask) that returns logits of the tokenizer's tokens, float32, from an artifact in
    format=transformers, which transformers alone loads."""
    from transformers import AutoModelForCausalLM

    from kdrun.kinds import spec_of
    from kdrun.networks.causal import attention

    config = read_json(Path(folder) / DESCRIPTION)
    size = spec_of(config["spec"]).vocabulary
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[config["precision"]], local_files_only=True)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask, places = attention(attention_mask)
            return self.model(input_ids=input_ids, attention_mask=mask, position_ids=places).logits[..., :size].float()

    return Logits().eval().requires_grad_(False)


def open_network(path: Path, metadata: dict[str, Any] | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """(network in eval mode on the CPU, spec of its data, metadata) of a weights file, by what it says of itself, or by `metadata`."""
    from kdrun.kinds import spec_of
    from kdrun.networks.build import build_network
    from kdrun.networks.weights import load_weights, read_metadata

    metadata = read_metadata(path) if metadata is None else metadata
    spec = spec_of(metadata)
    network = build_network(metadata["network"], spec, seed=0)
    load_weights(network, path, spec)
    return network.eval(), spec, metadata
