"""Low-rank additions to a language model's linear maps, by peft."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kdrun.optional import needed
from kdrun.problems import UserError

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(
    language_model: nn.Module,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = LINEAR,
) -> str:
    """LoRA (Hu et al. 2021, arXiv 2106.09685) in place: the model is frozen, the additions train. Says what was added.

    alpha: the additions are scaled by alpha / rank; 2 * rank where left out. targets: last parts of names of linear maps.
    Raises UserError where peft is absent or there is no such map.
    """
    peft = needed("peft", "lora needs peft")
    linear = {
        name.rpartition(".")[2] for name, module in language_model.named_modules() if isinstance(module, nn.Linear)
    }
    if unknown := sorted(set(targets) - linear):
        raise UserError(
            f"lora.targets: the language model has no {', '.join(unknown)}", f"it has: {', '.join(sorted(linear))}"
        )
    language_model.requires_grad_(False)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank if alpha is None else alpha, lora_dropout=dropout, target_modules=list(targets)
    )
    peft.inject_adapter_in_model(config, language_model)
    added = 0
    for name, parameter in language_model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        added += parameter.numel() if "lora_" in name else 0
    return f"LoRA of rank {rank} on {', '.join(targets)}: {added:,} parameters train in the language model"


def with_additions(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network that knows nothing of LoRA, named as one with it has them; its additions stay as they are in `own`, so that
    it says what the other says. Of weights that have additions, and for a network without: the tensors as they are."""
    base, added = ".base_layer.", {name: tensor for name, tensor in own.items() if ".lora_" in name}
    if not added or any(".lora_" in name for name in tensors) or any(tensor.is_meta for tensor in added.values()):
        return tensors
    named = {name.replace(base, "."): name for name in own if base in name}
    return {**added, **{named.get(name, name): tensor for name, tensor in tensors.items()}}


def merged(model: nn.Module) -> nn.Module:
    """A copy with the additions of `add_lora` in the weights they were made for, as a network has them that knows nothing of LoRA."""
    model = copy.deepcopy(model)
    layers = [(name, part) for name, part in model.named_modules() if hasattr(part, "lora_A")]
    for name, part in layers:
        part.merge()
        model.set_submodule(name, part.get_base_layer())
    return model.requires_grad_(True)
