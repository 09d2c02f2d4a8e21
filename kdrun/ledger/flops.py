"""Size and computation of a network: parameters, and the floating-point operations of a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Mode = TypeVar("Mode", bound=Any)


def parameters(network: nn.Module) -> int:
    """Number of parameters; a tied one counts once, buffers do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def counted_flops(network: nn.Module, forward: Callable[[nn.Module], object]) -> int | None:
    """FLOPs of `forward`, called with a copy of the network on the meta device in eval mode; a multiply-add counts as 2.

    Matrix products and convolutions are counted, as is usual; sums, norms and activations are not. The pass runs on
    the meta device: nothing is computed, no weight is copied, and the network given is not touched.

    Returns None where the network cannot be counted: its forward pass needs values, or nothing in it is counted at
    all. Never 0.
    """
    try:
        counter = watched(network, forward, FlopCounterMode(display=False))
    except Exception:  # any network of a user's own; a missing figure must not stop a run
        return None
    return counter.get_total_flops() or None


def watched(network: nn.Module, forward: Callable[[nn.Module], object], mode: Mode) -> Mode:
    """The mode (a TorchDispatchMode) after it has seen `forward`, called with a copy of the network on the meta device in eval mode."""
    shadow = on_meta(network)
    if hasattr(mode, "own"):
        mode.own.update(parameter.untyped_storage()._cdata for parameter in shadow.parameters())
    shadow.eval()  # what it returns is the network itself where that is a frozen teacher's
    # On a CPU tensor the counter sees neither fused attention nor LSTM, and in eval mode a transformer layer is
    # one fused operator it does not know; on the meta device without that fast path all of them are seen.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), mode:
            forward(shadow)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return mode


def on_meta(network: nn.Module) -> nn.Module:
    """A copy of the network's structure whose parameters and buffers have shapes but no memory; ties are kept."""
    memo: dict[int, object] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, memo)
