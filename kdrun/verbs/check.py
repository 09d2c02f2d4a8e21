"""kdrun check: compose every option of every group and every preset, and say what is wrong in which file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdrun.config.groups import conf_dirs, groups
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.cli import Arguments


def main(args: Arguments) -> int:
    """0 if everything composes; 2 with file names and reasons otherwise."""
    from kdrun.config.compose import compose

    dirs, broken = conf_dirs(args.conf_dirs)
    lines = list(broken)
    checked = 0
    for group, options in groups(dirs).items():
        if "/" in group or group == "network":
            continue  # parts of other options
        for name, option in options.items():
            checked += 1
            try:
                compose([f"{group}={name}", *args.overrides], args.conf_dirs, missing=False)
            except UserError as error:
                lines += [f"{option.shown}: {error.lines[0]}", *(f"  {line}" for line in error.lines[1:])]
                lines += [f"  {hint}" for hint in _preset_hints(option)] if group == "experiment" else []
    if lines:
        raise UserError(*lines)
    print(f"{checked} options and presets compose")
    return 0


def _preset_hints(option) -> list[str]:
    """The two usual mistakes in a preset, with the corrected line."""
    import re

    with open(option.file, encoding="utf-8") as file:
        text = file.read()
    hints = []
    if "@package _global_" not in text:
        hints.append("a preset needs the line `# @package _global_`, or its values land below `experiment`")
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.match(r"\s*-\s*/?(\w+)\s*:\s*(\w+)", line)
        if match and match[1] != "override":
            hints.append(f"line {number}: write `- override /{match[1]}: {match[2]}`")
    return hints
