"""What went wrong in code that is not kdrun's."""

from __future__ import annotations

import os
import sysconfig
import traceback

from kdrun.problems import UserError


def broken(what: str, error: Exception) -> UserError:
    """What went wrong in code that is not kdrun's: type, message, file and line."""
    first = (str(error).splitlines() or [""])[0]
    place = place_of(error)
    return UserError(f"{what}: {type(error).__name__}: {first}", *([place] if place else []))


def place_of(error: BaseException) -> str:
    """`mylab/nets.py, line 3`: the last frame that lies in nobody's package, or "" where none does."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    packages = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*packages, own + os.sep, "<")):
            near = os.path.relpath(frame.filename)
            return f"{frame.filename if near.startswith('..') else near}, line {frame.lineno}"
    return ""
