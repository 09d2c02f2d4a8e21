"""How the forward pass of a network is computed in a training step: compiled, with activations computed again, with batch
normalisation over all ranks. It is so during the pass only: what is evaluated, averaged, copied, saved and exported is the plain network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from kdrun.learning.sharding import CALLED, units
from kdrun.networks.capture import BEFORE, Capture, classifier
from kdrun.problems import UserError


class Execution:
    """Replaces `forward` of modules of a network while it is entered.

    compiler        backend of torch.compile, or None. Compiled are the largest parts in which no module is watched: hooks
                    are not called inside compiled code
    recompute       activations inside `segments` of the network are not kept but computed again in the backward pass, from the same
                    random numbers and buffers (arXiv 1604.06174); buffers are then as the first pass left them
    synchronised    batch normalisation in training mode uses the statistics of all ranks' samples
    capture         what is captured of the network, or None
    features        whether the input of its classifier is
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        compiler: str | None = None,
        recompute: bool = False,
        synchronised: bool = False,
        capture: Capture | None = None,
        features: bool = False,
    ):
        if recompute and not divisible(network):
            raise UserError(
                f"trainer.activation_checkpointing=true: parts of {type(network).__name__} cannot be computed again by themselves",
                "give trainer.activation_checkpointing=false",
            )
        self._synchronised = synchronised
        again = segments(network) if recompute else []
        watched, opened = _watched(network, capture, features)
        parts = compilable(network, watched | set(again), opened) if compiler else []
        if parts:
            # The first step asks for gradients of each term by itself, from one forward pass; looked at in each backward pass.
            torch._functorch.config.donated_buffer = False
        compiled = {part: torch.compile(part.forward, backend=compiler) for part in parts}
        self._forward: dict[nn.Module, Callable] = {**compiled}
        for part in again:
            self._forward[part] = partial(self._recomputed, part, compiled.get(part, part.forward))
        self._methods: dict[str, Callable] = {}
        if network in compiled:  # a task may call another method than forward
            named = [name for name in CALLED if hasattr(network, name)]
            self._methods = {name: torch.compile(getattr(network, name), backend=compiler) for name in named}
        self._network, self._compiled = network, len(compiled)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        replaced = [(part, "forward", function) for part, function in self._forward.items()]
        replaced += [(self._network, name, function) for name, function in self._methods.items()]
        with _replaced(replaced), self._together(self._network), self._compiling():
            yield

    def _together(self, part: nn.Module):
        """Batch normalisations of a part over all ranks, in here."""
        if not self._synchronised:
            return nullcontext()
        norms = [each for each in part.modules() if isinstance(each, _BatchNorm) and each.training]
        return _replaced([(norm, "forward", partial(normalise_together, norm)) for norm in norms])

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        if not self._compiled:
            yield
            return
        from torch._dynamo import config
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            # Parts of one class share what is compiled of their code, and its limit.
            with config.patch(recompile_limit=max(8 * self._compiled, config.recompile_limit)):
                yield
        except BackendCompilerFailed as error:
            first = str(error.inner_exception).splitlines()[0]
            raise UserError(
                f"trainer.compile: {first}", "give trainer.compile=aot_eager (needs no compiler) or null"
            ) from error

    def _recomputed(self, part: nn.Module, forward: Callable, *args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        before = {}

        @contextmanager
        def first() -> Iterator[None]:
            before.update({(module, name): buffer.clone() for module, name, buffer in _buffers(part)})
            yield

        @contextmanager
        def second() -> Iterator[None]:
            kept = [(module, name, buffer) for module, name, buffer in _buffers(part)]
            for module, name, _ in kept:
                module._buffers[name] = before[module, name].clone()
            try:
                with self._together(part):
                    yield
            finally:
                for module, name, buffer in kept:
                    module._buffers[name] = buffer

        return checkpoint(
            forward, *args, use_reentrant=False, context_fn=lambda: (first(), _Repeated(second)), **options
        )


class _Repeated:
    """A context that can be entered again: a backward pass that keeps its graph may be followed by another."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]):
        self._make = make

    def __enter__(self) -> None:
        self._inner = self._make()
        self._inner.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        return self._inner.__exit__(*raised)


def _buffers(part: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, buffer) of those that a forward pass in training mode may change."""
    for module in part.modules():
        if module.training:
            yield from ((module, name, buffer) for name, buffer in module._buffers.items() if buffer is not None)


@contextmanager
def _replaced(attributes: Sequence[tuple[nn.Module, str, Callable]]) -> Iterator[None]:
    """Attributes of these modules are others in here; only those that nobody set on the module itself are removed afterwards."""
    before = [(module, name, module.__dict__.get(name)) for module, name, _ in attributes]
    for module, name, function in attributes:
        module.__dict__[name] = function
    try:
        yield
    finally:
        for module, name, function in reversed(before):
            if function is None:
                del module.__dict__[name]
            else:
                module.__dict__[name] = function


def segments(network: nn.Module) -> list[nn.Module]:
    """Parts whose activations are computed again: the `units` of the network, of a sequence of blocks each block."""
    found = []
    for unit in units(network):
        blocks = [part for part in unit if list(part.children())] if isinstance(unit, nn.Sequential) else []
        found += blocks or [unit]
    return found


def _watched(network: nn.Module, capture: Capture | None, features: bool) -> tuple[set[nn.Module], set[nn.Module]]:
    """(modules with hooks during a pass, those among them whose inside is looked into as well)."""
    modules = dict(network.named_modules())
    paths = {} if capture is None else capture.paths
    watched = {modules[path] for each in paths.values() for path in each}
    opened = {modules[path] for pattern, each in paths.items() if pattern.startswith(BEFORE) for path in each}
    return watched | ({classifier(network)} if features else set()), opened


def compilable(part: nn.Module, watched: set[nn.Module], opened: set[nn.Module]) -> list[nn.Module]:
    """The largest parts of a network below which nothing is watched; nothing of what is opened."""
    if part in opened:
        return []
    inside = set(part.modules()) - {part}
    if not inside & watched:
        return [part] if next(part.parameters(), None) is not None else []
    return [each for child in part.children() for each in compilable(child, watched, opened)]


def divisible(network: nn.Module) -> bool:
    """Whether parts of a forward pass can be computed by themselves: again in the backward pass, or compiled."""
    return all(getattr(part, "divisible", True) for part in network.modules())


def execution_of(
    network: nn.Module, trainer: dict[str, Any], ranks: int, objective: Any, who: str, capture: Capture | None
):
    """As a trainer's settings say, for the "student" or the "teacher" of a stage; None where nothing is asked for."""
    learns = who == "student"
    asked = {
        "compiler": trainer.get("compile"),
        "recompute": learns and bool(trainer.get("activation_checkpointing")),
        "synchronised": learns and ranks > 1 and bool(trainer.get("sync_batch_norm")),
    }
    features = objective.takes(f"{who}_features")
    return Execution(network, **asked, capture=capture, features=features) if any(asked.values()) else None


def check_execution(trainer: dict[str, Any]) -> None:
    """Raises UserError for settings that do not go together."""
    compiler = trainer.get("compile")
    if compiler and trainer.get("sync_batch_norm"):
        raise UserError(
            f"trainer.compile={compiler} does not go with trainer.sync_batch_norm=true: compiled code cannot wait for other ranks",
            "give one of them",
        )
    if compiler and trainer.get("sharding", "none") != "none":
        raise UserError(
            f"trainer.compile={compiler} does not go with trainer.sharding={trainer['sharding']}",
            "give trainer.compile=null or trainer.sharding=none",
        )


def normalise_together(norm: _BatchNorm, inputs: Tensor) -> Tensor:
    """Batch normalisation of [B, C, ...] by mean and variance over the samples of all ranks; running statistics become those of the whole batch.

    As torch's SyncBatchNorm (which is for GPUs alone); the variance is computed in a second round, from differences to the mean.
    """
    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    output, mean, variance, count = _Synchronised.apply(inputs, norm.weight, norm.bias, norm.eps, axes)
    if norm.track_running_stats and norm.running_mean is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            rate = norm.momentum if norm.momentum is not None else norm.num_batches_tracked.float().reciprocal()
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), rate)
    return output


