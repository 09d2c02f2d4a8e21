"""What a config may call: names and arguments of target nodes against signatures, and values that no schema describes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable
from typing import Any

from kdrun import kinds, losses, slots, targets
from kdrun.config.meant import meant
from kdrun.config.origins import Origins
from kdrun.environment import hidden
from kdrun.problems import Problems, UserError, closest, listed, nearest
from kdrun.schema import REQUIRED
from kdrun.signatures import Parameter, Signature, constant

NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
TRANSFORMS = "kdrun.data.image_transforms"
"""Where transforms of images lie that are named without `_target_`."""
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class CallCheck:
    """Walks the nodes of one resolved tree that name something to call.

    where: says how a person wrote a path, or the file it stands in; a path is dotted. missing: whether what lacks is a problem.
    """

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
        self.task: str | None = None  # the kind of data
        self.variables: Collection[str] = ()  # of the environment: no message shows their values

    def bad(self, path: str, message: str, *more: str) -> None:
        self.problems.add(hidden(f"{self.where(path)}: {message}", self.variables), *more)

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
            key: self.free(value, join(path, key))
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
        result = {key: self.free(value, join(path, str(key)), inner) for key, value in tree.items()}
        if name == REQUIRED or name is None:
            if self.missing:
                self.bad(
                    path, "has no _target_", f"choose one: {path.partition('.')[0]}=NAME, or {path}._target_=mylab.Mine"
                )
            return result
        if refused := slots.refusal(name, slot, self.allowed):
            self.bad(join(path, "_target_"), *refused, meant(path, name, self.where.groups))
            return result
        if refused := slots.unsafe(result, name):
            self.bad(path, *refused)
        try:
            signature = targets.signature(name)
        except UserError as error:
            self.bad(join(path, "_target_"), *error.lines)
            return result
        if signature is not None:
            self.arguments(result, signature, path, rules)
        return {key: value for key, value in result.items() if key not in drop}

    def arguments(self, node: dict[str, Any], signature: Signature, path: str, rules: dict[str, Any]) -> None:
        known = signature.parameters
        takes_tensors = rules.get("tensors") and signature.kind != "class"
        tensors = {name for name, item in known.items() if takes_tensors and item.kind == "positional"}
        supplied = {*tensors, *rules.get("supplied", ())}
        options = [name for name in known if name not in supplied]
        called = signature.target.rpartition(".")[2]
        for name, value in node.items():
            if name in targets.RESERVED:
                continue
            full = join(path, name)
            parameter = known.get(name)
            if parameter is None or name in tensors:
                if not signature.has_kwargs:
                    choices = [*options, *rules.get("common", ())]
                    near = nearest(name, choices)
                    hint = f"closest: {join(path, near)}" if near else f"it has: {listed(choices, 8) or 'no options'}"
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
                    self.bad(path, f"{called} needs {name!r}: {join(path, name)}=VALUE")

    def dropping(self, path: str) -> str:
        """How to get rid of a key that a file sets (a typed one is simply not typed)."""
        return "" if "=" in self.where(path) else f"to leave it out: '~{path}'"

    @staticmethod
    def number_of(value: Any, parameter: Parameter) -> Any:
        """YAML reads 1e-4 as text in some places; where a float is due and text is not, it is one."""
        if isinstance(value, str) and NUMBER.fullmatch(value) and targets.fits(value, parameter.annotation) is not True:
            return float(value) if targets.fits(0.5, parameter.annotation) is True else value
        return value

    def free(self, value: Any, path: str, slot: str | None = None) -> Any:
        """A value no schema describes: plain types, no dots in keys. slot: the place of targets in it (kdrun.slots)."""
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str | int | float) or "." in str(key):  # numbers are names too, and so is nan
                    self.bad(join(path, str(key)), "a key may not contain a dot", "nest it instead: a: {b: ...}")
            if "_target_" in value:
                return self.target(value, path, {"slot": slot})
            return {str(key): self.free(item, join(path, str(key)), slot) for key, item in value.items()}
        if isinstance(value, list):
            return [self.free(item, f"{path}.{number}", slot) for number, item in enumerate(value)]
        if value == REQUIRED and self.missing:
            self.bad(path, "a value is required", f"type: {path}=VALUE")
        if not isinstance(value, str | int | float | bool | None):
            self.bad(path, f"not a plain value: {value!r} ({type(value).__name__})", "quote it in the file")
        return value

    def range(self, value: Any, path: str, rules: dict[str, Any]) -> None:
        limits = limits_text(rules)
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


def limits_text(rules: dict[str, Any]) -> str:
    """` of at least 1`, ` above 0 and below 1`: the range as words, or nothing."""
    words = {"minimum": "of at least", "above": "above", "maximum": "at most", "below": "below"}
    said = [f"{text} {rules[name]}" for name, text in words.items() if name in rules]
    return " " + " and ".join(said) if said else ""


def join(path: str, name: str) -> str:
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
