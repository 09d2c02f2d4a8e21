"""Labels as people type them: which say nothing, and which are spellings of one class."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from kdrun.problems import Problems, UserError

ABSENT = {
    *("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "nat", "null", "none", "?", "-", "--", ".", "missing", "#name?"),
    *(f"#{word}!" for word in ("ref", "value", "div/0", "num", "null", "spill", "calc")),
}
"""What stands in tables, in small letters, where there is no value."""
TRUTH = {"true": 1, "false": 0}
"""Programs write these for one another."""
MINUS = "\u2212"
ALIKE = ("stop", "merge", "keep")
SHOWN = 5
"""Problems of one kind that are told."""


def absent(label: str) -> bool:
    """Whether a cell says that there is no label."""
    return label.strip().lower() in ABSENT


def spelling(label: str) -> str:
    """Equal for labels that are probably one: without regard to case, blanks, invisible characters, kinds of dashes, and
    how a number or a truth value is written (`0`, `0.0`, `0,0`, `00`, `False`)."""
    text = unicodedata.normalize("NFKC", label).casefold()
    text = "".join("-" if unicodedata.category(mark) == "Pd" or mark == MINUS else mark for mark in text)
    text = " ".join("".join(mark for mark in text if unicodedata.category(mark) != "Cf").split())
    try:
        number = float(TRUTH.get(text, text.replace(",", ".")))
    except ValueError:
        return text.replace("_", " ").replace("-", " ")
    return repr(number + 0.0)


def merged(labels: Sequence[str], where: str, alike: str, told: Callable[[str], str]) -> tuple[list[str], list[str]]:
    """(the labels, notes). where, told: how to say to a person where labels are from, and where each of them stands.

    alike  what is done with labels that differ only in spelling: stop is an error with their lines; merge takes them for
           the one that is there most often; keep takes them for different classes
    """
    if alike not in ALIKE:
        raise UserError(f"data.alike={alike}: expected one of {', '.join(ALIKE)}")
    if alike == "keep":
        return list(labels), []
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    spelled = {}
    for label, count in Counter(labels).items():
        spelled[label] = spelling(label)
        groups[spelled[label]][label] = count
    several = {key: counts for key, counts in groups.items() if len(counts) > 1}
    if several and alike == "stop":
        problems = Problems()
        for counts in list(several.values())[:SHOWN]:
            problems.add(
                f"{where}: one class or several? " + "; ".join(f"{label!r} {told(label)}" for label in sorted(counts)),
                "data.alike=merge makes them one, data.alike=keep keeps them apart",
            )
        problems.stop()
    usual = {key: max(sorted(counts), key=counts.__getitem__) for key, counts in groups.items()}
    notes = [f"labels that are one: {', '.join(map(repr, sorted(counts)))}" for counts in several.values()]
    return [usual[spelled[label]] for label in labels], notes
