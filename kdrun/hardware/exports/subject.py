"""What is exported and measured: the bare networks of a finished run, each with real inputs of its own data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdrun.networks.compressed import rounded_layers, settled
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

Inputs = tuple[Tensor, ...]


@dataclass
class TrainedNetwork:
    """One trained network, without what only training needed (no adaptor, no teacher inside).

    arm      "student", "alone", "teacher", the name of a control ...
    label    for people and file names: "student", "student lung" (a view), "student client 3"
    seed     of its training
    stage    the folder of its stage
    weights  its file there
    which    "best" (the epoch that validation chose) or "last"
    network  on the CPU, in eval mode
    node     the network's target node, from which the bare class is built
    spec     what it knows of its data (domains.spec.Spec)
    module   the data module with the view, window or client's samples that the network was trained on
    task     see kdrun.domains.task.Task
    part     name of a view, or "client 3"; None where the arm is one network
    source   {"run", "job_hash", "stage", "fingerprint"}
    targets  packages of the user's own that the node may name
    """

    arm: str
    label: str
    seed: int
    stage: Path
    weights: Path
    which: str
    network: nn.Module
    node: dict[str, Any]
    spec: Any
    module: Any
    task: Any
    part: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    @property
    def sequences(self) -> bool:
        """Whether there is an output per token."""
        return self.spec.per_position

    def inputs(self, split: str, count: int) -> Inputs:
        """`count` samples spread evenly over a split (fewer where it has fewer), as one batch that the network is called with."""
        return self.batch(split, self.positions(split, count))[0]

    def positions(self, split: str, count: int) -> np.ndarray:
        """int64: places of `count` samples spread evenly over a split, of those that networks are compared with (Task.usable).

        UserError where the split has none.
        """
        usable = self.task.usable(self.module.samples(split))
        if not len(usable):
            raise UserError(
                f"{self.label}: {self.spec.name} has no {self.task.USABLE} in {split}, so nothing can be compared or timed"
            )
        return usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(np.int64))]

    def batch(self, split: str, positions: np.ndarray) -> tuple[Inputs, dict[str, Any]]:
        """(inputs, batch) of the samples at these places; batch as tasks take it: inputs, targets, ids, masks. Nothing is
        augmented."""
        batch = self.module.samples(split).batch(positions)
        if self.spec.keywords:
            return tuple(batch["inputs"][name].contiguous() for name in self.spec.input_names), batch
        return (batch["inputs"],), batch

    def batches(self, split: str, size: int = 256) -> Iterator[tuple[Inputs, dict[str, Any]]]:
        """(inputs, batch) over all samples of a split once (see `positions` for questions), in the order of the source."""
        every = self.positions(split, len(self.module.samples(split)))
        for first in range(0, len(every), size):
            yield self.batch(split, every[first : first + size])

    def counted(self, batch: dict[str, Any]) -> Tensor | None:
        """bool [B, T]: the positions of an output that the network was trained on; None: all. What it says of padding, or after
        a word of a question, is nobody's."""
        return batch.get("mask")

    def bare(self, precision: str = "fp32") -> Bare:
        """The network as a module of positional tensors that returns its first output, the logits; what is exported.

        Of another precision than fp32 it is a copy; inputs and output are float32 all the same.
        """
        dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        network = settled(self.network) if rounded_layers(self.network) else self.network
        network = network if dtype is None else copy.deepcopy(network).to(dtype)
        return Bare(network, self.spec.input_names if self.spec.keywords else None, dtype).eval()

    def through(self, session: Any) -> nn.Module:
        """A module that looks like the network to a task (`task.predict`, `task.update`) and asks `session` instead.

        It has no parameters. It does not generate: of translation and answers only teacher-forced scores are known of it.
        """
        return Through(session, self.spec.input_names)


class Bare(nn.Module):
    """A network called with tensors in order, whose output is its logits in float32.

    names  of keyword arguments, where it takes those; dtype: of the network, where not float32
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...] | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.network, self.names, self.dtype = network, names, dtype

    def forward(
        self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None, fourth: Tensor | None = None
    ) -> Tensor:
        given = [one for one in (first, second, third, fourth) if one is not None]
        if self.dtype is not None:
            given = [one.to(self.dtype) if one.is_floating_point() else one for one in given]
        if self.names is None:
            return logits_of(self.network(*given)).float()
        return logits_of(self.network(**dict(zip(self.names, given, strict=True)))).float()


class Through(nn.Module):
    """See Subject.through."""

    def __init__(self, session: Any, names: tuple[str, ...]):
        super().__init__()
        self.session, self.names = session, names

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        given = [*tensors, *(named[name] for name in self.names[len(tensors) :])]
        return torch.from_numpy(np.array(self.session(*(one.numpy() for one in given))))
