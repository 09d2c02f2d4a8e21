"""Training and evaluation as clients and servers do them: a plain loop over train_step, without a Lightning trainer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.domains.task import Prediction
from kdrun.federation.messages import Arrays
from kdrun.federation.shards import Shard
from kdrun.learning import seeds
from kdrun.learning.backend import Backend
from kdrun.learning.groups import parameter_groups, with_factors
from kdrun.learning.schedule import schedule
from kdrun.learning.step import train_step
from kdrun.networks.modes import hold_frozen
from kdrun.problems import UserError
from kdrun.targets import build

OUTPUTS_BATCH = 1024


class Loop:
    """What training needs: the task, the trainer's settings and where it runs. To a step it is the task.

    trainer    batch_size, eval_batch_size, optimizer (a target node), clip and, where they are not as a federation has them by
               default, accumulate and schedule of the config
    precision  fp32, or bf16 for automatic mixed precision
    rounds     of the federation, which with `schedule` decides the rate at a step
    seen       {term: {"value", "gradient"}} at its first use; a term that does nothing stops the run (NoEffect)
    counted    plain numbers: optimisation "steps", and by role of a network samples that it was trained on
               ("trained/private") and frozen outputs that it gave ("asked/proxy")
    """

    def __init__(
        self,
        task: Any,
        trainer: dict[str, Any],
        seed: int,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        rounds: int = 1,
    ):
        if precision not in ("fp32", "bf16"):
            raise UserError(f"hardware.precision={precision}: a federation trains in fp32 or bf16")
        self.task, self.trainer, self.seed, self.device = task, trainer, seed, torch.device(device)
        self.eval_batch_size = trainer.get("eval_batch_size") or OUTPUTS_BATCH
        self.mixed, self.rounds = precision == "bf16", rounds
        self.seen: dict[str, dict[str, float]] = {}
        self.counted: dict[str, int] = {"steps": 0}
        self._optimizer = build({**trainer["optimizer"], "_partial_": True}, "optimizer")
        self.passes = getattr(self._optimizer.func, "passes", 1)  # gradients that a step computes
        self._metrics = task.collection().to(self.device)

    def predict(self, network: nn.Module, inputs: Any) -> Prediction:
        """One forward pass, of which the logits are float32."""
        if not self.mixed:
            return self.task.predict(network, inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            prediction = self.task.predict(network, inputs)
        return replace(prediction, logits=prediction.logits.float())

    def tensors(self, batch: dict[str, Any], student: Prediction, teacher: Prediction | None) -> dict[str, Any]:
        return self.task.tensors(batch, student, teacher)

    def train(
        self,
        networks: Mapping[str, nn.Module],
        objective: Any,
        shard: Shard,
        epochs: int,
        purpose: str,
        round: int,
        *,
        teacher: Outputs | None = None,
        task: Any = None,
    ) -> dict[str, float]:
        """Steps on all batches of `epochs` passes; the means of the terms over the steps, by name.

        networks   those that learn, by role; of several, the student of a step is all in an nn.ModuleDict
        objective  objectives.terms.Objective, or what is called as one
        purpose    what is trained, with `round` part of the seed of order, augmentation and dropout
        task       in place of the loop itself, for other tensors
        The optimizer begins anew. Raises FloatingPointError for a term that is not finite, NoEffect for one that does nothing
        at its first use.
        """
        seed, settings = seeds.derive(self.seed, purpose, round), self.trainer
        student = next(iter(networks.values())) if len(networks) == 1 else nn.ModuleDict(networks)
        student.train()
        hold_frozen(student)
        backend = LoopBackend(self, task or self, student, networks.values(), objective)
        optimizer = self._optimizer_of(list(networks.values()), backend.trained)
        backend.serve(optimizer)
        rate = self._rate(optimizer, epochs, round, len(shard.bounds(settings["batch_size"])))
        self._seed(seed)
        kept: list[list[Tensor]] = []
        try:
            for epoch in range(epochs):
                for batch in shard.batches(settings["batch_size"], seed, epoch):
                    rate(len(kept))
                    kept.append(train_step(student, teacher, objective, batch, optimizer, len(kept), backend))
        finally:
            self.seen |= backend.seen
        self.counted["steps"] += len(kept) * len(networks)
        for role in networks:
            self.count(f"trained/{role}", epochs * len(shard))
        if not kept:
            return {}
        means = torch.stack([torch.stack(values) for values in kept]).mean(dim=0).tolist()  # of terms first
        names = [term.name for term in objective.active]
        return self._finite(dict(zip(names, means, strict=False)), networks.values())

    def _optimizer_of(self, networks: list[nn.Module], trained: Sequence[list[nn.Parameter]]) -> torch.optim.Optimizer:
        """A new optimizer of the parameters `trained` of each network, with `trainer.groups` of each."""
        if groups := self.trainer.get("groups"):
            pairs = zip(trained, networks, strict=True)
            return with_factors(self._optimizer(params=[g for pair in pairs for g in parameter_groups(*pair, groups)]))
        return self._optimizer(params=trained[0] if len(trained) == 1 else [{"params": each} for each in trained])

    def _rate(self, optimizer: torch.optim.Optimizer, epochs: int, round: int, batches: int) -> Callable[[int], None]:
        """Sets the learning rates before a step of this round: as in the other rounds, or by `trainer.schedule`, which is a
        function of the steps of all rounds, also of those in which a client was not called."""
        if "schedule" not in self.trainer:
            return lambda step: None
        factor = schedule(self.trainer["schedule"], self.rounds * epochs, batches)
        base = [group["lr"] for group in optimizer.param_groups]

        def set_rate(step: int) -> None:
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor(round * epochs * batches + step)

        return set_rate

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

    def count(self, what: str, number: int) -> None:
        self.counted[what] = self.counted.get(what, 0) + number

    def outputs(self, role: str, network: nn.Module, shard: Shard) -> Outputs:
        """What a network that is not trained meanwhile says of batches of `shard`, in eval mode.

        Where a sample has the same inputs in every batch, all are computed at once and looked up.
        """
        return Stored(self.table(role, network, shard)) if shard.fixed else Live(self, role, network)

    @torch.no_grad()
    def table(self, role: str, network: nn.Module, shard: Shard) -> Tensor:
        """float32 [n, C]: logits on the samples of a shard in its order, in eval mode, nothing augmented."""
        network.eval()
        self.count(f"asked/{role}", len(shard))
        return torch.cat([self.predict(network, batch["inputs"]).dense() for batch in shard.whole(OUTPUTS_BATCH)])

    @torch.no_grad()
    def evaluate(self, network: nn.Module, shard: Shard, final: bool = False) -> dict[str, float]:
        """The task's metrics on a shard."""
        network.eval()
        self._metrics.reset()
        for batch in shard.whole(self.eval_batch_size):
            self.task.evaluate(self._metrics, network, batch, final=final)
        return {name: float(value) for name, value in self._metrics.compute().items()}


