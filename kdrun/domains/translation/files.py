"""Files with text in two languages: plain lines, or TSV, TMX and PO. Every mistake names its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdrun.data.languages import is_language, side_of
from kdrun.domains.translation.po import po
from kdrun.domains.translation.text_files import Found, two_files
from kdrun.domains.translation.tmx import tmx
from kdrun.domains.translation.tsv import tsv
from kdrun.problems import UserError


def read_pair(
    source: str | Path,
    target: str | Path | None,
    languages: tuple[str, str],
    columns: list[int | str] | None = None,
    msgstr_language: str | None = None,
) -> Found:
    """Two files of lines, or one .tsv, .tmx or .po; each may be gzipped (.gz). Raises UserError.

    columns: of a TSV file (see text_tsv.tsv). msgstr_language: of a PO file that does not say it (see text_po.po).
    """
    source = Path(source).expanduser()
    if target is not None:
        files = source, Path(target).expanduser()
        _check_endings(files, languages)
        return two_files(*files), {}
    readers: dict[str, Callable[[], Found]] = {
        **dict.fromkeys((".tsv", ".tab"), lambda: tsv(source, languages, columns)),
        ".tmx": lambda: tmx(source, languages),
        **dict.fromkeys((".po", ".pot"), lambda: po(source, languages, msgstr_language)),
    }
    kind = _ending(source)
    if kind not in readers:
        raise UserError(
            f"{source} is one file of lines; its translations are missing: data.target=FILE",
            f"a single file that holds both sides ends with {', '.join(readers)}",
        )
    found = readers[kind]()
    if not found[0]:
        raise UserError(f"{source} holds no pair" + (f"; left out: {found[1]}" if found[1] else ""))
    return found


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _check_endings(files: tuple[Path, Path], languages: tuple[str, str]) -> None:
    """UserError where the name of a file (train.de) says that it is in another language than that of its side."""
    endings = [_ending(path)[1:] for path in files]
    for side, (key, ending) in enumerate(zip(("source", "target"), endings, strict=True)):
        if is_language(ending) and side_of(ending, languages) != side:
            said = [
                f"data.{key}_language={end}"
                for key, end in zip(("source", "target"), endings, strict=True)
                if is_language(end)
            ]
            raise UserError(
                f"{files[side]} ends with .{ending}, but data.{key}_language={languages[side]}",
                f"say which languages the files are in: {' '.join(said)}",
                "or, if they are in the wrong order, change data.source and data.target",
            )
