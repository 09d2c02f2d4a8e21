"""Gradient steps and evaluation as clients and servers do them: one plain loop, without a trainer around it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.federation.messages import Arrays
from kdrun.federation.shards import Shard
from kdrun.learning import seeds
from kdrun.learning.firststep import NoEffect, gradient_norms, joined
from kdrun.networks.modes import hold_frozen
from kdrun.problems import UserError
from kdrun.targets import build

Terms = Sequence[tuple[str, float, Tensor]]
"""(name, weight, value) of each part of a loss."""

OUTPUTS_BATCH = 1024


class Loop:
    """What training needs: the task, the trainer's settings and where it runs.

    trainer    batch_size, eval_batch_size, optimizer (a target node) and clip of the config
    precision  fp32, or bf16 for automatic mixed precision
    seen       {term: {"value", "gradient"}} at its first use; a term that does nothing stops the run (NoEffect)
    counted    plain numbers: optimisation "steps", and by role of a network samples that it was trained on
               ("trained/private") and frozen outputs that it gave ("asked/proxy")
    """

    def __init__(
        self, task: Any, trainer: dict[str, Any], seed: int, device: torch.device | str = "cpu", precision: str = "fp32"
    ):
        if precision not in ("fp32", "bf16"):
            raise UserError(f"hardware.precision={precision}: a federation trains in fp32 or bf16")
        self.task, self.seed, self.device = task, seed, torch.device(device)
        self.batch_size, self.clip = trainer["batch_size"], trainer.get("clip")
        self.eval_batch_size = trainer.get("eval_batch_size") or OUTPUTS_BATCH
        self.mixed = precision == "bf16"
        self.seen: dict[str, dict[str, float]] = {}
        self.counted: dict[str, int] = {"steps": 0}
        self._optimizer = build({**trainer["optimizer"], "_partial_": True}, "optimizer")
        self._metrics = task.metrics().to(self.device)

    def logits(self, network: nn.Module, inputs: Any) -> Tensor:
        """float32 [B, C] of one forward pass."""
        if self.mixed:
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.task.predict(network, inputs).logits.float()
        return self.task.predict(network, inputs).logits

    def train(
        self,
        networks: Mapping[str, nn.Module],
        shard: Shard,
        epochs: int,
        purpose: str,
        round: int,
        terms: Callable[[dict[str, Any]], Terms],
    ) -> dict[str, float]:
        """Steps on all batches of `epochs` passes; the means of the terms over the steps, by name.

        networks  those that learn, by role, each with an optimizer of its own that begins anew
        purpose   what is trained, with `round` part of the seed of order, augmentation and dropout
        terms     batch -> parts of the loss
        Raises FloatingPointError for a term that is not finite, NoEffect for one that does nothing at its first use.
        """
        seed = seeds.derive(self.seed, purpose, round)
        parameters = [[p for p in network.parameters() if p.requires_grad] for network in networks.values()]
        optimizers = [self._optimizer(params=each) for each in parameters]
        for network in networks.values():
            network.train()
            hold_frozen(network)
        kept: list[list[Tensor]] = []
        names: list[str] = []
        self._seed(seed)
        for epoch in range(epochs):
            for batch in shard.batches(self.batch_size, seed, epoch):
                parts = terms(batch)
                if any(name not in self.seen for name, _, _ in parts):
                    self._check(parts, [p for each in parameters for p in each])
                total = None
                for _, weight, value in parts:
                    weighted = value if weight == 1 else weight * value
                    total = weighted if total is None else total + weighted
                for each in parameters:
                    for parameter in each:
                        parameter.grad = None
                total.backward()
                for each, optimizer in zip(parameters, optimizers, strict=True):
                    if self.clip is not None:
                        torch.nn.utils.clip_grad_norm_(each, self.clip)
                    optimizer.step()
                kept.append([value.detach() for _, _, value in parts])
                names = [name for name, _, _ in parts]
        self.counted["steps"] += len(kept) * len(networks)
        for role in networks:
            self._count(f"trained/{role}", epochs * len(shard))
        if not kept:
            return {}
        means = torch.stack([torch.stack(values) for values in kept]).mean(dim=0).tolist()
        return self._finite(dict(zip(names, means, strict=True)), networks.values())

    def _seed(self, seed: int) -> None:
        """Dropout, and whatever else draws from the global generators. torch.manual_seed does it too, and takes 20 times as
        long, because it also prepares accelerators that are not there."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def _finite(self, means: dict[str, float], networks: Iterable[nn.Module]) -> dict[str, float]:
        for name, value in means.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"the {name} term became {value}")
        for network in networks:
            # Of the last step no loss has been seen yet.
            if not bool(torch.cat([p.detach().reshape(-1) for p in network.parameters()]).isfinite().all()):
                raise FloatingPointError("weights are not finite")
        return means

    def _check(self, parts: Terms, parameters: list[nn.Parameter]) -> None:
        """Looks at terms that are new: see learning.firststep. One that is 0 with a gradient of 0 is looked at again in the next step."""
        for name, _, value in parts:
            if name in self.seen:
                continue
            number = float(value.detach())
            if not np.isfinite(number):
                raise FloatingPointError(f"the {name} term is {number} at its first use")
            if not value.requires_grad:
                raise NoEffect(f"the {name} term is {number:.6g} and depends on no parameter that is trained")
            norm = joined(gradient_norms(value, parameters))
            if number == 0.0 and norm == 0.0:
                continue
            if norm == 0.0 or not np.isfinite(norm):
                raise NoEffect(
                    f"the {name} term is {number:.6g} at its first use, and the norm of its gradient {norm:.6g}"
                )
            self.seen[name] = {"value": number, "gradient": norm}

    def _count(self, what: str, number: int) -> None:
        self.counted[what] = self.counted.get(what, 0) + number

    def outputs(self, role: str, network: nn.Module, shard: Shard) -> Callable[[dict[str, Any]], Tensor]:
        """batch of `shard` -> logits [B, C] of a network that is not trained meanwhile, in eval mode, without gradients.

        Where a sample has the same inputs in every batch, all are computed at once and looked up.
        """
        if shard.fixed:
            table = self.table(role, network, shard)
            return lambda batch: table.index_select(0, batch["positions"].to(table.device))
        network.eval()

        def live(batch: dict[str, Any]) -> Tensor:
            self._count(f"asked/{role}", len(batch["positions"]))
            with torch.no_grad():
                return self.logits(network, batch["inputs"])

        return live

    @torch.no_grad()
    def table(self, role: str, network: nn.Module, shard: Shard) -> Tensor:
        """float32 [n, C]: logits on the samples of a shard in its order, in eval mode, nothing augmented."""
        network.eval()
        self._count(f"asked/{role}", len(shard))
        return torch.cat([self.logits(network, batch["inputs"]) for batch in shard.whole(OUTPUTS_BATCH)])

    @torch.no_grad()
    def evaluate(self, network: nn.Module, shard: Shard, final: bool = False) -> dict[str, float]:
        """The task's metrics on a shard."""
        network.eval()
        self._metrics.reset()
        for batch in shard.whole(self.eval_batch_size):
            self.task.evaluate(self._metrics, network, batch, final=final)
        return {name: float(value) for name, value in self._metrics.compute().items()}


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Scalar: mean cross-entropy for classes (targets int64 [B]), mean squared error for numbers (float [B] or [B, D])."""
    if targets.is_floating_point():
        return functional.mse_loss(logits, targets.reshape(logits.shape).to(logits.dtype))
    return functional.cross_entropy(logits, targets)


def transfer(logits: Tensor, taught: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """[B]: distance to frozen outputs. T^2 KL(taught || own) for classes, the squared error for numbers.

    A class that the frozen outputs exclude (logit -inf) adds nothing.
    """
    if targets.is_floating_point():
        return (logits - taught).square().sum(-1)
    # As objectives.kd, without its own gradient, which is for vocabularies: a step of a small network is a tenth faster.
    own, other = (torch.log_softmax(one if temperature == 1 else one / temperature, -1) for one in (logits, taught))
    p = other.exp()
    distance = (p * (other - own)).sum(-1)
    if distance.is_cuda or not bool(distance.isfinite().all()):
        distance = torch.where(p == 0, 0.0, p * (other - own)).sum(-1)
    return distance * temperature**2


@torch.no_grad()
def load(network: nn.Module, arrays: Arrays, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Copies arrays into parameters and buffers of the same names.

    tensors: the network's state_dict(), where the caller has it: walking through a small network takes as long as a step.
    """
    for name, tensor in (network.state_dict() if tensors is None else tensors).items():
        array = arrays[name]
        tensor.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))


def export(network: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> dict[str, np.ndarray]:
    """Parameters and buffers as arrays that share no memory with the network; `tensors` as for `load`."""
    tensors = network.state_dict() if tensors is None else tensors
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
