"""Training and evaluation mode of a network's modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode is as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def hold_frozen(network: nn.Module) -> None:
    """Eval mode for all modules of frozen parts that keep running statistics, which would else change in training.

    Such are batch and instance normalisations (torch's, and any other with buffers called running_*) and spectral norms.
    One is frozen if it is `held`, or where no parameter is trained of its own or, if it has none, of the smallest module
    around it that has some. Dropout is left as it is: it changes nothing of the network.
    """
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if not _keeps_statistics(module):
            continue
        around = name
        while around and next(modules[around].parameters(), None) is None:
            around = around.rpartition(".")[0]
        if getattr(module, "held", False) or not any(p.requires_grad for p in modules[around].parameters()):
            module.eval()


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, (_NormBase, nn.utils.parametrizations._SpectralNorm)):
        return True
    return any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))
