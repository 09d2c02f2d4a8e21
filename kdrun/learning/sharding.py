"""Fully sharded training (FSDP2): weights, gradients and optimizer state of the student lie in parts over the ranks.

The teacher is whole on every rank, and so is the student while it is evaluated: generation takes a different number of
steps on each rank, and a sharded forward pass would wait for the others for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdrun.networks.modes import hold_frozen
from kdrun.problems import UserError

CALLED = ("hidden",)
"""Methods besides forward that a task calls on the network that trains."""


def check_shardable(network: nn.Module, trainer: dict[str, Any], hardware: dict[str, Any]) -> None:
    """Raises UserError for what does not go with trainer.sharding=fsdp. The network is left in training mode."""
    from torch.distributed.fsdp import FSDPModule

    def refuse(why: str, instead: str) -> None:
        raise UserError(f"trainer.sharding=fsdp {why}", f"give {instead}, or trainer.sharding=none")

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(f"trainer.sharding=fsdp needs torch 2.13 or later, this is {torch.__version__}")
    if trainer["ema"] is not None:
        refuse(f"has no average of the weights (trainer.ema={trainer['ema']})", "trainer.ema=null")
    if trainer.get("balance") is not None:
        refuse(f"measures no gradients of single terms (trainer.balance={trainer['balance']})", "trainer.balance=null")
    if hardware["precision"] == "fp16":
        refuse("does not go with hardware.precision=fp16: gradients are scaled by each rank alone", "bf16 or fp32")
    if trainer.get("gather") is not None and hardware["precision"] != "bf16":
        raise UserError(
            f"trainer.gather={trainer['gather']}: the forward pass is in {hardware['precision']}",
            "give hardware.precision=bf16",
        )
    if hardware["channels_last"]:
        refuse("does not go with hardware.channels_last=true", "hardware.channels_last=false")
    hold_frozen(network.train())
    normed = [name for name, part in network.named_modules() if isinstance(part, _NormBase) and part.training]
    if normed:
        refuse(f"has no place for batch statistics, and the network has them in {normed[0]}", "another network")
    single = [name for name, parameter in network.named_parameters() if parameter.dim() == 0]
    if single:
        refuse(f"cannot divide a parameter that is a single number: {single[0]}", "another network")


def units(network: nn.Module) -> list[nn.Module]:
    """The parts whose weights are gathered one after another; what is in none of them is gathered for the whole step.

    They are the network's `blocks`; else the layers that transformers' models inside name in `_no_split_modules`; else
    its children. A unit is run by being called, in every step on every rank: the tower of a vision-language network is
    none, for a batch may have no images on one rank. Of the children a list is none, for what is in it may be used in
    other ways, nor is a single layer, whose weight may be read. Nor is what shares a parameter with the rest.
    """
    found = list(getattr(network, "blocks", ()))
    if not found:
        named = {name for part in network.modules() for name in getattr(part, "_no_split_modules", None) or ()}
        found = [part for part in network.modules() if type(part).__name__ in named]
    if not found:
        containers = (nn.ModuleList, nn.ModuleDict)
        found = [part for part in network.children() if list(part.children()) and not isinstance(part, containers)]
    tower = getattr(network, "tower", None)
    inside = set() if tower is None else set(tower.modules())
    return [part for part in found if part not in inside and _by_itself(part, network)]


def _by_itself(part: nn.Module, network: nn.Module) -> bool:
    """Whether it has parameters, and none of them is a parameter of another module too."""
    within = set(part.modules())
    own = {id(parameter) for parameter in part.parameters()}
    others = (
        parameter for module in network.modules() if module not in within for parameter in module._parameters.values()
    )
    return bool(own) and not any(id(parameter) in own for parameter in others)


GATHERED = {"bf16": torch.bfloat16}
"""Number formats of trainer.gather."""


def shard(network: nn.Module, mesh, gather: str | None = None) -> None:
    """Divides every parameter of the network over the mesh, in place. gather: number format of units while they are whole; their gradients are
    averaged in float32, and what is in no unit (embeddings, the output) stays as it is."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    formats = {"param_dtype": GATHERED[gather], "reduce_dtype": torch.float32} if gather else {}
    policy = MixedPrecisionPolicy(**formats, cast_forward_inputs=False)  # autocast does that
    for unit in reversed(units(network)):  # inner ones first
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    # An output layer is multiplied after the forward pass is over: what the root holds stays until the backward pass.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    # A batch without images gives the projector no gradient, and ranks must agree on what they average.
    network.set_reduce_scatter_unused_params(True)
    for name in CALLED:
        if hasattr(network, name):
            _gather_for(network, name)


