"""A composed tree against the schema: every problem at once, and the same tree in plain types with all keys present."""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Collection, Iterable
from dataclasses import is_dataclass
from typing import Any

from kdrun import kinds, losses, slots, targets
from kdrun.config.meant import meant, nearest_path, schema_paths
from kdrun.config.origins import Origins
from kdrun.config.presets import PRESETS
from kdrun.config.trees import merged, picked
from kdrun.environment import hidden
from kdrun.kinds import choices_of
from kdrun.problems import Problems, UserError, closest, listed, nearest
from kdrun.schema import (
    EXTENDED,
    HUB_NAME,
    REQUIRED,
    Data,
    MetricConfig,
    Root,
    TargetNode,
    TermConfig,
    TransformConfig,
    Weight,
    bare,
    defaults,
    fields,
)
from kdrun.signatures import constant
from kdrun.term_weights import read_weight

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
TRANSFORMS = "kdrun.data.image_transforms"
"""Where transforms of images lie that are named without `_target_`."""
METRIC_SUPPLIED = ("num_classes", "num_labels", "task")
"""Arguments of metrics that the data supply where they are left out (see domains.added)."""
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Check:
    """Walks one resolved tree. where: says how a person wrote a path, or the file it stands in; a path is dotted."""

    def __init__(
        self,
        problems: Problems,
        where: Origins,
        allowed: Iterable[str] = (),
        folder: str | None = None,
        missing: bool = True,
    ) -> None:
        self.problems, self.where, self.missing = problems, where, missing
        self.allowed = list(allowed)
        self.folder = folder or os.getcwd()
        self.base_trainer: dict[str, Any] = {}
        self.task: str | None = None  # the kind of data
        self.variables: Collection[str] = ()  # of the environment: no message shows their values

    def root(self, tree: dict[str, Any]) -> dict[str, Any]:
        trainer = tree.get("trainer")
        self.base_trainer = trainer if isinstance(trainer, dict) else {}
        self.task = tree["data"].get("task") if isinstance(tree.get("data"), dict) else None
        before = len(self.problems.found)
        result = self.node(tree, Root, "", partial=False)
        if len(self.problems.found) == before and isinstance(tree.get("data"), dict):  # else they are told twice
            assistants = {f"assistants.{name}": node for name, node in result["assistants"].items()}
            for name, node in {"teacher": result["teacher"], **assistants}.items():
                if own := node["data"]:
                    node["data"] = picked(self.changed(tree["data"], own, f"{name}.data"), own)
        if (first := result.get("pretrain")) and isinstance(tree.get("data"), dict):
            changed = self.changed(tree["data"], first["data"], "pretrain.data")
            first["data"] = {name: changed[name] for name in first["data"] if name in changed}
        return result

    def changed(self, data: dict[str, Any], own: dict[str, Any], path: str) -> dict[str, Any]:
        """The run's data with what a part of the run has otherwise."""
        missing, self.missing = self.missing, False  # what data lack was told there
        result = self.node(merged(data, own), Data, path, partial=False)
        self.missing = missing
        return result

    def bad(self, path: str, message: str, *more: str) -> None:
        self.problems.add(hidden(f"{self.where(path)}: {message}", self.variables), *more)

    # nodes

    def node(self, tree: Any, kind: type, path: str, partial: bool) -> dict[str, Any]:
        """One dataclass. partial: keys that are not given stay absent."""
        if not isinstance(tree, dict):
            self.bad(
                path,
                f"expected a mapping with the keys {listed((f.name for f in fields(kind, self.task)), 8)}, got {tree!r}",
                meant(path, tree, self.where.groups, kind),
            )
            return {}
        known = {item.name: item for item in fields(kind, self.task)}
        extended = kind in EXTENDED
        for name in tree:
            if not isinstance(name, str) or "." in name:
                self.bad(_join(path, str(name)), "a key may not contain a dot", "nest it instead: a: {b: ...}")
            elif name not in known and not extended:
                self.unknown(name, known, path)
        result = {}
        for name, item in known.items():
            if name in tree:
                value = tree[name]
            elif partial:
                continue
            else:
                value = defaults(kind, self.task)[name]
            result[name] = self.value(value, item.type, _join(path, name), dict(item.metadata))
        if extended:
            rest = {name: value for name, value in tree.items() if name not in known}
            result = {**self.extension(rest, kind, path), **result}
        return result

    def unknown(self, name: str, known: Iterable[str], path: str) -> None:
        """A key the schema lacks. Each override below it is a problem of its own, since each was typed."""
        full = _join(path, name)
        if full in PRESETS and not self.where.typed_below(full):
            for lines in self.where.presets(full):
                self.problems.add(*lines)
            return
        for typed in self.where.typed_below(full) or [full]:
            rest = typed[len(full) :]
            near = nearest(name, [*known, *(self.where.groups if not path else ())])
            found = _join(path, near) + rest if near else nearest_path(typed, self.task)
            if found and rest and found not in schema_paths(task=self.task):
                found = nearest_path(found, self.task) or _join(path, near or "")
            if found:
                self.bad(typed, f"no such key; closest: {found}", self.where.home(found))
            elif path:
                self.bad(typed, f"no such key; {path} has: {listed(known)}")
            else:
                self.bad(typed, f"no such key; values of your own go under extra: extra.{typed}=VALUE")

    def extension(self, tree: dict[str, Any], kind: type, path: str) -> dict[str, Any]:
        """Further keys of a node that names a callable: a data source, or a term of the objective."""
        if kind is TermConfig:
            return self.term(tree, path)
        common = [item.name for item in fields(kind, self.task)]
        if kind is TransformConfig:
            return self.transform(tree, path)
        if kind is MetricConfig:
            return self.target(tree, path, {"supplied": METRIC_SUPPLIED, "common": common, "slot": "metric"})
        return self.target(tree, path, {"supplied": ("cache",), "common": common, "slot": "source"})

    def transform(self, tree: dict[str, Any], path: str) -> dict[str, Any]:
        """A random change of images by its name (a function of the home of transforms), or by `_target_`."""
        name, known = path.rpartition(".")[2], constant(TRANSFORMS, slots.DECLARED, ())
        if "_target_" not in tree and name not in known:
            self.bad(
                path,
                f"no transform {name!r}{closest(name, known)}",
                f"all: {listed(known)}; or {path}._target_=mylab.Mine",
            )
            return tree
        node = {"_target_": f"{TRANSFORMS}.{name}", **tree}
        return self.target(node, path, {"supplied": ("size",), "slot": "transform"})

    def term(self, tree: dict[str, Any], path: str) -> dict[str, Any]:
        """Settings of a term, and the options of its loss."""
        name = path.rpartition(".")[2]
        target, _ = losses.resolve(name, tree)
        if "_target_" not in tree and self.no_term(target, name, path):
            return tree
        try:
            known = targets.signature(target)
        except UserError:  # `target` below tells it
            known = None
        common = dict.fromkeys([*losses.SETTINGS, *(key for way in losses.EXECUTION_OPTIONS.values() for key in way)])
        settings = {
            key: self.free(value, _join(path, key))
            for key, value in tree.items()
            if key in common and (known is None or key not in known.parameters)
        }
        rules = {"tensors": True, "slot": "loss", "common": ["weight", *common], "supplied": losses.SUPPLIED}
        options = {key: value for key, value in tree.items() if key not in settings}
        result = self.target({**options, "_target_": target}, path, rules, drop=("_target_",))
        return {**({"_target_": tree["_target_"]} if "_target_" in tree else {}), **result, **settings}

    def no_term(self, target: str, name: str, path: str) -> bool:
        from kdrun.signatures import module_spec

        if module_spec(target.rpartition(".")[0]) is not None:
            return False
        known = shipped_terms()
        self.bad(
            path, f"no objective {name!r}{closest(name, known)}", f"terms: {listed(known)}; or give your own _target_"
        )
        return True

    def target(self, tree: Any, path: str, rules: dict[str, Any], drop: Iterable[str] = ()) -> dict[str, Any]:
        """A target node: allowed prefix, existing name, known arguments, nothing required left out, types by annotation."""
        if not isinstance(tree, dict):
            self.bad(path, f"expected a mapping with _target_, got {tree!r}", meant(path, tree, self.where.groups))
            return {}
        name = tree.get("_target_", REQUIRED)
        slot = rules.get("slot")
        if rules.get("supplied") == "domains":
            rules = {**rules, "supplied": kinds.supplied(self.task)}
        inner = targets.inner_slot(slot)
        result = {key: self.free(value, _join(path, str(key)), inner) for key, value in tree.items()}
        if name == REQUIRED or name is None:
            if self.missing:
                self.bad(
                    path, "has no _target_", f"choose one: {path.partition('.')[0]}=NAME, or {path}._target_=mylab.Mine"
                )
            return result
        if refused := slots.refusal(name, slot, self.allowed):
            self.bad(_join(path, "_target_"), *refused, meant(path, name, self.where.groups))
            return result
        if refused := slots.unsafe(result, name):
            self.bad(path, *refused)
        try:
            signature = targets.signature(name)
        except UserError as error:
            self.bad(_join(path, "_target_"), *error.lines)
            return result
        if signature is not None:
            self.arguments(result, signature, path, rules)
        return {key: value for key, value in result.items() if key not in drop}

    def arguments(self, node: dict[str, Any], signature: targets.Signature, path: str, rules: dict[str, Any]) -> None:
        known = signature.parameters
        takes_tensors = rules.get("tensors") and signature.kind != "class"
        tensors = {name for name, item in known.items() if takes_tensors and item.kind == "positional"}
        supplied = {*tensors, *rules.get("supplied", ())}
        options = [name for name in known if name not in supplied]
        called = signature.target.rpartition(".")[2]
        for name, value in node.items():
            if name in targets.RESERVED:
                continue
            full = _join(path, name)
            parameter = known.get(name)
            if parameter is None or name in tensors:
                if not signature.has_kwargs:
                    choices = [*options, *rules.get("common", ())]
                    near = nearest(name, choices)
                    hint = f"closest: {_join(path, near)}" if near else f"it has: {listed(choices, 8) or 'no options'}"
                    self.bad(full, f"{called} has no parameter {name!r}; {hint}", self.dropping(full))
                continue
            if value == REQUIRED:
                continue
            value = node[name] = self.number_of(value, parameter)
            if targets.fits(value, parameter.annotation) is False:
                fitting = targets.fits([value], parameter.annotation)
                self.bad(
                    full,
                    f"expected {targets.said(parameter)}, got {value!r}",
                    f"a list of one: '{full}=[{value}]'" if fitting else "",
                )
            elif name in rules.get("ranges", {}):
                self.range(value, full, rules["ranges"][name])
            elif targets.is_path(parameter) and isinstance(value, str):
                node[name] = self.path(value)
        if not node.get("_partial_") and self.missing:
            for name, parameter in known.items():
                if parameter.required and name not in node and name not in supplied:
                    self.bad(path, f"{called} needs {name!r}: {_join(path, name)}=VALUE")

    def dropping(self, path: str) -> str:
        """How to get rid of a key that a file sets (a typed one is simply not typed)."""
        return "" if "=" in self.where(path) else f"to leave it out: '~{path}'"

    @staticmethod
    def number_of(value: Any, parameter: targets.Parameter) -> Any:
        """YAML reads 1e-4 as text in some places; where a float is due and text is not, it is one."""
        if (
            isinstance(value, str)
            and _NUMBER.fullmatch(value)
            and targets.fits(value, parameter.annotation) is not True
        ):
            return float(value) if targets.fits(0.5, parameter.annotation) is True else value
        return value

    def free(self, value: Any, path: str, slot: str | None = None) -> Any:
        """A value no schema describes: plain types, no dots in keys. slot: the place of targets in it (kdrun.slots)."""
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str | int | float) or "." in str(key):  # numbers are names too, and so is nan
                    self.bad(_join(path, str(key)), "a key may not contain a dot", "nest it instead: a: {b: ...}")
            if "_target_" in value:
                return self.target(value, path, {"slot": slot})
            return {str(key): self.free(item, _join(path, str(key)), slot) for key, item in value.items()}
        if isinstance(value, list):
            return [self.free(item, f"{path}.{number}", slot) for number, item in enumerate(value)]
        if value == REQUIRED and self.missing:
            self.bad(path, "a value is required", f"type: {path}=VALUE")
        if not isinstance(value, str | int | float | bool | None):
            self.bad(path, f"not a plain value: {value!r} ({type(value).__name__})", "quote it in the file")
        return value

    # values

    def value(self, value: Any, kind: Any, path: str, rules: dict[str, Any]) -> Any:
        """One value of type `kind`; returns it in plain types."""
        if isinstance(value, str) and value == REQUIRED:
            if self.missing:
                self.bad(path, f"a value is required ({rules.get('help', '')})", f"type: {path}=VALUE")
            return value
        if isinstance(kind, types.UnionType):
            if value is None:
                return None
            kind = bare(kind)
            rules = {**rules, "optional": True}
        if kind is Weight:
            return self.weight(value, path, rules)
        if kind is TargetNode:
            added = self.inherited(value) if path.endswith(".trainer.optimizer") else {}
            result = self.target({**added, **value} if added else value, path, rules)
            return {name: item for name, item in result.items() if name not in added}
        if is_dataclass(kind):
            return self.node(value, kind, path, rules.get("partial", False))
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if origin is dict:
            return self.mapping(value, parts[1], path, rules)
        if origin is list:
            if not isinstance(value, list):
                self.bad(path, f"expected a list such as '{path}=[1,2]', got {value!r}")
                return value
            return [self.value(item, parts[0], path, {**rules, "item": True}) for item in value]
        return self.scalar(value, kind, path, rules)

    def weight(self, value: Any, path: str, rules: dict[str, Any]) -> Any:
        """The weight of a term: a number, or a function of the step."""
        if not isinstance(value, dict):
            return self.scalar(value, float, path, rules)
        try:
            read_weight(value, path)
        except UserError as error:
            self.bad(path, *error.lines)
        return self.free(value, path)

    def inherited(self, value: Any) -> dict[str, Any]:
        """A learner's own optimizer settings without a `_target_` are settings of the run's optimizer: what to add."""
        base = self.base_trainer.get("optimizer")
        if isinstance(value, dict) and "_target_" not in value and isinstance(base, dict):
            return {name: item for name, item in base.items() if name not in value}
        return {}

    def mapping(self, value: Any, kind: Any, path: str, rules: dict[str, Any]) -> Any:
        if path == "tags" and isinstance(value, list):  # tags=[a,b] is a way of writing tags.a=true tags.b=true
            value = {str(item): True for item in value}
        if not isinstance(value, dict):
            self.bad(path, f"expected a mapping, got {value!r}", meant(path, value, self.where.groups))
            return {}
        if kind is Any:
            return self.free(value, path)
        result = {}
        for name, item in value.items():
            if item is None and path == "objective":
                continue  # `kd: null` in a preset takes a term away
            full = _join(path, str(name))
            if "." in str(name):
                self.bad(full, "a key may not contain a dot")
            result[str(name)] = self.value(item, kind, full, {})
        return result

    def scalar(self, value: Any, kind: type, path: str, rules: dict[str, Any]) -> Any:
        if kind is float and isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        choices = choices_of(rules)
        if wrong and choices is None:
            null = " or null" if rules.get("optional") else ""
            self.bad(path, f"expected {NAMES[kind]}{_limits(rules)}{null}, got {_quoted(value)}")
            return value
        if choices is not None and value not in choices:
            meant = rules.get("meant", {}).get(str(value))
            near = f"; closest: {meant}" if meant else closest(str(value), choices)
            group = path.rpartition(".")[0]
            option = f"type {group}={value}" if value in self.where.groups.get(group, {}) else ""
            self.bad(path, f"expected one of {listed(choices)}, got {_quoted(value)}{near}", option)
        elif kind in (int, float):
            self.range(value, path, rules)
        if rules.get("path") and value not in rules.get("words", ()):
            place = self.path(value)
            if rules.get("hub") and HUB_NAME.fullmatch(value) and not os.path.exists(place):
                return value
            value = place
            if rules.get("exists") and not os.path.exists(value):
                self.bad(path, f"no file {value}")
        return value

    def range(self, value: Any, path: str, rules: dict[str, Any]) -> None:
        limits = _limits(rules)
        if rules.get("share_or_number") and isinstance(value, float) and value > 1 and value % 1:
            self.bad(path, f"expected a share below 1, or a whole number, got {value}")
        if not limits or isinstance(value, bool) or not isinstance(value, int | float):
            return
        inside = (
            math.isfinite(value)
            and value >= rules.get("minimum", -math.inf)
            and value <= rules.get("maximum", math.inf)
            and value > rules.get("above", -math.inf)
            and value < rules.get("below", math.inf)
        )
        if not inside:
            self.bad(path, f"expected {NAMES[type(value)]}{limits}, got {value}")

    def path(self, value: str) -> str:
        return os.path.normpath(os.path.join(self.folder, os.path.expanduser(value)))


def _limits(rules: dict[str, Any]) -> str:
    """` of at least 1`, ` above 0 and below 1`: the range as words, or nothing."""
    words = {"minimum": "of at least", "above": "above", "maximum": "at most", "below": "below"}
    said = [f"{text} {rules[name]}" for name, text in words.items() if name in rules]
    return " " + " and ".join(said) if said else ""


def _quoted(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def shipped_terms() -> list[str]:
    """Names of the losses that come with kdrun: files that define a function, or a class, of their name."""
    from kdrun.signatures import callables, module_spec

    spec = module_spec("kdrun.objectives")
    folder = next(iter(spec.submodule_search_locations or [""])) if spec else ""
    names = [file[:-3] for file in sorted(os.listdir(folder)) if file.endswith(".py") and not file.startswith("_")]
    return [
        name for name in names if losses.resolve(name, {})[0].rpartition(".")[2] in callables(f"{losses.HOME}.{name}")
    ]
