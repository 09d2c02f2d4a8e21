"""kdrun runs [KEY=VALUE...]: the runs of the outputs folder that fit, newest first. Also what its neighbours share."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from kdrun.files import dump_json
from kdrun.present.results import percent, seeds_text
from kdrun.present.tables import print_table
from kdrun.present.units import MISSING, age, duration, share
from kdrun.problems import UserError, closest, listed
from kdrun.tracking.filters import KEYS, select
from kdrun.tracking.overview import overview
from kdrun.tracking.record import STATUSES
from kdrun.tracking.registry import list_runs, runs_folder
from kdrun.verbs.arguments import Arguments
from kdrun.words import is_folder

WIDE = ("gap closed", "seeds", "data", "duration", "networks")
"""Columns a narrow terminal goes without, first to last."""


def main(args: Arguments) -> int:
    """Print the table, or with --json a list of objects. 0 also where there are no runs, or none that fits."""
    outputs, filters = outputs_folder(args), filters_of(args)
    everything = list_runs(outputs)
    runs = select(everything, filters, outputs)
    if args.json:
        print(dump_json([overview(run) for run in runs]))
        return 0
    if not runs:
        there = f"{len(everything)} in {runs_folder(outputs)}"
        print(f"no run fits {' '.join(filters)} ({there})" if everything else f"no runs in {runs_folder(outputs)}")
        return 0
    views = [overview(run) for run in runs]
    common = set.intersection(*(set(view["overrides"]) for view in views)) if len(views) > 1 else set()
    print_table([columns(view, common) for view in views], WIDE, ("run",))
    for run in runs:
        if run.problem:
            print(f"broken record: {run.problem}", file=sys.stderr)
    return 0


def filters_of(args: Arguments) -> list[str]:
    """What was typed as KEY=VALUE, without the folder. UserError for any other word, with what was probably meant."""
    for word in args.words:
        if word in STATUSES:
            raise UserError(f"'{word}' is not KEY=VALUE; meant: status={word}?")
        raise UserError(f"'{word}' is not KEY=VALUE{closest(word, KEYS)}", f"filters: {', '.join(KEYS)}")
    return [word for word in args.overrides if not is_folder(word)]


def one_word(args: Arguments, what: str = "run") -> str:
    """The one word that was typed; `last` where there is none."""
    if len(args.words) > 1:
        raise UserError(f"one {what} at a time; given: {', '.join(args.words)}")
    return args.words[0] if args.words else "last"


def take_no(args: Arguments, *, words: bool = True) -> None:
    """UserError for what a verb would ignore: KEY=VALUE, and (with `words`) any other word."""
    extra = [word for word in args.overrides if not is_folder(word)] + (list(args.words) if words else [])
    if extra:
        raise UserError(f"kdrun {args.verb} does not take {extra[0]}", f"see kdrun {args.verb} --help")


def outputs_folder(args: Arguments) -> Path:
    """Where to look: `--outputs DIR`, the override `paths.outputs=DIR`, else ./outputs. Composes no config."""
    options = getattr(args, "options", None) or {}
    chosen = options.get("outputs") or getattr(args, "outputs", None)
    for override in getattr(args, "overrides", None) or []:
        if is_folder(override):
            chosen = chosen or override.partition("=")[2].strip("'\"")
    return Path(chosen or "outputs")


SAID = ("strategy", "teacher", "student", "model", "data", "seed", "seeds", "name", "paths.outputs")
"""Overrides that other columns tell."""


def columns(view: dict[str, Any], common: Collection[str] = ()) -> dict[str, str]:
    """An overview as text, column by column; of its overrides those that are not `common` to all runs of the table."""
    own = [word for word in view["overrides"] if word not in common and word.partition("=")[0] not in SAID]
    pair = " -> ".join(name for name in (view["teacher"], view["student"]) if name)
    seeds = seeds_text(view["seeds"])
    return {
        "run": view["id"],
        "status": view["status"],
        "strategy": view["strategy"] or MISSING,
        "networks": pair or MISSING,
        "overrides": " ".join(own),
        "data": view["data"] or MISSING,
        "seeds": seeds if view["n"] == view["of"] else f"{seeds} ({view['n']} of {view['of']})",
        "result": percent(view["result"][view["headline"]], view["metric"]),
        "gap closed": share(view["gap_closed"]),
        "duration": duration(view["seconds"]),
        "age": age(view["created"]),
    }


def read_words(words: list[str], overrides: list[str], known: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """(run, question, options) from what was typed; known: names of options. UserError for one that the command does not have.

    A first word with a space in it is the question: no run is called like that. So is what stands before a "=" and is no
    name of an option ("what is 2 + x = 5?").
    """
    run, *rest = words if words and not re.search(r"\s", words[0]) else ["last", *words]
    options: dict[str, str] = {}
    for word in overrides:
        key, _, value = word.partition("=")
        if not re.fullmatch(r"[\w.]+", key):
            rest.append(word)
        elif key in known:
            options[key] = value
        elif key != "paths.outputs":
            raise UserError(f"{word}: no option {key!r}{closest(key, known)}; all: {listed(known)}")
    return run, " ".join(rest).strip(), options
