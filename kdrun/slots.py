"""What a config may call, place by place. Decided twice: from the source, before anything is imported, and on the object.

A config has eight places for a `_target_`: network, optimizer, loss, reward, metric, transform, source of data, strategy. Of the packages that are always there
(SHIPPED) a place takes classes with the right base, and functions that kdrun declares: those in `TARGETS` of their module (rewards: `REWARDS`), and for
a loss the function, or the module with state, that has its module's name. Of a package that the user has allowed it takes any class or function that is
defined there. What a module merely imports is never called through it.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdrun import signatures
from kdrun.environment import READABLE, hidden, readable
from kdrun.moved import current
from kdrun.problems import UserError

SHIPPED = ("kdrun", "torch", "transformers", "timm", "torchmetrics")
"""Packages of which a place takes some things without being asked. No setting opens the rest of them."""

NEVER = frozenset({*sys.stdlib_module_names, "__main__"})
"""Python's own modules would turn a config file into a program; no setting opens them."""

UNSAFE = {"weights_only": False, "trust_remote_code": True, "allow_pickle": True, "allow_all_kernels": True}
"""Options that make a loader run what is in a file: refused where they are as true or false as this, wherever they stand in a
target's options (`trust_remote_code: "yes"` is true, too)."""

LOADING = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained", "use_pretrained_backbone")
"""Options by which timm, also below networks of transformers, unpickles a file or downloads one: refused for what is shipped."""

DECLARED = "TARGETS"
ENVIRONMENT = "KDRUN_TARGETS"
"""Packages that the user allows, with commas: set for what a job starts, and on machines where others start things for them."""


@dataclass(frozen=True)
class Slot:
    """A place for a `_target_`. what: in words; bases: of shipped classes; homes: modules below which those and kdrun's functions lie."""

    what: str
    bases: tuple[str, ...]
    homes: tuple[str, ...]
    allowed: str


SLOTS = {
    "network": Slot(
        "network",
        ("torch.nn.modules.module.Module", "transformers.configuration_utils.PretrainedConfig"),
        ("kdrun.networks", "kdrun.domains.*.networks", "torch.nn", "transformers", "timm"),
        "classes of torch.nn, transformers, timm (by name: student=timm); networks of kdrun: kdrun ls network",
    ),
    "optimizer": Slot(
        "optimizer",
        ("torch.optim.optimizer.Optimizer",),
        ("torch.optim", "kdrun.learning.sam", "transformers", "timm"),
        "optimizer classes of torch.optim, transformers, timm; kdrun.learning.sam.SAM",
    ),
    "loss": Slot(
        "loss", ("torch.nn.modules.module.Module",), ("kdrun.objectives",), "losses of kdrun: docs/objectives.md"
    ),
    "reward": Slot("reward", (), ("kdrun.domains",), "rewards of kdrun: kdrun ls reward"),
    "metric": Slot("metric", ("torchmetrics.metric.Metric",), ("torchmetrics",), "metrics of torchmetrics"),
    "transform": Slot(
        "transform of images", (), ("kdrun.data.image_transforms",), "transforms of kdrun: docs/image-data.md"
    ),
    "source": Slot("source of data", (), ("kdrun.domains",), "sources of kdrun: kdrun ls data"),
    "strategy": Slot(
        "strategy", ("kdrun.strategies.base.Strategy",), ("kdrun.strategies",), "strategies of kdrun: kdrun ls strategy"
    ),
}


def permitted() -> frozenset[str]:
    """Packages of their own that the user has allowed, in this process and those it starts."""
    return frozenset(filter(None, os.environ.get(ENVIRONMENT, "").split(",")))