class Outputs(Protocol):
    """Frozen outputs for batches of a shard."""

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction: ...


class Stored:
    """Outputs that were computed before: float32 [n, C] in the order of the shard."""

    def __init__(self, table: Tensor):
        self.table = table

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        return Prediction(self.table.index_select(0, batch["positions"].to(self.table.device)))


class Live:
    """Outputs of a network in eval mode on each batch as it comes."""

    def __init__(self, loop: Loop, role: str, network: nn.Module):
        self.loop, self.role, self.network = loop, role, network.eval()

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        self.loop.count(f"asked/{self.role}", len(batch["positions"]))
        return self.loop.predict(self.network, batch["inputs"])


class LoopBackend(Backend):
    """The steps of a client or server: a term that is not finite at its first use is a training that diverged, and one that
    begins with nothing, as that of two equal networks, is looked at again."""

    def __init__(self, loop: Loop, task: Any, student: nn.Module, networks: Iterable[nn.Module], objective: Any):
        trainer = loop.trainer
        super().__init__(task, student, trainer.get("accumulate", 1), trainer.get("clip"), alike=True)
        self.trained = [[p for p in network.parameters() if p.requires_grad] for network in networks]
        self.seen = {term.name: loop.seen[term.name] for term in objective.active if term.name in loop.seen}
        if self.accumulate > 1 and any(isinstance(part, _BatchNorm) and part.training for part in student.modules()):
            self.smallest = 2

    def check(self, objective: Any, raw: dict[str, Tensor], part: dict[str, Any], scale: float = 1.0) -> None:
        for name, value in raw.items():
            if name not in self.seen and not value.isfinite():
                raise FloatingPointError(f"the {name} term is {float(value.detach())} at its first use")
        super().check(objective, raw, part, scale)


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
