"""kdrun gc: what in the store no run refers to. Shows it, asks, and deletes it."""

from __future__ import annotations

import sys
from typing import Any

from kdrun.files import dump_json
from kdrun.lab.garbage import Garbage, References, delete, find, size_of
from kdrun.present.units import duration, size_text
from kdrun.tracking.registry import runs_folder
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder, print_table, take_no


def main(args: Arguments) -> int:
    """0, also if nothing was deleted; 1 if something that should have been deleted is still there."""
    take_no(args)
    outputs = outputs_folder(args)
    references = References(outputs)
    items = find(references)
    if not args.json:
        _tell(items, references)
    if args.yes or (items and not args.json and _agreed(items)):
        ends = list(delete(items, references))
    else:
        ends = []
    kept = [(item, reason) for item, reason in ends if reason is not None]
    deleted = [item for item, reason in ends if reason is None]
    if args.json:
        print(dump_json(_view(items, references, deleted, kept)))
    elif ends:
        print(f"deleted {len(deleted)} ({size_text(sum(item.size for item in deleted))})")
        for item, reason in kept:
            print(f"kept {item.name}: {reason}", file=sys.stderr)
    return 1 if kept else 0


def _tell(items: list[Garbage], references: References) -> None:
    store = references.store.root
    if not store.is_dir():
        print(f"no store in {store}")
    elif not items:
        print(f"nothing to delete in {store} ({size_text(size_of(store))}, {references.runs} runs)")
    else:
        print_table([_row(item) for item in items], ("age",), ("name",))
        print(f"\n{len(items)} to delete, {size_text(sum(item.size for item in items))} of {size_text(size_of(store))}")
        if not references.runs:
            print(f"no run is recorded in {runs_folder(references.outputs)}: everything counts as not referred to")
    if (active := references.active) and any(store.glob("unfinished/*")):
        more = f" and {len(active) - 1} more" if len(active) > 1 else ""
        print(f"unfinished stages are kept: {active[0]}{more} may continue them")
    for other in references.other_stores:
        print(f"not looked at: {other}, another store that runs of this folder use")


def _row(item: Garbage) -> dict[str, str]:
    return {
        "what": item.kind,
        "name": item.name,
        "size": size_text(item.size),
        "age": duration(item.age),
        "why": item.why,
    }


def _agreed(items: list[Garbage]) -> bool:
    """Ask on a terminal; elsewhere nobody could answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("nothing was deleted; kdrun gc --yes deletes without asking")
        return False
    try:
        answer = input(f"delete these ({size_text(sum(item.size for item in items))})? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("nothing was deleted")
    return False


def _view(
    items: list[Garbage], references: References, deleted: list[Garbage], kept: list[tuple[Garbage, str]]
) -> dict[str, Any]:
    """What `--json` gives; sizes in bytes, ages in seconds."""
    return {
        "store": str(references.store.root),
        "items": [
            {"what": item.kind, "name": item.name, "path": str(item.path), "bytes": item.size, "age": round(item.age)}
            | {"why": item.why}
            for item in items
        ],
        "bytes": sum(item.size for item in items),
        "active": references.active,
        "other_stores": references.other_stores,
        "deleted": [str(item.path) for item in deleted],
        "kept": {str(item.path): reason for item, reason in kept},
    }
