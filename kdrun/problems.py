"""What a person did wrong, in one to four lines each: printed on stderr, exit code 2."""

from __future__ import annotations

import errno
from collections.abc import Iterable

MOST_LINES = 20
"""A screen is 24 lines: what does not fit is counted, not printed."""


class UserError(Exception):
    """A mistake the user can mend. `lines` says what is wrong and what to type instead (1 to 4 lines)."""

    code = 2

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class ConfigProblems(UserError):
    """All that is wrong with a config at once; `problems` holds one list of lines for each."""

    def __init__(self, problems: Iterable[list[str]]) -> None:
        self.problems = [list(problem) for problem in problems]
        super().__init__(*self._one_screen())

    def _one_screen(self) -> list[str]:
        if len(self.problems) == 1:
            return self.problems[0]
        lines, shown = [f"{len(self.problems)} problems; nothing was started"], 0
        for problem in self.problems:
            if len(lines) + len(problem) > MOST_LINES:
                break
            first, *rest = problem
            lines += [f"  {first}", *(f"    {line}" for line in rest)]
            shown += 1
        if shown < len(self.problems):
            lines.append(f"  ... and {len(self.problems) - shown} more")
        return lines


def each(error: UserError) -> list[list[str]]:
    """The problems that an error tells, as lists of lines."""
    return error.problems if isinstance(error, ConfigProblems) else [list(error.lines)]


class Problems:
    """Collects problems while checking goes on; the same one found in five seeds is kept once."""

    def __init__(self) -> None:
        self.found: list[list[str]] = []

    def add(self, *lines: str) -> None:
        problem = [line for line in lines if line]
        if problem not in self.found:
            self.found.append(problem)

    def stop(self) -> None:
        """Raise ConfigProblems if there is any."""
        if self.found:
            raise ConfigProblems(self.found)


_FULL = ("the disk is full", "make room (kdrun gc lists what no run needs)")
_DISK = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the disk quota is used up", _FULL[1]),
    errno.EROFS: ("the disk is read-only", "make it writable, or give another folder: paths.outputs=FOLDER"),
    errno.EACCES: ("permission is denied", "make it accessible, or give another folder: paths.outputs=FOLDER"),
    errno.EPERM: ("permission is denied", "make it accessible, or give another folder: paths.outputs=FOLDER"),
    errno.ENOENT: ("a file or folder is missing, or was removed meanwhile", "put it back if it was moved"),
    errno.ENOTDIR: ("a file is where a folder is expected", "move it away"),
    errno.EIO: ("the disk failed", "look after the disk, or give another folder: paths.outputs=FOLDER"),
}
"""errno -> (what it means, what to do before the command is given again)"""


def disk_problem(error: BaseException) -> list[str] | None:
    """What a person can do about a disk that is full, read-only or gone; None for errors of another kind.

    An error knows its path, and may know how many bytes were `needed` (see files.located).
    """
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return None
    (what, cure), needed = _DISK[error.errno], getattr(error, "needed", None)
    room = [] if needed is None else [f"{_bytes(needed)} needed"]
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and (free := _free(error.filename)) is not None:
        room.append(f"{_bytes(free)} free")
    return [
        what + (f": {', '.join(room)}" if room else ""),
        *([] if error.filename is None else [f"  {error.filename}"]),
        "finished stages and the state saved last are safe; nothing half-written is kept",
        f"{cure}, then go on with the same command",
    ]


def _free(path: str | None) -> int | None:
    """Bytes that are free where `path` is or would be."""
    import os
    import shutil

    folder = os.path.abspath(path or ".")
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that was most likely meant, or None where none comes close.

    Compared without case and with - and _ alike. A unique option that begins with the word counts as close, since
    half-typed names are common.
    """
    from difflib import get_close_matches

    plain = {option.lower().replace("-", "_"): option for option in options}
    wanted = word.lower().replace("-", "_")
    if not wanted:
        return None
    close = get_close_matches(wanted, plain, n=1, cutoff=0.6)
    if close:
        return plain[close[0]]
    begins = [option for key, option in plain.items() if key.startswith(wanted) and len(wanted) > 1]
    return begins[0] if len(begins) == 1 else None


def closest(word: str, options: Iterable[str]) -> str:
    """`; closest: cascaded`, or nothing: the part of a message that suggests."""
    found = nearest(word, options)
    return f"; closest: {found}" if found else ""


def count_of_rows(number: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} row{'s' * (number != 1)}"


def listed(options: Iterable[str], most: int = 24) -> str:
    """`a, b, c` with a count of what is left out when there are very many."""
    names = list(options)
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
