"""From `energy` in a config to a meter, a model or neither. Sensors' packages are imported only where they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from kdrun.ledger.meter import Meter
from kdrun.ledger.sensor import Sensor, Unreadable
from kdrun.ledger.spending import Model, Spending
from kdrun.problems import UserError, closest, listed

AUTO, NONE, NVML, RAPL, CODECARBON, MODEL = READERS = ("auto", "none", "nvml", "rapl", "codecarbon", "model")
SENSORS = {NVML: "nvml.Nvml", RAPL: "rapl.Rapl", CODECARBON: "codecarbon.CodeCarbon"}
"""Reader -> module and class below this package."""


@dataclass
class Metering:
    """How the energy of this process's stages is known.

    meter   of the sensors; None: none
    figures constants of the FLOPs model (ledger.figures.Figures); None: no model
    why     of each sensor that was looked for and not found, the reason
    """

    meter: Meter | None = None
    figures: Any = None
    precision: str = "fp32"
    idle: float = 0.0
    why: tuple[str, ...] = ()

    @property
    def model(self) -> Model | None:
        return None if self.figures is None else lambda flops: self.figures.joules(flops, self.precision)

    def spending(self, work: Path | None = None) -> Spending:
        """Begins to count for a stage with this work folder; before the first one the idle machine is measured, if asked for."""
        self.idle_now()
        return Spending(self.meter, self.model, None if self.figures is None else self.figures.name, work)

    def idle_now(self) -> float | None:
        """Watts of the idle machine, measured now if it is asked for and not known; None: not known."""
        if self.meter is not None and self.idle > 0:
            self.meter.measure_idle(self.idle)
            self.idle = 0.0
        return None if self.meter is None else self.meter.idle_watts

    def idle_known(self, watts: float | None) -> None:
        """Another process has measured the idle machine."""
        self.idle = 0.0
        if self.meter is not None:
            self.meter.idle_watts = watts

    def close(self) -> None:
        """Give the sensors back."""
        if self.meter is not None:
            self.meter.close()


def check_reader(settings: Mapping[str, Any] | None, hardware: Mapping[str, Any]) -> None:
    """Raises UserError where a sensor is asked for by name and is not there, saying what was looked for. No torch.

    `auto`, `none` and `model` ask for no sensor.
    """
    reader = _known((settings or {}).get("reader", AUTO))
    if reader in (NVML, RAPL):
        for sensor in _wanted(reader, hardware, {}):
            sensor.close()
    elif reader == CODECARBON:
        from kdrun.ledger.codecarbon import require

        try:
            require()
        except Unreadable as error:
            raise _refused(reader, [str(error)]) from None


def _known(reader: Any) -> str:
    if reader not in READERS:
        raise UserError(
            f"energy.reader={reader}: no such reader{closest(str(reader), READERS)}", f"readers: {listed(READERS)}"
        )
    return reader


def here() -> list[str]:
    """Sensors that can be read on this machine now. No torch."""
    found = []
    for name, open_ in _openers({"devices": 1}, 0.5).items():
        if name == CODECARBON:
            continue
        try:
            open_().close()
        except Unreadable:
            continue
        found.append(name)
    return found


def foreseen(settings: Mapping[str, Any] | None, hardware: Mapping[str, Any]) -> str | None:
    """ "sensor", "estimate" or None: how joules of a job with these nodes of its config will be known. No torch."""
    reader = (settings or {}).get("reader", AUTO)
    if settings is None or reader == NONE:
        return None
    if reader == CODECARBON:
        return "estimate"
    if reader != MODEL and here():
        return "sensor"
    from kdrun.ledger.machine import visible_gpus

    device = hardware.get("device")
    device = ("cuda" if visible_gpus() else "cpu") if device == AUTO else device
    return "estimate" if _energy_figures({**hardware, "device": device}) is not None else None


def open_metering(
    settings: Mapping[str, Any] | None,
    hardware: Mapping[str, Any],
    *,
    sensors: Mapping[str, Callable[[], Sensor]] | None = None,
    figures: Callable[[Mapping[str, Any]], Any] | None = None,
) -> Metering:
    """The meter or the model that `settings` (the node `energy`; None: nothing is metered) and `hardware` (resolved) name.

    sensors   method -> how to open it; for tests
    figures   constants of the model for this hardware; default: ledger.figures.energy_figures
    Raises UserError where what is asked for by name is not there.
    """
    if settings is None or settings["reader"] == NONE:
        return Metering()
    reader = _known(settings["reader"])
    why: list[str] = []
    found = [] if reader == MODEL else _wanted(reader, hardware, sensors or {}, why, settings["interval"])
    meter = Meter(found, settings["interval"], processes=hardware.get("devices", 1)) if found else None
    constants = None
    if reader in (AUTO, MODEL):
        constants = (figures or _energy_figures)(hardware)
        precision = hardware.get("precision", "fp32")
        if constants is not None and constants.joules(1.0, precision) is None:
            constants = None
        if constants is None and reader == MODEL:
            raise UserError(
                f"energy.reader=model: no constants are known for {hardware.get('name') or hardware.get('device')} in {precision}",
                "give hardware.figures.joules_per_tflop, or peak_tflops and power_w, in the file of the target",
            )
    return Metering(meter, constants, hardware.get("precision", "fp32"), settings.get("idle") or 0.0, tuple(why))


def _wanted(
    reader: str,
    hardware: Mapping[str, Any],
    given: Mapping[str, Callable[[], Sensor]],
    why: list[str] | None = None,
    interval: float = 0.5,
) -> list[Sensor]:
    """The sensors of this reader; with `auto` those that can be read, the reasons of the others in `why`."""
    opened = {**_openers(hardware, interval), **given}
    names = [reader]
    if reader == AUTO:
        names = [*([NVML] if hardware.get("device") == "cuda" else []), RAPL]
    found, reasons = [], []
    for name in names:
        try:
            found.append(opened[name]())
        except Unreadable as error:
            reasons.append(str(error))
    if reasons and reader != AUTO:
        raise _refused(reader, reasons)
    if why is not None:
        why += reasons
    return found


def _refused(reader: str, reasons: list[str]) -> UserError:
    return UserError(
        f"energy.reader={reader}: the sensor is asked for and cannot be read",
        *reasons,
        "energy.reader=auto takes what can be read, and else an estimate from counted FLOPs",
    )


def _openers(hardware: Mapping[str, Any], interval: float) -> dict[str, Callable[[], Sensor]]:
    arguments = {NVML: (hardware.get("devices") or 1,), RAPL: (), CODECARBON: (interval,)}
    return {name: partial(_open, *place.split("."), *arguments[name]) for name, place in SENSORS.items()}


def _open(module: str, kind: str, *arguments: Any) -> Sensor:
    return getattr(import_module(f"kdrun.ledger.{module}"), kind)(*arguments)


def _energy_figures(hardware: Mapping[str, Any]) -> Any:
    from kdrun.ledger.figures import energy_figures

    return energy_figures(hardware)
