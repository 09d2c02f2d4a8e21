"""NVML: joules of the NVIDIA GPUs that this process computes on, through pynvml (the package nvidia-ml-py).

Only those GPUs are read, by UUID: CUDA numbers what CUDA_VISIBLE_DEVICES shows it, NVML numbers everything in the machine. From
Volta on a GPU counts its energy itself; of older ones the power is read and integrated by trapezium.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdrun.ledger.sensor import Counter, Unreadable

MILLI = 1e-3


class Nvml:
    """The joules of the first `count` GPUs that CUDA sees.

    library      pynvml, or what has its functions; None: it is imported
    environment  where CUDA_VISIBLE_DEVICES is looked up
    known        UUIDs of the devices in CUDA's order, where somebody knows them; None: asks torch if it is loaded
    Raises Unreadable where there is no such GPU, or its energy cannot be told from that of others.
    """

    method, machine_wide, estimate = "nvml", False, False

    def __init__(
        self,
        count: int = 1,
        library: Any = None,
        environment: Mapping[str, str] | None = None,
        known: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._nvml = library or _pynvml()
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: no NVIDIA driver answers ({error})") from error
        try:
            handles = self._chosen(count, os.environ if environment is None else environment, known)
            self._meters = {uuid: self._meter(handle, clock) for uuid, handle in handles.items()}
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error

    @property
    def devices(self) -> list[str]:
        return list(self._meters)

    @property
    def covers(self) -> tuple[str, ...]:
        return ("gpu",)

    def read(self) -> float | None:
        """Joules of all these GPUs since this object was made."""
        found = [meter.read() for meter in self._meters.values()]
        return None if None in found else sum(found)

    def restart(self) -> None:
        for meter in self._meters.values():
            meter.restart()

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _chosen(self, count: int, environment: Mapping[str, str], known: Sequence[str] | None) -> dict[str, Any]:
        """UUID -> handle of every whole GPU that is used; a GPU whose parts are used counts once."""
        handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        present = {_name(self._nvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        parts = {
            _name(self._nvml.nvmlDeviceGetUUID(part)): uuid for uuid in present for part in self._parts(present[uuid])
        }
        text = environment.get("CUDA_VISIBLE_DEVICES")
        asked = list(known) if known is not None else _torch_uuids(count)
        asked = asked or visible(text, list(present), list(parts))
        if len(asked) < count:
            shown = "" if text is None else f" (CUDA_VISIBLE_DEVICES={text})"
            raise Unreadable(f"NVML: {count} GPUs wanted, {len(asked)} visible of {len(present)}{shown}")
        used: dict[str, Any] = {}
        for uuid in asked[:count]:
            whole = parts.get(uuid, uuid)
            if whole not in present:
                raise Unreadable(f"NVML: no GPU {uuid}; there are: {', '.join(present)}")
            others = [part for part, parent in parts.items() if parent == whole and part not in asked[:count]]
            if others:
                raise Unreadable(
                    f"NVML: {whole} is divided (MIG) and {len(others)} parts are not ours: it counts all of them"
                )
            used[whole] = present[whole]
        return used

    def _parts(self, handle: Any) -> list[Any]:
        """MIG instances of a GPU; [] where it has none."""
        found = []
        try:
            most = self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except (self._nvml.NVMLError, AttributeError):
            return []
        for index in range(most):
            try:
                found.append(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            except self._nvml.NVMLError:
                continue
        return found

    def _meter(self, handle: Any, clock: Callable[[], float]) -> Counter:
        def energy() -> float:
            return self._asked(self._nvml.nvmlDeviceGetTotalEnergyConsumption, handle)

        try:
            return Counter(energy, MILLI, clock)
        except OSError:
            return Integral(lambda: MILLI * self._asked(self._nvml.nvmlDeviceGetPowerUsage, handle), clock)

    def _asked(self, function: Callable[[Any], float], handle: Any) -> float:
        """NVML's errors as OSError, which is what counters expect."""
        try:
            return float(function(handle))
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error


class Integral(Counter):
    """Joules from watts by the trapezium rule: sum of (P_k + P_k+1) / 2 * (t_k+1 - t_k). Raises Unreadable without power."""

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float]):
        try:
            super().__init__(watts, 1.0, clock)
        except OSError as error:
            raise Unreadable(f"NVML: neither energy nor power of the GPU can be read ({error})") from error

    def _step(self, value: float, now: float) -> float:
        return (value + self._last) / 2 * (now - self._at)


def visible(text: str | None, whole: Sequence[str], parts: Sequence[str] = ()) -> list[str]:
    """UUIDs in CUDA's order, from the text of CUDA_VISIBLE_DEVICES (None: it is not set, all are visible).

    Entries are indexes, or (beginnings of) UUIDs of GPUs or of MIG instances. As CUDA does, reading stops at the first entry
    that names nothing, or nothing single, or something twice.
    """
    if text is None:
        return list(whole)
    found: list[str] = []
    for word in (word.strip() for word in text.split(",")):
        if word.isdigit():
            matches = list(whole[int(word) : int(word) + 1])
        else:
            matches = [uuid for uuid in (*whole, *parts) if word and uuid.startswith(word)]
        if len(matches) != 1 or matches[0] in found:
            break
        found.append(matches[0])
    return found


def _torch_uuids(count: int) -> list[str]:
    """What torch says of the devices it computes on: right also where CUDA orders them by speed. [] where it does not."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    found = [getattr(torch.cuda.get_device_properties(i), "uuid", None) for i in range(torch.cuda.device_count())]
    if None in found[:count]:
        return []
    return [uuid if str(uuid).startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in map(str, found)]


def _name(uuid: Any) -> str:
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise Unreadable("NVML: the package pynvml is not installed: pip install nvidia-ml-py") from None
    return pynvml
