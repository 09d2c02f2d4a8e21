"""Counters that a test turns by hand: a clock, a powercap tree, an NVML, a sensor."""

from __future__ import annotations

from pathlib import Path


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Powercap:
    """A folder like /sys/class/powercap. zone("intel-rapl:0", "package-0", span) makes a zone; set(zone, joules)."""

    def __init__(self, root: Path):
        self.root = root

    def zone(self, folder: str, name: str, joules: float = 0.0, span_joules: float | None = 1000.0) -> None:
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        if span_joules is not None:
            (path / "max_energy_range_uj").write_text(f"{round(span_joules * 1e6)}\n")
        self.set(folder, joules)

    def set(self, folder: str, joules: float) -> None:
        (self.root / folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


class Sensor:
    def __init__(self, method="rapl", covers=("cpu",), machine_wide=True, estimate=False, devices=("package-0",)):
        self.method, self.covers, self.machine_wide, self.estimate = method, covers, machine_wide, estimate
        self.devices = list(devices)
        self.joules: float | None = 0.0
        self.closed = False

    def read(self) -> float | None:
        return self.joules

    def close(self) -> None:
        self.closed = True


class FakeNvml:
    """The functions of pynvml that are used. gpus: {uuid: {"mj": counter or None, "mw": power or None, "mig": [uuids]}}."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus, driver=True):
        self.gpus, self.driver = gpus, driver

    def nvmlInit(self):
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return list(self.gpus)[index]

    def nvmlDeviceGetUUID(self, handle):
        return handle.encode() if handle.endswith("b") else handle

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        if "mig" not in self.gpus[handle]:
            raise self.NVMLError("Not Supported")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        parts = self.gpus[handle]["mig"]
        if index >= len(parts):
            raise self.NVMLError("Not Found")
        return parts[index]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._value(handle, "mj")

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._value(handle, "mw")

    def _value(self, handle, name):
        value = self.gpus[handle].get(name)
        if value is None:
            raise self.NVMLError("Not Supported")
        return value
