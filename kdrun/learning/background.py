"""Checkpoints are written beside training: the state is copied to main memory, which training waits for, and written by a thread."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Background:
    """One piece of work at a time in a thread. What it raises is raised by the next `start` or `wait`. seconds: that it computed last."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Once the work before is done."""
        self.wait()

        def run() -> None:
            begin = time.thread_time()
            try:
                work()
            except BaseException as error:
                self._error = error
            self.seconds = time.thread_time() - begin

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


def copied(value: Any, storages: dict[int, Tensor] | None = None) -> Any:
    """Mappings, lists and tuples as they are now, with copies of their tensors in main memory; tensors that share memory share it again."""
    storages = {} if storages is None else storages
    if isinstance(value, Tensor):
        return _in_memory(value.detach(), storages)
    if isinstance(value, dict):
        made = copy.copy(value)  # with what a state dict says of itself
        for key, item in value.items():
            made[key] = copied(item, storages)
        return made
    if isinstance(value, list | tuple):
        return type(value)(copied(item, storages) for item in value)
    return value


def _in_memory(tensor: Tensor, storages: dict[int, Tensor]) -> Tensor:
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        storages[storage._cdata] = whole.to("cpu", copy=True)
    return torch.empty(0, dtype=tensor.dtype).set_(
        storages[storage._cdata].untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )
