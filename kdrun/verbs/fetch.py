"""kdrun fetch [NAME] [--from PATH]: bring a data set or pretrained part into the cache, or list what there is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from kdrun.data.fetch import Fetchable, FetchFailed, default_cache, fetch, find, progress, registry
from kdrun.files import dump_json
from kdrun.present.tables import aligned
from kdrun.verbs.arguments import Arguments


def main(args: Arguments) -> int:
    """0 when everything asked for is in the cache, 1 when something could not be brought."""
    cache = cache_folder(args)
    options = getattr(args, "options", None) or {}
    given = options.get("from")
    if not args.words:
        if given:
            from kdrun.problems import UserError

            raise UserError("--from needs a name: kdrun fetch NAME --from PATH")
        return _list(cache, args.json)
    entries = registry()
    chosen = [find(word, entries) for word in args.words]
    reports, failed = [], False
    for entry in chosen:
        report, code = _bring(entry, cache, Path(given).expanduser() if given else None, args.json)
        reports.append(report)
        failed |= code != 0
    if args.json:
        print(dump_json(reports if len(reports) > 1 else reports[0]))
    return int(failed)


def cache_folder(args: Arguments) -> Path:
    """`paths.cache=DIR` among the words, else the environment's (see default_cache)."""
    for override in getattr(args, "overrides", None) or []:
        key, _, value = override.lstrip("+").partition("=")
        if key == "paths.cache":
            return Path(value.strip("'\"")).expanduser()
    return default_cache()


def _bring(entry: Fetchable, cache: Path, given: Path | None, silent: bool) -> tuple[dict[str, Any], int]:
    started = time.monotonic()
    if not silent:
        print(f"{entry.name}: {entry.about}\nlicence: {entry.licence}", file=sys.stderr, flush=True)
    try:
        with progress(entry.bytes) as told:
            new = fetch(entry, cache, given, told)
    except FetchFailed as failure:
        if not silent:
            print("\n".join(failure.lines), file=sys.stderr)
        return {**describe(entry, cache), "error": failure.lines}, 1
    seconds = time.monotonic() - started
    if not silent:
        said = f"fetched and verified in {seconds:.1f} s" if new else "already here, verified"
        print(f"{entry.name}: {said}\n{entry.folder(cache)}")
    return {**describe(entry, cache), "fetched": new, "seconds": round(seconds, 3)}, 0


def describe(entry: Fetchable, cache: Path) -> dict[str, Any]:
    """One entry as JSON."""
    present = entry.present(cache)
    return {
        "name": entry.name,
        "about": entry.about,
        "kind": entry.kind,
        "licence": entry.licence,
        "download_bytes": entry.bytes,
        "present": present,
        "path": str(entry.folder(cache)) if present else None,
        "files": [file["name"] for file in entry.files],
    }


def _list(cache: Path, as_json: bool) -> int:
    views = [describe(entry, cache) for entry in registry().values()]
    if as_json:
        print(dump_json(views))
        return 0
    rows = [
        [
            v["name"],
            "present" if v["present"] else "absent",
            f"{v['download_bytes'] / 1e6:6.1f} MB",
            v["licence"],
            v["about"],
        ]
        for v in views
    ]
    print("\n".join(aligned(rows)))
    print(f"\ncache: {cache}\nto bring one: kdrun fetch NAME")
    return 0
