"""The corpora that papers report on, from files that you have: nothing here is downloaded.

data.root is a folder with plain parallel text (train.de, train.en; valid.* or val.* or dev.*; test.*; each may be
gzipped), or a Hugging Face data set on disk: what `save_to_disk` writes, or Parquet files whose names begin with the
split, with a column `translation` of {language: text}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kdrun.data.folders import existing
from kdrun.data.source import SPLIT_NAMES, SPLITS, TRAIN, VAL
from kdrun.domains.translation.parallel_text import Cleaning, assembled
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.text_files import Found, two_files
from kdrun.optional import needed
from kdrun.problems import UserError, closest

TARGETS = ("iwslt14_de_en", "wmt17_en_de", "wmt23_en_cs")


def iwslt14_de_en(
    root: str | Path,
    direction: str = "de-en",
    lowercase: bool = True,
    min_words: int = 1,
    max_words: int | None = 175,
    max_ratio: float | None = 1.5,
    val_every: int = 23,
) -> Pairs:
    """IWSLT 2014 German-English (TED talks) with the steps of fairseq's prepare-iwslt14.sh: small letters, training
    pairs of 1 to 175 words whose lengths differ by at most 1.5 times, and, where there are no files for validation,
    every 23rd of those that are left as validation. The script counts the words of text that Moses has tokenised.

    val_every   0: validation is taken by val_fraction, as for your own files
    """
    clean = Cleaning(min_words, max_words, max_ratio, lowercase)
    return _corpus("iwslt14_de_en", root, ("de", "en"), direction, clean, val_every)


def wmt17_en_de(
    root: str | Path,
    direction: str = "en-de",
    lowercase: bool = False,
    min_words: int = 1,
    max_words: int | None = 250,
    max_ratio: float | None = 1.5,
) -> Pairs:
    """WMT 2017 English-German with the limits of fairseq's prepare-wmt14en2de.sh: training pairs of 1 to 250 words
    whose lengths differ by at most 1.5 times (the script counts parts of words)."""
    return _corpus("wmt17_en_de", root, ("en", "de"), direction, Cleaning(min_words, max_words, max_ratio, lowercase))


def wmt23_en_cs(
    root: str | Path,
    direction: str = "en-cs",
    lowercase: bool = False,
    min_words: int = 1,
    max_words: int | None = 250,
    max_ratio: float | None = 1.5,
) -> Pairs:
    """WMT 2023 English-Czech with the same limits as WMT 2017."""
    return _corpus("wmt23_en_cs", root, ("en", "cs"), direction, Cleaning(min_words, max_words, max_ratio, lowercase))


iwslt14_de_en.reads = wmt17_en_de.reads = wmt23_en_cs.reads = ("root",)


def _corpus(
    name: str, root: str | Path, languages: tuple[str, str], direction: str, clean: Cleaning, val_every: int = 0
) -> Pairs:
    known = ("-".join(languages), "-".join(reversed(languages)))
    if direction not in known:
        raise UserError(f"data.direction={direction}: {name} has {' and '.join(known)}{closest(direction, known)}")
    root = existing(root)
    pair = tuple(direction.split("-"))
    pairs = assembled(name, pair, _saved(root, pair) or _plain(root, pair), clean)
    if val_every and not (pairs.split == VAL).any():
        training = np.flatnonzero(pairs.split == TRAIN)
        pairs.split[training[val_every - 1 :: val_every]] = VAL
    return pairs


def _plain(root: Path, languages: tuple[str, str]) -> dict[str, Found]:
    """Two files for each split that is there; training must be."""
    parts: dict[str, Found] = {}
    files = [path.name.removesuffix(".gz") for path in sorted(root.iterdir()) if path.is_file()]
    stems = [
        name.removesuffix(f".{language}") for name in files for language in languages if name.endswith(f".{language}")
    ]
    for part, name in _by_split(root, stems).items():
        both = [_file(root, f"{name}.{language}") for language in languages]
        if not all(both):
            lacking = languages[both.index(None)]
            raise UserError(f"data.root={root} has {next(filter(None, both)).name} but no {name}.{lacking}[.gz]")
        parts[part] = two_files(*both), {}
    if "train" not in parts:
        wanted = " and ".join(f"train.{language}[.gz]" for language in languages)
        raise UserError(
            f"data.root={root} has no {wanted}, and no Hugging Face data set with a train split",
            "optional beside them: valid (or validation, val, dev) and test, likewise",
        )
    return parts


def _by_split(root: Path, names: Iterable[str]) -> dict[str, str]:
    """{train, val or test: which of the names is called so, in any case}. UserError where two are."""
    called: dict[str, str] = {}
    for name in dict.fromkeys(names):
        part = next((part for part, number in SPLITS.items() if SPLIT_NAMES.get(name.casefold()) == number), None)
        if part in called:
            raise UserError(f"data.root={root}: {called[part]} and {name} are both {part}", "keep one of them")
        if part is not None:
            called[part] = name
    return {part: called[part] for part in SPLITS if part in called}  # ids count in this order


def _file(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def _saved(root: Path, languages: tuple[str, str]) -> dict[str, Found] | None:
    """The splits of a Hugging Face data set on disk; None where this is none."""
    tables = _arrow(root) if (root / "dataset_dict.json").is_file() else _parquet(root)
    if not tables:
        return None
    parts: dict[str, Found] = {}
    for part, name in _by_split(root, tables).items():
        parts[part] = list(_rows(tables[name], languages)), {}
    if "train" not in parts:
        raise UserError(f"data.root={root} has no train split; it has: {', '.join(sorted(tables))}")
    return parts


def _arrow(root: Path) -> dict[str, list[Path]]:
    """split -> files that `save_to_disk` wrote."""
    tables = {}
    for split in json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]:
        state = json.loads((root / split / "state.json").read_text(encoding="utf-8"))
        if state.get("_indices_files"):
            raise UserError(f"{root / split} is a selection of rows: call flatten_indices() before save_to_disk()")
        tables[split] = [root / split / entry["filename"] for entry in state["_data_files"]]
    return tables


def _parquet(root: Path) -> dict[str, list[Path]]:
    """split -> Parquet files in their order, here or one folder below."""
    tables: dict[str, list[Path]] = {}
    for path in sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")]):
        tables.setdefault(path.name.removesuffix(".parquet").partition("-")[0], []).append(path)
    return tables


def _rows(files: list[Path], languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    pyarrow, ipc, parquet = (
        needed(module, f"{files[0]} needs pyarrow") for module in ("pyarrow", "pyarrow.ipc", "pyarrow.parquet")
    )
    for path in files:
        try:
            if path.suffix == ".parquet":
                table = parquet.read_table(path, columns=["translation"])
            else:
                with pyarrow.memory_map(str(path)) as mapped:
                    table = ipc.open_stream(mapped).read_all()
            if "translation" not in table.column_names:
                raise KeyError("translation")
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise UserError(f"{path} cannot be read as a table with a column `translation`: {error}") from None
        for batch in table.to_batches():
            for number, row in enumerate(batch.column(batch.schema.names.index("translation")).to_pylist(), 1):
                missing = [language for language in languages if language not in row]
                if missing:
                    raise UserError(f"{path}: row {number} has no {missing[0]}; it has: {', '.join(sorted(row))}")
                yield row[languages[0]] or "", row[languages[1]] or ""
