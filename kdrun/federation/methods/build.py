"""From a method's name and options to the method."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from kdrun.federation.methods.base import Method, choose
from kdrun.problems import UserError, closest, listed

METHODS = MappingProxyType(
    {
        "energy_gated": "energy_gated.EnergyGated",
        "local": "local.Local",
        "fedavg": "shared.FedAvg",
        "fedprox": "shared.FedProx",
        "fedmd": "fedmd.FedMD",
        "feddf": "feddf.FedDF",
        "fedkd": "fedkd.FedKD",
    }
)
"""Name -> module and class below this package."""


def build_method(name: str, options: Mapping[str, Any]) -> Method:
    """Raises UserError for an unknown name or option, or a value that an option cannot have."""
    if name not in METHODS:
        raise UserError(f"no federated method {name!r}{closest(name, METHODS)}", f"there are: {listed(METHODS)}")
    module, kind = METHODS[name].split(".")
    found = getattr(import_module(f"kdrun.federation.methods.{module}"), kind)
    return found(choose(found.Options, options, name))
