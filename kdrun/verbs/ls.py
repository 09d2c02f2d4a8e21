"""kdrun ls [GROUP]: what can be chosen, one line each."""

from __future__ import annotations

import sys

from kdrun.config.groups import TABLES, conf_dirs, groups, tables
from kdrun.problems import UserError, closest
from kdrun.verbs.arguments import Arguments


def main(args: Arguments) -> int:
    """Groups with the names of their options, or the options of one group with their descriptions."""
    dirs, broken = conf_dirs(args.conf_dirs)
    for line in broken:
        print(f"kdrun: {line}", file=sys.stderr)
    table = {**groups(dirs), TABLES: tables(dirs)}
    chosen = args.words or list(table)
    for group in chosen:
        if group not in table:
            raise UserError(f"no group '{group}'{closest(group, table)}", f"groups: {', '.join(table)}")
    if args.json:
        import json

        print(json.dumps({g: {name: option.summary for name, option in table[g].items()} for g in chosen}, indent=2))
        return 0
    width = max((len(name) for group in chosen for name in table[group]), default=0)
    for group in chosen:
        if not args.words:
            print(f"{group:<12} {', '.join(table[group])}")
            continue
        print(group)
        for name, option in table[group].items():
            print(f"  {name:<{width}}  {option.summary}".rstrip())
    if not args.words:
        print("\none line for each option of a group: kdrun ls GROUP")
    return 0
