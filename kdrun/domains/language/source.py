"""What a source of documents returns: texts or chats, and their ids. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from kdrun.data.source import TRAIN, ArraySource, check_columns, text_hash
from kdrun.domains.text.source import digests

Message = tuple[str, str]
"""(role, content); the role is system, user, assistant or tool."""
Document = str | tuple[Message, ...]
"""A text, or a chat of messages."""


class Pictures(Protocol):
    """A picture beside each document, which networks see before its tokens.

    size         pixels of a side
    source_hash  sha256 hex digest of all that determines the pixels
    """

    size: int

    @property
    def source_hash(self) -> str: ...

    def pixels(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [n, 3, size, size] of the documents with these ids (int64 [n]), in RGB; always the same for the same id."""
        ...


@dataclass
class Documents(ArraySource):
    """Documents as their source gives them; see ArraySource for what is not here.

    x          uint8 [N, 16]: hashes by which equal documents are known
    y          int64 [N], 0
    documents  one for each sample; all texts, or all chats
    fields     for each sample the other columns of its row, as text (what teacher.prompt may name); None: there are none
    known      for each sample what the source says of it besides: objects that rewards are given and answers are judged by; None: nothing
    pictures   one of each document; None: networks see tokens alone
    further    see ArraySource
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    name: str
    source_hash: str
    documents: Sequence[Document] = ()
    fields: Sequence[Mapping[str, str]] | None = None
    known: tuple[Any, ...] | None = None
    pictures: Pictures | None = None
    further: dict[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    determined: bool = False
    _places: dict[int, int] | None = field(default=None, repr=False, compare=False)

    columns: ClassVar[tuple[str, ...]] = ("documents", "fields", "known")

    def __post_init__(self) -> None:
        if len(self.documents) != len(self.x):
            raise ValueError(f"{self.name}: documents and digests differ in number")
        if len({isinstance(document, str) for document in self.documents}) > 1:
            raise ValueError(f"{self.name}: texts and chats in one source")
        check_columns(self, len(self.x), y=np.int64)

    def told(self, number: int) -> Any:
        """What the source says besides of the document with this id; None where it says nothing."""
        return None if self.known is None else self.known[self._place(number)] or None

    def columns_of(self, numbers: Sequence[int]) -> dict[str, list[str]]:
        """`fields` of the documents with these ids, column by column; "" where a row lacks one."""
        if self.fields is None:
            return {}
        rows = [self.fields[self._place(number)] or {} for number in numbers]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name, "") for row in rows] for name in names}

    def _place(self, number: int) -> int:
        if self._places is None:
            self._places = {identity: place for place, identity in enumerate(self.ids.tolist())}
        return self._places[number]

    @property
    def chats(self) -> bool:
        return bool(self.documents) and not isinstance(self.documents[0], str)

    def describe(self, position: int) -> str:
        text = written(self.documents[position])
        return f"{super().describe(position)} ({text[:40]!r}{' ...' if len(text) > 40 else ''})"


def documents(
    found: Sequence[Document],
    name: str,
    ids: np.ndarray | None = None,
    split: np.ndarray | None = None,
    notes: Sequence[str] = (),
    determined: bool = False,
    fields: Sequence[Mapping[str, str]] | None = None,
    known: Sequence[Any] = (),
    further: Mapping[str, np.ndarray] | None = None,
    pictures: Pictures | None = None,
) -> Documents:
    """The source of these documents. ids: int64 [N], their places where left out; split: int8 [N], all train where left out; fields,
    pictures: see Documents."""
    seen = [] if pictures is None else [pictures.source_hash]
    return Documents(
        x=digests(map(written, found)),
        y=np.zeros(len(found), np.int64),
        split=np.full(len(found), TRAIN, np.int8) if split is None else split,
        ids=np.arange(len(found)) if ids is None else ids,
        name=name,
        source_hash=text_hash([*map(json.dumps, found), *seen]),
        documents=tuple(found) if isinstance(found, list) else found,
        fields=(tuple(fields) if isinstance(fields, list) else fields) if fields is not None and any(fields) else None,
        known=tuple(known) or None,
        pictures=pictures,
        further=dict(further or {}),
        notes=tuple(notes),
        determined=determined,
    )


def written(document: Document) -> str:
    """All that a document says, as one text."""
    return document if isinstance(document, str) else "\n".join(content for _, content in document)


def messages(document: Sequence[Message]) -> list[dict[str, Any]]:
    """A chat as templates of transformers take it."""
    return [{"role": role, "content": content} for role, content in document]
