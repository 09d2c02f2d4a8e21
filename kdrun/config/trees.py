"""Trees of configs by dotted keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def at(tree: Any, path: str) -> Any:
    """The value at a dotted key, in which lists count as mappings of positions; None where there is none."""
    for part in path.split(".") if path else ():
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdigit() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def put_at(tree: Any, path: str, value: Any) -> None:
    """Replace the value at a dotted key; all above it must be there."""
    above, _, last = path.rpartition(".")
    node = at(tree, above)
    node[int(last) if isinstance(node, list) else last] = value


def replaced(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with other values at these dotted keys, copied on the way to them."""
    result = dict(tree)
    for path, value in values.items():
        first, _, rest = path.partition(".")
        result[first] = replaced(result.get(first) or {}, {rest: value}) if rest else value
    return result


def leaves(tree: Any, path: str = "", lists: bool = True) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not a mapping with entries; lists: a list counts as one of positions."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if lists and isinstance(tree, list) else None
    if not items:
        yield path, tree
        return
    for name, value in items:
        yield from leaves(value, f"{path}.{name}" if path else str(name), lists)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in its place, mapping by mapping."""
    both = {
        key: merged(base[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **over, **both}


def picked(tree: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The values of `tree` at those keys that `like` has, mapping by mapping."""
    return {
        key: picked(tree[key], value) if isinstance(value, dict) and isinstance(tree[key], dict) else tree[key]
        for key, value in like.items()
        if key in tree
    }


def differing(tree: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The keys of `tree` whose values are not those of `base`, mapping by mapping."""
    found = {}
    for key, value in tree.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        rest = differing(value, base[key]) if both else value
        if rest if both else key not in base or base[key] != value:
            found[key] = rest
    return found


def without(tree: dict[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """`tree` without what stands at these dotted keys."""
    inner = {path.partition(".")[0] for path in paths}
    return {
        key: without(value, [path.partition(".")[2] for path in paths if path.startswith(f"{key}.")])
        if key in inner and isinstance(value, dict)
        else value
        for key, value in tree.items()
        if key not in paths
    }


def as_typed(value: Any) -> str:
    """A value of a config as it is typed: `null`, `true`, `0.1`."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