@contextmanager
def allowing(names: Iterable[str], variables: Iterable[str] = ()) -> Iterator[None]:
    """These packages may be called, and these environment variables be read, inside, too; also by processes that are started."""
    added = {ENVIRONMENT: {*permitted(), *map(str, names)}, READABLE: {*readable(), *variables}}
    before = {key: os.environ.get(key) for key in added}
    os.environ.update({key: ",".join(sorted(values)) for key, values in added.items()})
    try:
        yield
    except Exception as error:  # whoever shows it does not know the variables any more
        error.args = tuple(hidden(item) if isinstance(item, str) else item for item in error.args)
        if isinstance(error, UserError):
            error.lines = [hidden(line) for line in error.lines]
        raise
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def refusal(target: object, slot: str | None = None, allowed: Collection[str] | None = None) -> list[str] | None:
    """Why `target` may not be called in this place, as lines, or None where nothing is known against it.

    slot: of SLOTS; None: any of them. allowed: packages of the user's own (default: `permitted`). Nothing is imported; a name
    that does not exist is left to `signatures.signature_of`.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        return [f"_target_ must be a dotted name such as mylab.nets.Mine, got {target!r}"]
    top = target.partition(".")[0]
    if top in NEVER or any(part.startswith("__") for part in target.split(".")):
        return [
            f"_target_ {target} is refused: it would let a config file run anything",
            "write the function you need in a module of your own and name that",
        ]
    if top in SHIPPED:
        reasons = [_of_shipped(target, name) for name in ([slot] if slot else SLOTS)]
        return None if None in reasons else reasons[0]
    if top not in (permitted() if allowed is None else allowed):
        return [
            f"_target_ {target} is refused: {top!r} is not a declared package",
            f"to allow it: targets.{top}=true (or `targets: {{{top}: true}}` in kdrun.yaml of your --conf folder)",
        ]
    return None


def _of_shipped(target: str, slot: str) -> list[str] | None:
    place = SLOTS[slot]
    if not below(current(target), place.homes):
        return _no(target, slot, "")
    module, rest, node = signatures.definition(target, follow=not target.startswith("kdrun."))
    if node is None:  # not there, or hidden from the source
        return None
    if len(rest) > 1:
        return _no(target, slot, f"{rest[0]} of {module} is no module")
    if isinstance(node, ast.ClassDef):
        return None if place.bases else _no(target, slot, "it is a class")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None if rest[0] in declared(module, slot) else _no(target, slot, "it is a function")
    if isinstance(node, ast.Import | ast.ImportFrom) and module.partition(".")[0] == "kdrun":
        return _no(target, slot, f"{module} only imports it")
    return None


def below(name: str, homes: Iterable[str]) -> bool:
    """Whether a dotted name lies at or below one of these places. `kdrun.domains.*.networks` is apart from the rest of a domain."""
    parts = name.split(".")
    if parts[:2] == ["kdrun", "domains"]:
        name = ".".join(["kdrun", "domains", "*", "networks"] if "networks" in parts[3:4] else parts[:2])
    return f"{name}.".startswith(tuple(f"{home}." for home in homes))


def declared(module: str, slot: str) -> Collection[str]:
    """Functions that a module of kdrun lets configs call."""
    if not module.startswith("kdrun."):
        return ()
    own = [module.rpartition(".")[2]] if slot == "loss" else []
    return [*own, *signatures.constant(module, "REWARDS" if slot == "reward" else DECLARED, ())]


def _no(target: str, slot: str, reason: str) -> list[str]:
    place = SLOTS[slot]
    a = "an" if place.what[0] in "aeiou" else "a"
    return [
        f"_target_ {target} is refused: not {a} {place.what}" + (f" ({reason})" if reason else ""),
        f"allowed: {place.allowed};",
        "what a package of yours defines, with targets.NAME=true",
    ]


def unfit(found: Any, target: str, slot: str | None = None, allowed: Collection[str] | None = None) -> list[str] | None:
    """As `refusal`, of the object that was found under the name."""
    while isinstance(found, functools.partial):
        found = found.func
    kind = found if isinstance(found, type) else type(found)
    plain = isinstance(found, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType)
    own = plain or hasattr(found, "__wrapped__")
    home = str(getattr(found if own else kind, "__module__", None))
    top = home.partition(".")[0]
    if top in SHIPPED:
        slots = [slot] if slot else list(SLOTS)
        return (
            None
            if any(_fits(found, home, name) for name in slots)
            else _no(target, slots[0], f"{kind.__name__} of {home}")
        )
    if top not in (permitted() if allowed is None else allowed):
        return [
            f"_target_ {target} is refused: what it names is defined in {home}, not in a package that you allow",
            "write the function you need in a module of your own and name that",
        ]
    return None


def _fits(found: Any, home: str, slot: str) -> bool:
    """Whether an object of a shipped package is what the place takes. home: the module that defines it."""
    place = SLOTS[slot]
    if not below(home, place.homes):
        return False
    if isinstance(found, type):
        return any(base in found.__mro__ for base in filter(None, map(_loaded, place.bases)))
    return isinstance(found, types.FunctionType) and found.__qualname__ in declared(home, slot)


def _loaded(name: str) -> Any:
    """A class by its dotted name; None where its module is not loaded, so that nothing loaded can derive from it."""
    module, _, word = name.rpartition(".")
    return getattr(sys.modules.get(module), word, None)


def unsafe(options: Any, target: str, path: str = "") -> list[str] | None:
    """Why these options of a target are refused, as lines, or None."""
    shipped = target.partition(".")[0] in SHIPPED
    items = options.items() if isinstance(options, Mapping) else enumerate(options) if isinstance(options, list) else ()
    for name, value in items:
        full = f"{path}.{name}" if path else str(name)
        if (name in UNSAFE and bool(value) == UNSAFE[name]) or (name in LOADING and shipped and value):
            said = str(value).lower() if isinstance(value, bool) else value
            why = (
                "it would download weights"
                if "pretrained" in name and value is True
                else "it would run what is in a file"
            )
            return [f"{full}={said} is refused: {why}", "weights are a file beside the network: weights=PATH"]
        if (lines := unsafe(value, target, full)) is not None:
            return lines
    return None
