"""Values of environment variables in configs: used where a target is called, and everywhere else only named.

`${oc.env:TOKEN}` in a config stays the text `${oc.env:TOKEN#0123456789abcdef}` in the frozen config, and so in records, folders, hashes
and W&B; the 16 digits tell one value from another. `resolved` puts the value in its place when something is called with it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from kdrun.problems import UserError

MARK = re.compile(r"\$\{oc\.env:(\w+)#([0-9a-f]{16})\}")
READABLE = "KDRUN_VARIABLES"
"""Variables that the configs of this process may read, with commas: a config that somebody sent must not read others."""
SHORTEST = 4
"""Shorter values are not looked for in messages: they are part of too many words."""


def mark(name: str, value: str) -> str:
    """What stands for the value of a variable."""
    return f"${{oc.env:{name}#{_digest(value)}}}"


@functools.lru_cache(maxsize=256)
def _digest(value: str) -> str:
    """Slow on purpose: a short secret is not to be found from it by trying."""
    return hashlib.scrypt(value.encode(), salt=b"kdrun", n=2**14, r=8, p=1, dklen=8).hex()


def variables_in(node: Any) -> Iterator[str]:
    """Names of the variables that a tree of configs reads."""
    return (found[1] for found in _marks(node))


def differing(node: Any) -> list[str]:
    """Variables that are not set, or have another value than when the config was frozen."""
    found = {mark.groups() for mark in _marks(node)}
    return sorted(name for name, digest in found if name not in os.environ or _digest(os.environ[name]) != digest)


def _marks(node: Any) -> Iterator[re.Match[str]]:
    if isinstance(node, str):
        yield from MARK.finditer(node)
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _marks(item)


def resolved(node: Any) -> Any:
    """A copy of a tree with the values of variables in place of their names. UserError for one that is not set or not allowed."""
    if isinstance(node, dict):
        return {key: resolved(item) for key, item in node.items()}
    if isinstance(node, list):
        return [resolved(item) for item in node]
    return MARK.sub(lambda found: _value(found[1]), node) if isinstance(node, str) else node


def _value(name: str) -> str:
    if name not in readable():
        raise UserError(f"this config reads {name} of the environment, which you have not allowed", allow(name))
    if name not in os.environ:
        raise UserError(f"this config needs the environment variable {name}, which is not set")
    return os.environ[name]


def allow(name: str) -> str:
    """What to type so that a config that somebody sent may read a variable."""
    return f"to allow it: environment.{name}=true"


def readable() -> frozenset[str]:
    return frozenset(filter(None, os.environ.get(READABLE, "").split(",")))


def hidden(text: str, names: Iterable[str] | None = None) -> str:
    """A message without values of variables (default: those that configs read here): their names stand there instead."""
    for name in sorted(readable() if names is None else names, key=lambda name: -len(os.environ.get(name, ""))):
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text
