"""General texts beside the data (`data.language.texts`): what a network forgets of them while it learns something else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdrun.domains.language.source import Documents
from kdrun.problems import UserError

NAME = "texts"
"""The further test set that they are."""
SHIPPED = ("wiki_intros", "made_corpus")
MOST = 100
"""Texts that are read, evenly spread over their source."""
FIRST = 1 << 40
"""Their ids begin here, above those of the data."""


def general_texts(named: str, cache: str | Path) -> Documents:
    """The texts. named: of SHIPPED, or a file or folder as data=text_corpus reads it. UserError where it is not here, or holds chats."""
    if named == "wiki_intros":
        from kdrun.domains.language.shipped.wiki_intros import wiki_intros

        return _some(wiki_intros(cache=cache))
    if named == "made_corpus":
        from kdrun.domains.language.shipped.made_corpus import made_corpus

        return _some(made_corpus(MOST))
    from kdrun.domains.language.files import text_corpus

    try:
        return _some(text_corpus(named))
    except UserError as error:
        raise UserError(*(line.replace("data.root", "data.language.texts") for line in error.lines)) from None


def _some(source: Documents) -> Documents:
    places = np.unique(np.linspace(0, len(source) - 1, min(MOST, len(source))).round().astype(np.int64))
    ids = FIRST + np.arange(len(places))
    documents = tuple(source.documents[place] for place in places.tolist())
    arrays = {name: getattr(source, name)[places] for name in ("x", "y", "split")}
    return replace(source, documents=documents, ids=ids, fields=None, known=None, further={}, **arrays)


def content_of(named: str) -> str:
    """What stands for the texts in a hash: the name of shipped ones, whose content is pinned; of files their content."""
    if named in SHIPPED:
        return named
    digest = hashlib.sha256()
    path = Path(named).expanduser()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
