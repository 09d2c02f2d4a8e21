"""KEY=VALUE words of commands that take a few options of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from kdrun.problems import UserError, closest, listed


def is_folder(override: str) -> bool:
    """Whether a word says where the runs are."""
    return override.lstrip("+").startswith("paths.outputs=")


def options_in(words: Iterable[str], allowed: Collection[str]) -> dict[str, str]:
    """KEY=VALUE words of a verb that takes these keys. UserError for another key, with the nearest."""
    found = {}
    for word in words:
        key, _, value = word.partition("=")
        if is_folder(word):
            continue
        if key not in allowed:
            raise UserError(f"{word}: no option {key!r}{closest(key, allowed)}; all: {listed(allowed)}")
        found[key] = value
    return found


def whole_number(options: Mapping[str, str], name: str, least: int = 0, default: int | None = None) -> int | None:
    """An option as a number; the default where it was not typed. UserError for anything else."""
    if name not in options:
        return default
    if not options[name].isdecimal() or int(options[name]) < least:
        raise UserError(f"{name}={options[name]}: a whole number, at least {least}")
    return int(options[name])


def names_in(options: Mapping[str, str], name: str, default: str = "") -> list[str]:
    """`a,b` or `[a,b]` as a list without doubles; that of the default where the option was not typed, [] without one."""
    text = options.get(name, default).strip("[] ")
    if name not in options and not text:
        return []
    words = [word.strip().strip("'\"") for word in text.split(",")]
    if not all(words):
        raise UserError(
            f"{name}={options.get(name, default)}: {'nothing between commas' if text else 'a value is missing'}"
        )
    return list(dict.fromkeys(words))