def shard_frozen(network: nn.Module, device: torch.device) -> None:
    """Divides a network that only answers over all ranks, in place: from now on they have to ask it together. Each block is whole while it
    computes, and in main memory or on disk until the rank's part of it is on the device.

    Ranks find each other here where they have not yet; Lightning then takes that group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for unit in reversed(units(network)):
        fully_shard(unit, mesh=mesh)
    fully_shard(
        network, mesh=mesh, reshard_after_forward=False
    )  # as of a student: an output layer may be read afterwards
    for name in CALLED:
        if hasattr(network, name):
            _gather_for(network, name)


def _gather_for(network: nn.Module, name: str) -> None:
    """Makes this method of a sharded network one that gathers it, as forward does, but not inside of forward."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    plain, running = getattr(network, name), []
    register_fsdp_forward_method(network, name)
    gathering = getattr(network, name)
    network.register_forward_pre_hook(lambda *_: running.append(name))
    network.register_forward_hook(lambda *_: running.clear(), always_call=True)
    setattr(network, name, lambda *args, **options: (plain if running else gathering)(*args, **options))


def keep_gathered(network: nn.Module, keep: bool) -> None:
    """Whether units stay whole between forward and backward pass; all ranks must say the same."""
    for part in network.modules():
        if part is not network and hasattr(part, "set_reshard_after_forward"):
            part.set_reshard_after_forward(not keep, recurse=False)


@contextmanager
def each_rank_alone(network: nn.Module) -> Iterator[None]:
    """Backward passes in here exchange nothing and leave a sharded network gathered; another is left alone."""
    if not hasattr(network, "set_requires_gradient_sync"):
        yield
        return

    def together(value: bool) -> None:
        network.set_requires_gradient_sync(value)
        network.set_reshard_after_backward(value)
        network.set_is_last_backward(value)

    together(False)
    try:
        yield
    finally:
        together(True)


@torch.no_grad()
def gather(sharded: nn.Module, whole: nn.Module) -> None:
    """Copies the weights of a sharded network into a whole one of the same make; all ranks have to call it."""
    for ours, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
        theirs.copy_(_full(ours))
    for ours, theirs in zip(sharded.buffers(), whole.buffers(), strict=True):
        theirs.copy_(ours)


def _full(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


class ShardedStrategy(DDPStrategy):
    """The learner's student sharded over all ranks. Checkpoints are those of one process: whole tensors, by rank 0."""

    def setup(self, trainer) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        fitting = trainer.state.fn == "fit"
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.model)
        if fitting:
            # Before anything is moved: a unit goes to the device alone, and only the rank's part of it stays.
            learner = self.lightning_module
            shard(learner.student, init_device_mesh(self.root_device.type, (self.world_size,)), learner.gathered)
            self._looking = True
            keep_gathered(learner.student, True)
        self.model_to_device()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # The first look at the terms needs the whole student's gradients on each rank.
        if self._looking:
            learner = self.lightning_module
            open_terms = len(learner.objective.active) - len(learner.first_step or {})
            count = self.reduce(torch.tensor(float(open_terms), device=self.root_device), reduce_op="sum")
            if not count:
                self._looking = False
                keep_gathered(learner.student, False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer) -> dict[str, Any]:
        state = super().optimizer_state(optimizer)
        return {**state, "state": {index: self._whole(values) for index, values in state["state"].items()}}

    def _whole(self, values: dict[str, Any]) -> dict[str, Any]:
        """In main memory; empty on other ranks than 0, which only help."""
        found = {}
        for name, value in values.items():
            full = _full(value)
            if self.is_global_zero:
                found[name] = full.to("cpu") if isinstance(full, Tensor) else full
        return found

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        from torch.distributed.tensor import distribute_tensor

        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, values in state["state"].items():
                own = parameters[index]
                for name, value in values.items():
                    if isinstance(value, Tensor) and value.shape == own.shape:
                        # Every rank has read the file: each takes its part and none sends.
                        value = value.to(self.root_device)
                        values[name] = distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
            optimizer.load_state_dict(state)

    def teardown(self) -> None:
        # Sharded weights stay where the processes can exchange them.
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
