"""Hardware targets as data: what is published of a device, how a student is to run there, and whether this machine is it.

No torch here: `kdrun card hardware=...` checks its words before anything heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.ledger.figures import DeviceFigures, read_figures
from kdrun.ledger.machine import machine_words
from kdrun.problems import UserError, closest, listed


@dataclass(frozen=True)
class HardwareTarget:
    """One option of the group `hardware`.

    figures   what is published of it; None: nothing, because it is whatever machine this is
    deploy    keys of `hardware.deploy`
    device    "cpu", "cuda", "mps" or "auto", with which it would be used here
    here      figures are measured, because this machine is the target; else they are estimates
    why       why it is here, or is not
    """

    name: str
    figures: DeviceFigures | None
    deploy: dict[str, Any]
    device: str
    here: bool
    why: str


def read_targets(given: Sequence[str] = (), words: Sequence[str] | None = None) -> dict[str, HardwareTarget]:
    """Name -> target of every hardware option, own `--conf` folders included.

    words: what this machine says it is (default: `machine_words`). Raises UserError with all mistakes in the files.
    """
    from kdrun.config.groups import conf_dirs, groups

    words = machine_words() if words is None else words
    figures = read_figures(given)
    options = groups(conf_dirs(given)[0]).get("hardware", {})
    return {name: _target(name, options, figures.get(name), words) for name in sorted(options)}


def chosen_targets(names: Sequence[str], given: Sequence[str] = ()) -> list[HardwareTarget]:
    """The targets of these names. UserError for one that there is not, with the nearest."""
    targets = read_targets(given)
    for name in names:
        if name not in targets:
            raise UserError(f"hardware={name}: no such target{closest(name, targets)}", f"targets: {listed(targets)}")
    return [targets[name] for name in names]


def _target(
    name: str, options: Mapping[str, Any], figures: DeviceFigures | None, words: Sequence[str]
) -> HardwareTarget:
    node = _composed(options, name)
    published = figures is not None and any(value is not None for value in figures.peak_tflops.values())
    here, why = True, "it is whatever machine kdrun runs on"
    if figures is not None and figures.match is not None:
        found = next((word for word in words if re.search(figures.match, word)), None)
        here = found is not None
        why = f"this machine says {found!r}" if here else f"this machine does not say {figures.match!r}"
    elif published:
        here, why = False, "its file has no `figures.match`"
    known = figures is not None and (published or figures.match is not None)
    return HardwareTarget(name, figures if known else None, node["deploy"], node["device"], here, why)


def _composed(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`deploy` and `device` of an option with those it inherits from, read without composing a job."""
    from kdrun.config.option_file import load
    from kdrun.schema import Hardware, defaults

    node, chain = defaults(Hardware), {}
    while name in options and name not in chain:
        tree = chain[name] = load(options[name].file)
        parents = [item for item in tree.get("defaults") or () if isinstance(item, str) and item != "_self_"]
        name = parents[0] if parents else ""
    for tree in reversed(chain.values()):
        node["device"] = tree.get("device", node["device"])
        node["deploy"] |= tree.get("deploy") or {}
    return node
