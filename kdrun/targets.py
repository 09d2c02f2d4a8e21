"""`_target_`: which names a config may call, whether its other keys fit, and the call itself."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from kdrun.environment import resolved
from kdrun.moved import current
from kdrun.problems import UserError, closest, listed
from kdrun.signatures import Missing, Parameter, Signature, see_current_folder, signature_of
from kdrun.slots import refusal, unfit, unsafe

RESERVED = ("_target_", "_partial_")


def signature(target: str) -> Signature | None:
    """The signature of `target` without importing it; None where source cannot tell.

    Raises UserError with the nearest name where it certainly does not exist.
    """
    try:
        return signature_of(target)
    except Missing as missing:
        near = closest(missing.word, missing.known) if missing.word else ""
        known = f"it has: {listed(missing.known, 8)}" if missing.known and not near else ""
        raise UserError(*(line for line in (f"_target_ {target}: {missing}{near}", known) if line)) from None


def plain(value: Any) -> Any:
    """Deep copy in lists and dicts only; wrappers of any config library become what they hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


def locate(target: str, slot: str | None = None) -> Any:
    """Import `target` and make sure that it may be called there (see kdrun.slots).

    An ImportError of the module itself comes through as it is, with its own traceback.
    """
    from importlib import import_module

    from kdrun.signatures import module_spec

    if refused := refusal(target, slot):
        raise UserError(*refused)
    target = current(target)
    see_current_folder(target)
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        if module_spec(name) is None:
            continue
        found = import_module(name)
        for part in parts[length:]:
            try:
                found = getattr(found, part)
            except AttributeError:
                raise UserError(f"_target_ {target}: {found.__name__} has no {part!r}") from None
            if isinstance(found, ModuleType):
                raise UserError(f"_target_ {target} is refused: {found.__name__} is only imported in {name}")
        if refused := unfit(found, target, slot):
            raise UserError(*refused)
        return found
    raise UserError(f"_target_ {target}: no package {parts[0]!r} can be found from here")


def build(node: Mapping[str, Any], slot: str | None = None, **supplied: Any) -> Any:
    """Call what `node["_target_"]` names with its other keys, as plain Python types.

    slot: the place of the node, of kdrun.slots.SLOTS; None: any of them. supplied: values kdrun has (the number of classes,
    parameters to optimise); passed on where the signature names them and the node does not. A nested `_target_` is built first,
    in the same place; of a strategy in any. It is supplied with the same values where the outer one says `supplies_inner = True`.
    `_partial_: true` gives functools.partial instead of calling.
    Raises UserError for what may not be called in this place.
    """
    function = locate(node["_target_"], slot)
    options = {key: value for key, value in plain(node).items() if key not in RESERVED}
    if refused := unsafe(options, node["_target_"]):
        raise UserError(f"{node['_target_']}: {refused[0]}", *refused[1:])
    inner = supplied if getattr(function, "supplies_inner", False) else {}
    arguments = {key: _built(value, inner_slot(slot), inner) for key, value in resolved(options).items()}
    try:
        accepted = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        accepted = supplied
    arguments |= {key: value for key, value in supplied.items() if key in accepted and key not in arguments}
    if node.get("_partial_"):
        from functools import partial

        return partial(function, **arguments)
    return function(**arguments)


def inner_slot(slot: str | None) -> str | None:
    """The place of a `_target_` among the options of another one."""
    return None if slot == "strategy" else slot


def _built(value: Any, slot: str | None, supplied: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return build(value, slot, **supplied)
        return {key: _built(item, slot, supplied) for key, item in value.items()}
    return [_built(item, slot, supplied) for item in value] if isinstance(value, list) else value


# Does a value of a config fit an annotation? Three answers: yes, no, cannot tell (None).

_PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "bytes": (), "complex": (int, float)}
_LISTS = ("list", "List", "tuple", "Tuple", "Sequence", "Iterable", "Collection", "set", "Set")
_DICTS = ("dict", "Dict", "Mapping", "MutableMapping")
_NOT_PLAIN = ("Tensor", "Module", "Callable", "device", "dtype", "Generator")


def fits(value: Any, annotation: ast.expr | None) -> bool | None:
    """None means that the annotation says nothing this check understands."""
    if annotation is None:
        return None
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            try:
                return fits(value, ast.parse(annotation.value, mode="eval").body)
            except SyntaxError:
                return None
        return value is None if annotation.value is None else None
    if isinstance(annotation, ast.BinOp):
        return _any([fits(value, annotation.left), fits(value, annotation.right)])
    if isinstance(annotation, ast.Subscript):
        return _fits_subscript(value, annotation)
    name = ast.unparse(annotation).rpartition(".")[2]
    if name in _PLAIN:
        if isinstance(value, bool):
            return name == "bool"
        return isinstance(value, (int, float) if name == "float" else _PLAIN[name])
    if name in _LISTS:
        return isinstance(value, list)
    if name in _DICTS:
        return isinstance(value, dict)
    if name == "Path" or name == "PathLike":
        return isinstance(value, str)
    if name in _NOT_PLAIN:
        return isinstance(value, dict) and "_target_" in value
    return None


def _fits_subscript(value: Any, annotation: ast.Subscript) -> bool | None:
    name = ast.unparse(annotation.value).rpartition(".")[2]
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Optional":
        return True if value is None else fits(value, inner[0])
    if name == "Union":
        return _any([fits(value, item) for item in inner])
    if name == "Literal":
        return any(isinstance(item, ast.Constant) and item.value == value for item in inner)
    if name in ("Final", "Annotated"):
        return fits(value, inner[0])
    if name in _LISTS:
        if not isinstance(value, list):
            return False
        if name.lower() == "tuple" and not (len(inner) == 2 and ast.unparse(inner[1]) == "..."):
            return len(value) == len(inner) and _all([fits(v, i) for v, i in zip(value, inner, strict=True)])
        return _all([fits(item, inner[0]) for item in value])
    if name in _DICTS:
        return isinstance(value, dict) and _all([fits(item, inner[-1]) for item in value.values()])
    return isinstance(value, dict) and "_target_" in value if name in _NOT_PLAIN else None


def _any(answers: list[bool | None]) -> bool | None:
    return True if True in answers else (None if None in answers else False)


def _all(answers: list[bool | None]) -> bool | None:
    return False if False in answers else (None if None in answers else True)


def said(parameter: Parameter) -> str:
    """The annotation as text for a message."""
    text = ast.unparse(parameter.annotation) if parameter.annotation else "any value"
    return text.strip("'\"")


def is_path(parameter: Parameter) -> bool:
    return parameter.annotation is not None and "Path" in ast.unparse(parameter.annotation)
