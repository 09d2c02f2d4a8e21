"""The Lightning trainer around a learner, without what kdrun does itself."""

from __future__ import annotations

import logging
from typing import Any

from kdrun.learning.callbacks import TakenCheckpointIO
from kdrun.learning.learner import LearnerModule
from kdrun.learning.sharding import ShardedStrategy
from kdrun.nodes import world_of

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Epochs:
    """The loader as Lightning sees it: every pass begins by telling the loader which epoch it is.

    The learner's own count of steps says so: after a resume at the end of an epoch, Lightning makes the next iterator
    before it has counted the epoch as complete.
    """

    def __init__(self, loader, learner: LearnerModule):
        self.loader = loader
        self.learner = learner

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        self.loader.set_epoch(self.learner.step // len(self.loader))
        return iter(self.loader)

    def state_dict(self) -> dict[str, int]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loader.load_state_dict(state)


def make_trainer(hardware: dict[str, Any], callbacks: list, max_epochs: int, sharded: bool = False):
    """A Lightning Trainer with nothing on it that kdrun does itself (records, bars, checkpoints, sampling)."""
    from lightning import Trainer
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    # Only after the import: importing lightning sets its loggers back to INFO.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    world = world_of(hardware)
    accelerator = {"cuda": "gpu"}.get(hardware["device"], hardware["device"])
    kind = ShardedStrategy if sharded else DDPStrategy
    strategy = kind(process_group_backend="nccl" if accelerator == "gpu" else "gloo") if world > 1 else "auto"
    trainer = Trainer(
        accelerator=accelerator,
        devices=hardware["devices"],
        num_nodes=hardware.get("nodes", 1),
        strategy=strategy,
        precision=PRECISION[hardware["precision"]],
        max_epochs=max_epochs,
        callbacks=callbacks,
        plugins=[TakenCheckpointIO(), LightningEnvironment()],  # whatever srun or torchrun said of the command
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    # Lightning answers SIGTERM by an exception between two hooks, before the state is saved; kdrun's own handler asks
    # the callbacks to save first.
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer
