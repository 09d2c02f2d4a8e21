"""kdrun init [DIR]: a small project of one's own, which runs at once: options, a network, a loss, a test."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments

STARTER = Path(__file__).resolve().parent.parent / "starter"


def main(args: Arguments) -> int:
    """0 when the project lies in the folder. Raises UserError, and writes nothing, where a file of it is there already."""
    if len(args.words) > 1:
        raise UserError(f"init takes one folder: {' '.join(args.words)}")
    folder = Path(args.words[0] if args.words else ".").expanduser()
    files = [
        path.relative_to(STARTER) for path in sorted(STARTER.rglob("*")) if path.is_file() and path.suffix != ".pyc"
    ]
    if taken := [str(folder / name) for name in files if (folder / name).exists()]:
        raise UserError(
            f"kdrun init {folder}: {taken[0]} is there already; nothing was written", "kdrun init NEW_FOLDER"
        )
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(STARTER / name, folder / name)
        print(folder / name)
    step = "" if folder == Path() else f"cd {folder} && "
    print(f"next: {step}kdrun --conf conf experiment=mine")
    return 0
