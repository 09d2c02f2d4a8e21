"""What makers publish of devices: `figures` in conf/hardware/*.yaml, read without composing anything. No torch here.

figures:
  peak_tflops: {fp32: 67, tf32: 494.5, bf16: 989.5, fp16: 989.5, int8: 1979}    # dense; null: not published
  memory_gb: 80
  bandwidth_gb_s: 3350
  power_w: {default: 700}             # of each power mode, the usual one first
  joules_per_tflop: {fp32: 133}       # constants of the energy model; where there are none: power of the first mode / reached peak
  operation_pj: {mac: 4.6, add: 0.9}  # pJ of one multiply-accumulate and of one addition, for networks that compute with spikes
  utilisation: 0.4                    # share of the peak that networks reach
  launch_us: 5                        # microseconds to start one operator
  match: H100                         # regular expression over what a machine says it is; none: it is never this machine
  source: NVIDIA H100 Tensor Core GPU data sheet, H100 SXM, dense
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun.ledger.machine import machine_words
from kdrun.problems import Problems, closest, listed

FORMATS = ("fp32", "tf32", "bf16", "fp16", "int8")
OPERATIONS = ("mac", "add")
TABLES = {"peak_tflops": FORMATS, "power_w": None, "joules_per_tflop": FORMATS, "operation_pj": OPERATIONS}
"""Key of `figures` that is a mapping -> the keys it may have; None: any."""
KEYS = (
    "peak_tflops", "memory_gb", "bandwidth_gb_s", "power_w", "joules_per_tflop", "operation_pj", "utilisation", "launch_us", "match", "source"
)  # fmt: skip
UTILISATION = 0.4
"""Share of the peak that is reached: a habit of well-tuned language-model training, not a measurement."""


@dataclass(frozen=True)
class DeviceFigures:
    """One device; None: not published.

    peak_tflops       number format -> 10^12 operations a second, dense
    memory_gb, bandwidth_gb_s   of the memory that weights and activations lie in; GB are 10^9 bytes
    power_w           power mode -> watts, the usual mode first
    joules_per_tflop  number format -> J for 10^12 operations, as a constant of the energy model
    operation_pj      mac, add -> pJ of one multiply-accumulate, and of one addition
    utilisation       share of the peak that networks reach
    convolutions      of that, the share that convolutions reach, where it is measured
    launch_us         microseconds to start one operator, whatever it computes; 0: left out
    match             regular expression over what a machine says it is
    """

    name: str
    peak_tflops: dict[str, float | None]
    memory_gb: float | None
    bandwidth_gb_s: float | None
    source: str
    power_w: dict[str, float] = field(default_factory=dict)
    joules_per_tflop: dict[str, float] = field(default_factory=dict)
    operation_pj: dict[str, float] = field(default_factory=dict)
    utilisation: float = UTILISATION
    launch_us: float = 0.0
    convolutions: float = 1.0
    match: str | None = None

    def joules(self, flops: float, precision: str) -> float | None:
        """Energy of so many operations: the constant of the format, else power of the usual mode over the reached peak.

        An estimate, whoever calls it. None where neither is known.
        """
        if constant := self.joules_per_tflop.get(precision):
            return flops * 1e-12 * constant
        peak, power = self.peak_tflops.get(precision), next(iter(self.power_w.values()), None)
        return None if peak is None or power is None else flops * 1e-12 * power / (peak * self.utilisation)

    def joules_of(self, operations: Mapping[str, float]) -> float | None:
        """Energy of so many operations of each kind in OPERATIONS, an estimate; None where a constant is not known."""
        known = all(self.operation_pj.get(kind) for kind in operations)
        return 1e-12 * sum(count * self.operation_pj[kind] for kind, count in operations.items()) if known else None


def read_figures(given: Sequence[str] = ()) -> dict[str, DeviceFigures]:
    """Name -> figures of every hardware config that has some, own `--conf` folders included, in alphabetical order.

    Raises one UserError that names all mistakes with their files.
    """
    import yaml

    from kdrun.config.groups import conf_dirs, groups

    found, problems = {}, Problems()
    for name, option in sorted(groups(conf_dirs(given)[0]).get("hardware", {}).items()):
        with open(option.file, encoding="utf-8") as file:
            try:
                tree = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except yaml.YAMLError as error:
                problems.add(f"{option.shown}: {str(error).splitlines()[0]}")
                continue
        node = tree.get("figures") if isinstance(tree, Mapping) else None
        figures = None if node is None else figures_of(name, node, problems, option.shown)
        if figures is not None:
            found[name] = figures
    problems.stop()
    return found


def figures_of(name: str, node: Any, problems: Problems, where: str) -> DeviceFigures | None:
    """One `figures` node; None, and what is wrong told to `problems`, where it cannot be used."""
    before = len(problems.found)
    if not isinstance(node, Mapping):
        problems.add(f"{where}: figures: expected a mapping with {listed(KEYS)}, got {node!r}")
        return None
    for key in node:
        if key not in KEYS:
            problems.add(f"{where}: figures.{key}: no such key{closest(str(key), KEYS)}; it has: {listed(KEYS)}")
    tables = {}
    for table, allowed in TABLES.items():
        tables[table] = given = node.get(table) or {}
        if not isinstance(given, Mapping):
            named = {FORMATS: "FORMAT", OPERATIONS: "OPERATION"}.get(allowed, "NAME")
            problems.add(f"{where}: figures.{table}: expected {named}: NUMBER, got {given!r}")
            return None
        what = "operation" if allowed == OPERATIONS else "format"
        for key in given:
            if allowed is not None and key not in allowed:
                problems.add(f"{where}: figures.{table}.{key}: no such {what}; {what}s: {listed(allowed)}")
    if not isinstance(node.get("source"), str):
        problems.add(f"{where}: figures.source: where the figures are published has to be said")
    share = node.get("utilisation", UTILISATION)
    if not _positive(share) or share > 1:
        problems.add(f"{where}: figures.utilisation: a share of the peak, above 0 and at most 1; got {share!r}")
    launch = node.get("launch_us", 0)
    if launch != 0 and not _positive(launch):
        problems.add(f"{where}: figures.launch_us: expected microseconds, 0 or more; got {launch!r}")
    match = node.get("match")
    try:
        match is None or re.compile(match)
    except (re.error, TypeError) as error:
        problems.add(f"{where}: figures.match: not a regular expression: {match!r} ({error})")
    values = {f"{table}.{key}": value for table, given in tables.items() for key, value in given.items()}
    values |= {key: node.get(key) for key in ("memory_gb", "bandwidth_gb_s")}
    for key, value in values.items():
        if value is not None and not _positive(value):
            problems.add(
                f"{where}: figures.{key}: expected a number above 0, or null where none is published, got {value!r}"
            )
    if len(problems.found) > before:
        return None
    constants = ("power_w", "joules_per_tflop", "operation_pj")
    return DeviceFigures(
        name,
        {key: tables["peak_tflops"].get(key) for key in FORMATS},
        values["memory_gb"],
        values["bandwidth_gb_s"],
        node["source"],
        *({str(key): value for key, value in tables[name].items() if value is not None} for name in constants),
        utilisation=share,
        launch_us=launch,
        match=match,
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def figures_in(hardware: Mapping[str, Any]) -> DeviceFigures | None:
    """Published figures of the `hardware` node of a run's config; None where it has none of a device."""
    node = hardware.get("figures")
    if not node:
        return None
    problems = Problems()
    found = figures_of(hardware.get("name") or "hardware", node, problems, "hardware")
    problems.stop()
    return found if found.match is not None or any(found.peak_tflops.values()) else None


def energy_figures(hardware: Mapping[str, Any]) -> DeviceFigures | None:
    """Constants of the energy model for a run on `hardware` (its resolved node): the target's own where it computes there, those
    of conf/hardware/cpu.yaml on any other CPU; None for a GPU of which nothing is published.
    """
    own, device = figures_in(hardware), hardware.get("device")
    if device == "cpu":
        return read_figures().get("cpu")
    here = own is not None and own.match and any(re.search(own.match, word) for word in machine_words())
    return own if here else None