class _Synchronised(torch.autograd.Function):
    """(normalised, mean [C], biased variance [C], count []); gradients of the first alone, over all ranks."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axes: list[int]):
        exact = inputs.float()
        count = inputs.new_tensor([inputs.numel() / inputs.shape[1]], dtype=torch.float32)
        sums = torch.cat([exact.sum(axes), count])
        dist.all_reduce(sums)
        count, mean = sums[-1], sums[:-1] / sums[-1]
        shape = [1, -1, *(inputs.dim() - 2) * [1]]
        centred = exact - mean.view(shape)
        squares = centred.square().sum(axes)
        dist.all_reduce(squares)
        variance = squares / count
        scale = (variance + eps).rsqrt()
        normalised = centred * scale.view(shape)
        ctx.axes, ctx.shape, ctx.affine = axes, shape, (weight is not None, bias is not None)
        ctx.save_for_backward(inputs, mean, scale, count, *([] if weight is None else [weight]))
        output = normalised if weight is None else normalised * weight.view(shape).float()
        output = output if bias is None else output + bias.view(shape).float()
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(inputs.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Any):
        inputs, mean, scale, count, *weight = ctx.saved_tensors
        gradient, shape, axes = gradient.float(), ctx.shape, ctx.axes
        normalised = (inputs.float() - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = gradient.sum(axes), (gradient * normalised).sum(axes)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        own = gradient - (sums[0] / count).view(shape) - normalised * (sums[1] / count).view(shape)
        own = own * (scale * weight[0].float() if weight else scale).view(shape)
        affine = [value if there else None for value, there in zip((of_weight, of_bias), ctx.affine, strict=True)]
        return own.to(inputs.dtype), *affine, None, None
