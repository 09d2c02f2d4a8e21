"""kdrun check: compose every option of every group and every preset, and say what is wrong in which file."""

from __future__ import annotations

from kdrun.config.groups import Option, conf_dirs, groups, tables
from kdrun.problems import UserError, each
from kdrun.verbs.arguments import Arguments


def main(args: Arguments) -> int:
    """0 if everything composes; 2 with file names, lines and reasons otherwise."""
    from kdrun.job.compose import compose

    dirs, broken = conf_dirs(args.conf_dirs)
    table = groups(dirs)
    base = compose(args.overrides, args.conf_dirs, missing=False)  # if this fails, every option would say the same
    found = dict.fromkeys(broken)
    checked = 0
    for group, options in table.items():
        for name, option in options.items():
            word = None if option.part else _choosing(group, name, base.choices)
            if word is None:  # a network is composed once, not as a teacher and a student again
                continue
            checked += 1
            try:
                compose([*args.overrides, *word], args.conf_dirs, missing=False)
            except UserError as error:
                for lines in each(error):
                    first = lines[0] if option.shown in lines[0] else f"{option.shown}: {lines[0]}"
                    found |= dict.fromkeys([first, *(f"  {line}" for line in lines[1:])])
    described = tables(dirs)
    for option in described.values():
        found |= dict.fromkeys(_table(option, args))
    if found:
        raise UserError(*found)
    print(f"{checked} options and presets compose; tables: {len(described)}")
    return 0


def _table(option: Option, args: Arguments) -> list[str]:
    """What is wrong with a table file, or with any of its jobs."""
    from kdrun.tables.spec import TableRequest, compose_jobs
    from kdrun.tables.table_file import read_spec

    try:
        compose_jobs(TableRequest(read_spec(option), list(args.overrides)), args.conf_dirs)
    except UserError as error:
        return error.lines
    return []


def _choosing(group: str, name: str, choices: dict[str, str]) -> list[str] | None:
    """The words that choose an option; a group that others use is chosen where they use it."""
    if group in choices or group in ("model", "experiment"):
        return [f"{group}={name}"]
    used = sorted((key for key in choices if key.partition("@")[0] == group), key=len)
    return [f"{used[0]}={name}"] if used else [f"+{group}={name}"]
