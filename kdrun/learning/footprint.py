"""Memory of a device that trains, from what is built: parameters as they are loaded, and what a forward pass keeps for its backward pass.

    weights      bytes of the student's parameters and buffers                                       / shards
    gradients    as large as the parameters that train                                               / shards
    optimizer    state that the optimizer makes for them in its first step                           / shards
    buckets      where several devices train whole copies: gradients once more (DistributedDataParallel); where weights are sharded
                 (FSDP): the largest unit, whole, with its gradient
    activations  distinct tensors that a pass over the samples of one part of a batch keeps, half as large in 16-bit formats
    outputs      float32 outputs of these samples and their gradient, and the outputs of each teacher
    teachers     bytes of their parameters and buffers

Left out: what operators need while they run, what the allocator wastes, the context of a GPU. Estimates, in 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdrun import targets
from kdrun.learning.sharding import units
from kdrun.ledger.flops import on_meta
from kdrun.nodes import world_of

GB = 1e9


def bytes_of(network: nn.Module, trained: bool = False) -> int:
    """Bytes of parameters and buffers; trained: of the parameters that train. A tied one counts once."""
    parameters = [one for one in network.parameters() if one.requires_grad or not trained]
    return sum(one.numel() * one.element_size() for one in (*parameters, *(() if trained else network.buffers())))


def optimizer_share(node: Mapping[str, Any]) -> float:
    """Bytes of an optimizer's state for each byte of a parameter that trains (Adam 2, SGD with momentum 1), from one step of it."""
    parameter = nn.Parameter(torch.zeros(64, 64))
    optimizer = targets.build(dict(node), "optimizer", params=[parameter])

    def closure() -> torch.Tensor:
        parameter.grad = torch.ones_like(parameter)
        return torch.zeros(())

    with torch.enable_grad():
        optimizer.step(closure)
    state = optimizer.state[parameter].values()
    size = sum(value.numel() * value.element_size() for value in state if torch.is_tensor(value) and value.numel() > 1)
    return size / (parameter.numel() * parameter.element_size())


def kept_bytes(network: nn.Module, forward: Callable[[nn.Module], object]) -> int | None:
    """Bytes of distinct tensors that `forward`, called with a copy of the network on the meta device in training mode, keeps for the
    backward pass; parameters do not count. None where the network cannot be run there."""
    shadow = on_meta(network).train()
    own = {one.untyped_storage()._cdata for one in (*shadow.parameters(), *shadow.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}  # with the tensor, so that no other storage takes its place

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes(), tensor
        return tensor

    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = forward(shadow)
    except Exception:  # any network of a user's own; a missing figure must not stop a plan
        return None
    del result
    return sum(size for size, _ in kept.values())


def footprint(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    trainer: Mapping[str, Any],
    hardware: Mapping[str, Any],
    activations: float | None,
    outputs: float,
    taught: Mapping[str, Any] | None = None,
) -> dict[str, float | None]:
    """GB on one device: each item above, and their total; None where activations are not known.

    activations: bytes (`kept_bytes`) of the samples that a device computes at a time; outputs: numbers that a network gives for these.
    taught: how the teachers teach (teaching of a stage).
    """
    devices, sharded = world_of(hardware), trainer.get("sharding", "none") == "fsdp"
    shards = devices if sharded else 1
    trained = bytes_of(student, trained=True)
    buckets = trained if devices > 1 else 0
    if sharded and devices > 1:
        buckets = 2 * max([bytes_of(unit) for unit in units(student)], default=0)
    parts = devices if (taught or {}).get("sharding") == "fsdp" else 1
    half = 0.5 if hardware["precision"] in ("bf16", "fp16") else 1.0
    copies = 1 if trainer.get("ema") is None else 2
    found: dict[str, float | None] = {
        "weights": copies * bytes_of(student) / shards,
        "gradients": trained / shards,
        "optimizer": optimizer_share(trainer["optimizer"]) * trained / shards,
        "buckets": buckets,
        "activations": None if activations is None else half * activations,
        "outputs": 4 * outputs * (2 + len(teachers)),
        "teachers": sum(bytes_of(teacher) for teacher in teachers) / parts,
    }
    found = {name: None if value is None else value / GB for name, value in found.items()}
    return {**found, "total": None if None in found.values() else sum(found.values())}
