"""Texts and chats of the user's own: text files, and JSONL, Parquet or CSV files with a column of texts or with chats."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data import folders
from kdrun.data.csv_table import lines
from kdrun.data.records import FOLDER, FOLDERS, Records, parts_in, plain, records, split_folders, text_in
from kdrun.data.source import TEST, TRAIN, VAL
from kdrun.data.stored import Spool
from kdrun.domains.language.chats import FORMS, columns_of, form_of, messages_of
from kdrun.domains.language.source import Document, Documents, documents
from kdrun.problems import UserError, closest, count_of_rows, listed

TARGETS = ("text_corpus", "chats")

PLAIN = (".txt", ".md", ".rst", ".text")
TABLES = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv")
NAMED = 3
Row = tuple[Document, str, Mapping[str, str]]
"""(text or chat, where it came from, its other columns)."""


def text_corpus(
    root: str | Path | None = None,
    column: str = "text",
    separator: str | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    empty: str = "drop",
    cache: str | Path | None = None,
) -> Documents:
    """Texts of a file or of all files below a folder.

    A .txt, .md or .rst file is one text, or several that `separator` stands between (`\\n` and `\\t` in it are a line break and a tab, so
    that `\\n\\n` is a blank line). Each row of a .jsonl, .parquet,
    .csv or .tsv file, or of a folder of `datasets` (with its splits, where it has some), is one, in its column `column`. val_root,
    test_root: files or folders like root for these splits. cache: folder for texts that are many, until they are kept.
    empty: what is done with rows without text: drop leaves them out, stop is an error.

    Raises UserError with rows of the file for a column that is not there, rows without text, and a file in another encoding than UTF-8;
    for a separator that no file has.
    """
    if root is None:
        raise UserError("data=text_corpus needs data.root=FILE or data.root=FOLDER, with texts")
    if separator is not None and not separator:
        raise UserError("data.separator: empty; null takes a file as one text")
    between = separator and separator.replace("\\n", "\n").replace("\\t", "\t")
    most = 0  # parts of a file

    def read(path: Path) -> Iterator[Row]:
        if path.is_dir() or path.suffix.lower() in TABLES:
            for number, record in _records(path):
                yield _cell(path, number, record, column), f"{path.name} row {number}", {}
            return
        named = f"data.root={path}"
        parts = [text_in(path, named)] if between is None else parts_in(path, named, between)
        nonlocal most
        for number, part in enumerate(parts, 1):
            most = max(most, number)
            yield part.strip("\n"), f"{path.name} part {number}", {}

    roots = {"root": root, "val_root": val_root, "test_root": test_root}
    found = _source("text_corpus", roots, read, empty, cache, chats=False)
    if between is not None and most == 1:
        raise UserError(
            f"data.separator={separator}: it stands in no file of {root}, so that each would be one text",
            "'data.separator=\\n\\n' is a blank line; null takes a file as one text",
        )
    return found


def chats(
    root: str | Path | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    wrong: str = "stop",
    cache: str | Path | None = None,
) -> Documents:
    """Chats of a JSONL or Parquet file (or of all below a folder, or of a folder of `datasets`), one a row, in any of these forms:
    `messages` [{"role", "content"}], ShareGPT's `conversations` [{"from", "value"}], `prompt` and `completion` (or `response`), Alpaca's
    `instruction`, `input` and `output`.

    wrong: what is done with rows that nothing can be learned of (no turn of an assistant, no text): stop is an error; drop leaves them out
    and counts them. val_root, test_root: as root, for these splits. cache: folder for chats that are many, until they are kept.
    """
    if root is None:
        raise UserError("data=chats needs data.root=FILE.jsonl, with a chat in each row")
    if wrong not in ("stop", "drop"):
        raise UserError(f"data.wrong={wrong}: stop or drop{closest(wrong, ('stop', 'drop'))}")
    dropped: list[str] = []

    def read(path: Path) -> Iterator[Row]:
        columns: list[str] = []
        good, bad = 0, []
        for number, record in _records(path):
            columns = columns or list(record)
            try:
                row = messages_of(record), f"{path.name} row {number}", columns_of(record)
            except ValueError as error:
                bad.append((number, str(error)))
                continue
            good += 1
            yield row
        if bad and not good and form_of(columns) is None:
            wanted = [name for names in FORMS.values() for name in names]
            other = [name for name in columns if name not in wanted]
            near = next((hint for name in other if (hint := closest(name, wanted))), "")
            raise UserError(
                f"{path}: no chats: its columns are {listed(columns)}{near}",
                "known: " + "; ".join(f"{form} ({', '.join(names)})" for form, names in FORMS.items()),
            )
        if bad and wrong == "stop":
            same = [number for number, why in bad if why == bad[0][1]]
            more = f"; {len(bad) - len(same)} more rows are wrong otherwise" if len(same) < len(bad) else ""
            raise UserError(
                f"{path}, {lines(same)}: {bad[0][1]}{more}",
                "mend them, or data.wrong=drop leaves them out",
            )
        dropped.extend(f"{path.name} row {number}" for number, _ in bad)

    roots = {"root": root, "val_root": val_root, "test_root": test_root}
    return _source("chats", roots, read, "stop", cache, chats=True, dropped=dropped)


text_corpus.reads = chats.reads = ("root", "val_root", "test_root")


def _source(
    kind: str,
    roots: Mapping[str, str | Path | None],
    read: Callable[[Path], Iterator[Row]],
    empty: str,
    cache: str | Path | None,
    *,
    chats: bool,
    dropped: Sequence[str] = (),
) -> Documents:
    """The source of the files of each split."""
    if empty not in ("stop", "drop"):
        raise UserError(f"data.empty={empty}: stop or drop{closest(empty, ('stop', 'drop'))}")
    folder = None if cache is None else Path(cache) / "spooled"
    texts, fields, known = Spool(folder), Spool(folder), False
    parts = array("b")
    without: list[str] = []
    for (key, root), part in zip(roots.items(), (TRAIN, VAL, TEST), strict=True):
        if root is None:
            continue
        before = len(parts)
        for path, split in _files(Path(root).expanduser(), key, part, TABLES if chats else (*PLAIN, *TABLES)):
            for text, place, columns in read(path):
                if isinstance(text, str) and not text.strip():
                    without.append(place)
                    continue
                texts.append(text)
                fields.append(columns)
                parts.append(split)
                known = known or bool(columns)
        if len(parts) == before:
            raise UserError(f"data.{key}={root}: there is no text in it")
    if without and empty == "stop":
        raise UserError(
            f"data.root: no text in {count_of_rows(len(without))}: {listed(without, NAMED)}",
            "data.empty=drop leaves them out",
        )
    left_out = [(len(without), "without text"), (len(dropped), "that nothing can be learned of")]
    return documents(
        texts.rows(),
        Path(str(roots["root"])).name or kind,
        split=np.array(parts, np.int8),
        fields=fields.rows() if known else None,
        notes=[f"{count_of_rows(count)} {what} left out" for count, what in left_out if count],
    )


def _files(root: Path, key: str, part: int, kinds: Sequence[str]) -> list[tuple[Path, int]]:
    """(file, or folder of `datasets`; its split) of what is below a path. part: the split that the key is of."""
    if root.is_file():
        return [(root, part)]
    if not root.is_dir():
        raise UserError(f"data.{key}={root}: there is no such file or folder")
    if any((root / name).is_file() for name in (FOLDER, FOLDERS)):
        found = split_folders(root, key, part or None)
        return [(path, part if split is None else split) for path, split in found]
    chosen = sorted(path for path in folders.files(root) if path.suffix.lower() in kinds)
    if not chosen:
        raise UserError(f"data.{key}={root}: no file of {listed(kinds)} in it")
    return [(path, part) for path in chosen]


def _records(path: Path) -> Records:
    return records(path, f"data.root={path}")


def _cell(path: Path, number: int, record: Mapping[str, Any], column: str) -> str:
    named = column if column in record else column.strip().lower()  # as names of columns of CSV files are read
    if named not in record:
        raise UserError(
            f"{path} row {number}: no column {column!r}{closest(column, record)}",
            f"data.column=COLUMN names that of the texts; it has {listed(record)}",
        )
    value = plain(record[named], f"{path} row {number}, column {named}")
    return "" if value is None else str(value)
