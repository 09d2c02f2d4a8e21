"""What makers publish of devices: `figures` in conf/hardware/*.yaml, read without composing anything. No torch here.

figures:
  peak_tflops: {fp32: 67, tf32: 494.5, bf16: 989.5, fp16: 989.5, int8: 1979}    # dense; null: not published
  memory_gb: 80
  bandwidth_gb_s: 3350
  source: NVIDIA H100 Tensor Core GPU data sheet, H100 SXM, dense
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.problems import Problems, closest, listed

FORMATS = ("fp32", "tf32", "bf16", "fp16", "int8")
KEYS = ("peak_tflops", "memory_gb", "bandwidth_gb_s", "source")


@dataclass(frozen=True)
class Figures:
    """One device. peak_tflops: number format -> 10^12 operations a second, dense; GB are 10^9 bytes. None: not published."""

    name: str
    peak_tflops: dict[str, float | None]
    memory_gb: float | None
    bandwidth_gb_s: float | None
    source: str


def read_figures(given: Sequence[str] = ()) -> dict[str, Figures]:
    """Name -> figures of every hardware config that has some, own `--conf` folders included, in alphabetical order.

    Raises one UserError that names all mistakes with their files.
    """
    import yaml

    from kdrun.config.groups import conf_dirs, groups

    found, problems = {}, Problems()
    for name, option in sorted(groups(conf_dirs(given)[0]).get("hardware", {}).items()):
        with open(option.file, encoding="utf-8") as file:
            try:
                tree = yaml.safe_load(file)
            except yaml.YAMLError as error:
                problems.add(f"{option.shown}: {str(error).splitlines()[0]}")
                continue
        node = tree.get("figures") if isinstance(tree, Mapping) else None
        figures = None if node is None else figures_of(name, node, problems, option.shown)
        if figures is not None:
            found[name] = figures
    problems.stop()
    return found


def figures_of(name: str, node: Any, problems: Problems, where: str) -> Figures | None:
    """One `figures` node; None, and what is wrong told to `problems`, where it cannot be used."""
    before = len(problems.found)
    if not isinstance(node, Mapping):
        problems.add(f"{where}: figures: expected a mapping with {listed(KEYS)}, got {node!r}")
        return None
    for key in node:
        if key not in KEYS:
            problems.add(f"{where}: figures.{key}: no such key{closest(str(key), KEYS)}; it has: {listed(KEYS)}")
    peaks = node.get("peak_tflops") or {}
    if not isinstance(peaks, Mapping):
        problems.add(f"{where}: figures.peak_tflops: expected FORMAT: NUMBER, got {peaks!r}")
        return None
    for key in peaks:
        if key not in FORMATS:
            problems.add(f"{where}: figures.peak_tflops.{key}: no such format; formats: {listed(FORMATS)}")
    if not isinstance(node.get("source"), str):
        problems.add(f"{where}: figures.source: where the figures are published has to be said")
    values = {f"peak_tflops.{key}": peaks.get(key) for key in FORMATS}
    values |= {key: node.get(key) for key in ("memory_gb", "bandwidth_gb_s")}
    for key, value in values.items():
        if value is not None and not _positive(value):
            problems.add(
                f"{where}: figures.{key}: expected a number above 0, or null where none is published, got {value!r}"
            )
    if len(problems.found) > before:
        return None
    speeds = {key: values[f"peak_tflops.{key}"] for key in FORMATS}
    return Figures(name, speeds, values["memory_gb"], values["bandwidth_gb_s"], node["source"])


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
