"""Where a network looks: maps over its input that say what speaks for a class, of images and of volumes."""

from __future__ import annotations

from itertools import product

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.modes import evaluating
from kdrun.networks.output import logits_of
from kdrun.problems import UserError, closest, listed

CELLS = 8
"""Parts into which occlusion cuts an axis where nothing is said."""

BATCH = 64


def grad_cam(network: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2).

    inputs: float [B, C, H, W] or [B, C, D, H, W]; classes: int64 [B], the class asked about of each sample.
    Returns float32 [B, H, W] or [B, D, H, W], at least 0: maps of the last convolution in the forward pass whose output
    has more than one position, weighted by the mean gradient of the class's logit, and linearly enlarged. A network
    that sees volumes slice by slice gives a map of every slice. Of a single logit o, o speaks for class 1, -o for 0.
    The network keeps its modes and gradients. Raises UserError where it has no such convolution.
    """
    maps: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor:
        if output.shape[2:].numel() > 1:
            maps.append(output)
        return output.clone()  # what follows may write into its input

    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [found.register_forward_hook(keep) for found in network.modules() if isinstance(found, convolutions)]
    try:
        with evaluating(network), torch.enable_grad():
            # Inputs with a gradient: else nothing is known about maps where all weights are frozen.
            scores = class_scores(network, inputs.detach().requires_grad_(True), classes)
            if not maps:
                raise UserError(
                    f"Grad-CAM needs a convolution, and {type(network).__name__} has none",
                    "method=occlusion needs none",
                )
            (gradient,) = torch.autograd.grad(scores.sum(), maps[-1])
    finally:
        for hook in hooks:
            hook.remove()
    weights = gradient.flatten(2).mean(2)
    found = torch.einsum("bk,bk...->b...", weights, maps[-1].detach()).relu().float()
    if len(found) != len(inputs):  # [B * D, h, w]: slices of a volume
        found = found.unflatten(0, (len(inputs), -1))
    sides = inputs.shape[2:]
    mode = "trilinear" if len(sides) == 3 else "bilinear"
    return functional.interpolate(found.unsqueeze(1), tuple(sides), mode=mode, align_corners=False).squeeze(1)


def occlusion(
    network: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, cell: int | None = None, fill: float = 0.0
) -> torch.Tensor:
    """How much of the class's probability is lost when a part is covered (Zeiler and Fergus 2014, section 4.2).

    cell: side of the covered square or cube; None: an eighth of each axis. fill: what covers it, 0 the mean of
    normalised inputs. Parts do not overlap, so a map needs one forward pass for each.
    Returns float32 [B, H, W] or [B, D, H, W]; negative where covering makes the class more probable.
    """
    sides = inputs.shape[2:]
    steps = [cell or max(1, side // CELLS) for side in sides]
    found = torch.zeros(len(inputs), *sides, device=inputs.device)
    with evaluating(network), torch.no_grad():
        whole = class_probability(network, inputs, classes)
        for corner in product(*(range(0, side, step) for side, step in zip(sides, steps, strict=True))):
            part = (..., *(slice(start, start + step) for start, step in zip(corner, steps, strict=True)))
            covered = inputs.clone()
            covered[part] = fill
            lost = whole - class_probability(network, covered, classes)
            found[part] = lost.float().reshape(-1, *(1,) * len(sides))
    return found


METHODS = {"grad_cam": grad_cam, "occlusion": occlusion}


def explain(network: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, method: str) -> torch.Tensor:
    """The maps of a method by name, a batch at a time. Raises UserError for an unknown one."""
    if method not in METHODS:
        raise UserError(f"method={method}: no such map{closest(method, METHODS)}", f"there is: {listed(METHODS)}")
    parts = zip(inputs.split(BATCH), classes.split(BATCH), strict=True)
    return torch.cat([METHODS[method](network, some, asked) for some, asked in parts])


def class_scores(network: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Logit [B] of each sample's class; of a single logit o, o for class 1 and -o for class 0."""
    logits = logits_of(network(inputs))
    if logits.shape[1] == 1:
        return logits[:, 0] * (2 * classes - 1)
    return logits.gather(1, classes[:, None])[:, 0]


def class_probability(network: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """float64 [B]: probability of each sample's class; a single logit o is the pair (0, o)."""
    logits = logits_of(network(inputs)).double()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1).gather(1, classes[:, None])[:, 0]
