"""A composed tree against the schema: every problem at once, and the same tree in plain types with all keys present."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from kdrun import slots, targets
from kdrun.config.calls import NAMES, NUMBER, CallCheck, join, limits_text
from kdrun.config.meant import meant, nearest_path, schema_paths
from kdrun.config.presets import PRESETS
from kdrun.config.trees import merged, picked
from kdrun.kinds import choices_of
from kdrun.problems import UserError, closest, listed, nearest
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
from kdrun.term_weights import read_weight

METRIC_SUPPLIED = ("num_classes", "num_labels", "task")
"""Arguments of metrics that the data supply where they are left out (see domains.added)."""


class Check(CallCheck):
    """Walks one resolved tree by the schema."""

    base_trainer: Mapping[str, Any] = types.MappingProxyType({})
    """Of the run: settings of its optimizer hold for a learner's own."""

    def root(self, tree: dict[str, Any]) -> dict[str, Any]:
        tree = self.completed(tree)
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
            self.of_strategy(tree["data"], result["strategy"])
        if (first := result.get("pretrain")) and isinstance(tree.get("data"), dict):
            changed = self.changed(tree["data"], first["data"], "pretrain.data")
            first["data"] = {name: changed[name] for name in first["data"] if name in changed}
        return result

    def data_options(self, strategy: Any) -> dict[str, list[Any]]:
        """Options of the strategy that are lists of keys of data (Strategy.data_options)."""
        try:
            with slots.allowing(self.allowed):
                names = getattr(targets.locate(strategy["_target_"], "strategy"), "data_options", ())
        except Exception:  # what is wrong with it is told where it is built
            return {}
        return {name: said for name in names if isinstance(said := strategy.get(name), list)}

    def of_strategy(self, data: dict[str, Any], strategy: dict[str, Any]) -> None:
        """Keys of data that options of the strategy have are checked as data are."""
        for option, said in self.data_options(strategy).items():
            strategy[option] = [
                picked(self.changed(data, own, f"strategy.{option}.{number}"), own) if isinstance(own, dict) else own
                for number, own in enumerate(said)
            ]

    def completed(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The tree with values that data require and every entry of such an option has: those of the first."""
        if not isinstance(data := tree.get("data"), dict):
            return tree
        for said in self.data_options(tree.get("strategy")).values():
            if said and all(isinstance(own, dict) for own in said):
                required = [name for name, value in data.items() if value == REQUIRED]
                data = data | {name: said[0][name] for name in required if all(name in own for own in said)}
        return {**tree, "data": data}

    def changed(self, data: dict[str, Any], own: dict[str, Any], path: str) -> dict[str, Any]:
        """The run's data with what a part of the run has otherwise."""
        missing, self.missing = self.missing, False  # what data lack was told there
        result = self.node(merged(data, own), Data, path, partial=False)
        self.missing = missing
        return result

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
                self.bad(join(path, str(name)), "a key may not contain a dot", "nest it instead: a: {b: ...}")
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
            result[name] = self.value(value, item.type, join(path, name), dict(item.metadata))
        if extended:
            rest = {name: value for name, value in tree.items() if name not in known}
            result = {**self.extension(rest, kind, path), **result}
        return result

    def unknown(self, name: str, known: Iterable[str], path: str) -> None:
        """A key the schema lacks. Each override below it is a problem of its own, since each was typed."""
        full = join(path, name)
        if full in PRESETS and not self.where.typed_below(full):
            for lines in self.where.presets(full):
                self.problems.add(*lines)
            return
        for typed in self.where.typed_below(full) or [full]:
            rest = typed[len(full) :]
            near = nearest(name, [*known, *(self.where.groups if not path else ())])
            found = join(path, near) + rest if near else nearest_path(typed, self.task)
            if found and rest and found not in schema_paths(task=self.task):
                found = nearest_path(found, self.task) or join(path, near or "")
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
        if isinstance(kind, type) and is_dataclass(kind):
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
            full = join(path, str(name))
            if "." in str(name):
                self.bad(full, "a key may not contain a dot")
            result[str(name)] = self.value(item, kind, full, {})
        return result

    def scalar(self, value: Any, kind: type, path: str, rules: dict[str, Any]) -> Any:
        if kind is float and isinstance(value, str) and NUMBER.fullmatch(value):
            value = float(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        choices = choices_of(rules)
        if wrong and choices is None:
            null = " or null" if rules.get("optional") else ""
            self.bad(path, f"expected {NAMES[kind]}{limits_text(rules)}{null}, got {_quoted(value)}")
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


def _quoted(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)
