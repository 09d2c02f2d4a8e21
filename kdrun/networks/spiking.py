"""Spiking networks: any network of images whose activations are replaced by leaky integrate-and-fire neurons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kdrun.networks.capture import ACTIVATIONS
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

SEMANTICS = 1

TARGETS = ("Spiking", "MeanOverFrames")


class Spiking(nn.Module):
    """A network in which every activation (ReLU and the like, called as module or function) is a layer of neurons, for T steps.

        u_t = decay * u_(t-1) * (1 - s_(t-1)) + x_t;  s_t = 1 where u_t > threshold, else 0        (hard reset to 0)

    The gradient of s is that of sigmoid(slope * (u - threshold)). All other layers see the T steps of a batch as T times as many
    samples, as in the code of arXiv 2605.14252 (SeAl-KD) and 2501.15925: batch normalisation is over samples and steps. The first layer
    is given the image itself in each step (direct coding), or its frame.

    network: a network of images with such activations; of frames it needs its in_channels.
    steps: T. frames: the channels of an image are those of this many frames, one for each step (data=events); null: the same image in all.
    threshold, decay, slope: of the neurons; defaults are those of the code of SeAl-KD (decay 0.2 on ImageNet).
    detach_reset: no gradient flows through the reset. The code of SeAl-KD lets it flow; snntorch does not.

    forward: float [B, C, H, W] -> {"logits": [B, K], the mean over steps; "steps": [B, T, K]; "firing": [B, L], mean number of spikes of
    a neuron in a step, for each layer of neurons}. Raises UserError for a network without such activations, or channels that are not
    those of `frames` frames.
    """

    supplies_inner = True
    """The network inside is told what the data know (see targets.build)."""
    divisible = False
    """Neurons stand for activations during a forward pass only, so that no part of it can be computed again later (see execution.divisible)."""

    def __init__(
        self,
        network: nn.Module,
        steps: int = 4,
        frames: int | None = None,
        threshold: float = 1.0,
        decay: float = 0.5,
        slope: float = 4.0,
        detach_reset: bool = False,
    ) -> None:
        super().__init__()
        for key, value, fits, allowed in (
            ("steps", steps, steps >= 1, "at least 1"),
            ("frames", frames, frames in (None, steps), f"null, or as many as steps: {steps}"),
            ("threshold", threshold, 0 < threshold < math.inf, "above 0"),
            ("decay", decay, 0 <= decay <= 1, "from 0 to 1"),
            ("slope", slope, 0 < slope < math.inf, "above 0"),
        ):
            if not fits:
                raise UserError(f"{key}={value} of a spiking network: {allowed}")
        self.network, self.steps, self.frames = network, steps, frames
        self.neurons = Neurons(threshold, decay, slope, detach_reset)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        inputs = by_step(images, self.steps, self.frames)
        with Replaced(self.neurons, *inputs.shape[:2]) as replaced:
            logits = logits_of(self.network(inputs.flatten(0, 1)))
        if not replaced.rates:
            raise UserError(f"{type(self.network).__name__} calls no ReLU or the like: nothing in it can spike")
        steps = logits.view(self.steps, images.shape[0], *logits.shape[1:])
        firing = torch.stack(replaced.rates, dim=1)
        return {"logits": steps.mean(0), "steps": steps.transpose(0, 1), "firing": firing}

    def of_samples(self, tensor: torch.Tensor) -> torch.Tensor:
        """[B, ...] of what a module inside gave, [T * B, ...]: the mean over steps, which of spikes is the firing rate (KDSNN)."""
        return tensor.unflatten(0, (self.steps, -1)).mean(0)


class MeanOverFrames(nn.Module):
    """A network that is given the mean of the frames of a sample: how a teacher that does not spike sees events (SeAl-KD).

    forward: float [B, frames * C, H, W] -> what `network` gives of [B, C, H, W].
    """

    supplies_inner = True

    def __init__(self, network: nn.Module, frames: int) -> None:
        super().__init__()
        self.network, self.frames = network, frames

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(by_step(images, self.frames, self.frames).mean(0))


def by_step(images: torch.Tensor, steps: int, frames: int | None) -> torch.Tensor:
    """[T, B, C, H, W] of [B, C, H, W], or of [B, frames * C, H, W]. Raises UserError where the channels are not those of frames."""
    if frames is None:
        return images.expand(steps, *images.shape)
    if images.shape[1] % frames:
        raise UserError(f"images have {images.shape[1]} channels, which are not those of {frames} frames")
    return images.unflatten(1, (frames, -1)).transpose(0, 1)


class Neurons(nn.Module):
    """Leaky integrate-and-fire neurons without parameters: inputs [T, ...] -> spikes 0 or 1 [T, ...]; see Spiking."""

    def __init__(
        self, threshold: float = 1.0, decay: float = 0.5, slope: float = 4.0, detach_reset: bool = False
    ) -> None:
        super().__init__()
        self.threshold, self.decay, self.slope, self.detach_reset = threshold, decay, slope, detach_reset

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        potential, spikes = torch.zeros_like(inputs[0]), []
        for value in inputs:
            kept = 1 - (spikes[-1].detach() if self.detach_reset else spikes[-1]) if spikes else 1.0
            potential = self.decay * potential * kept + value
            spikes.append(Spike.apply(potential - self.threshold, self.slope))
        return torch.stack(spikes)


class Spike(torch.autograd.Function):
    """1 where a number is above 0, else 0; the gradient is that of sigmoid(slope * x)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(ctx.slope * x)
        return gradients[0] * ctx.slope * share * (1 - share), None


class Replaced(TorchFunctionMode):
    """In here every activation is the neurons, for tensors [T * B, ...] whose first dimension is step by step.

    rates: [B], mean number of spikes of a neuron in a step, for each call.
    """

    def __init__(self, neurons: Neurons, steps: int, samples: int):
        super().__init__()
        self.neurons, self.steps, self.samples = neurons, steps, samples
        self.rates: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function not in ACTIVATIONS:
            return function(*args, **kwargs)
        given = args[0] if args else kwargs["input"]
        # With the number of samples by name, so that an exported graph takes any.
        spikes = self.neurons(given.reshape(self.steps, self.samples, *given.shape[1:]))
        self.rates.append(spikes.detach().float().mean(0).flatten(1).mean(1))
        return spikes.flatten(0, 1)


def spikes(network: nn.Module) -> bool:
    """Whether a network has neurons that spike."""
    return any(isinstance(module, Spiking) for module in network.modules())


@torch.no_grad()
def operations(network: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """{"macs", "synaptic"}: of one sample, over all steps, in layers whose inputs are numbers, and whose inputs are spikes.

    A convolution or linear layer whose inputs are all 0 or 1 does not multiply: it adds a weight for each spike and synapse, firing rate
    times fan-out times T. All others are counted as multiply-accumulates. images: float [B, C, H, W], of which it is the mean.
    """
    found = {"macs": 0.0, "synaptic": 0.0}

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        inputs = given[0]
        each = layer.weight[0].numel() * output[0].numel()  # weights of one output, times outputs of a sample
        spikes = bool(((inputs == 0) | (inputs == 1)).all())
        share = float((inputs != 0).float().mean()) if spikes else 1.0
        found["synaptic" if spikes else "macs"] += each * share * len(inputs) / len(images)

    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
