"""Texts of the user's own, a line or a row each, for a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.records import TABLES
from kdrun.domains.inputs import Reader, UserInput, text_lines
from kdrun.domains.text import tokens
from kdrun.domains.text.rows import table_rows
from kdrun.domains.text.spec import ClassifiedTextSpec


class TextReader(Reader):
    """Lines of text, of pairs with a tab between both texts; or the rows of a table with the columns that the network learned from.

    Raises UserError where the tokenizer that the network was trained with cannot be had.
    """

    def __init__(self, spec: ClassifiedTextSpec, config: Mapping[str, Any], paths: Mapping[str, str]):
        given = (config.get("tokens") or {}).get("tokenizer")
        self.spec, self.tokenizer = spec, tokens.of_content(spec.tokenizer, given, Path(paths["cache"]))
        columns = config.get("text") or "text"
        self.columns = [columns] if isinstance(columns, str) else list(columns)

    def read(self, path: Path | None) -> Iterator[UserInput]:
        if path is None or path.suffix.lower() not in TABLES:
            for line in text_lines(path):
                yield line if line.problem else self._checked(line.where, line.value.split("\t", 1), "a tab")
            return
        wanted = [(self.columns, "these are the columns that the network learned from")]
        for number, cells in table_rows(path, f"{path}", wanted):
            yield self._checked(f"{path} line {number}", cells, "two columns")

    def _checked(self, where: str, texts: list[str], between: str) -> UserInput:
        if not self.spec.pairs:
            texts = [" ".join(texts)]
        texts = [text.strip() for text in texts]
        if self.spec.pairs and len(texts) < 2:
            return UserInput(where, problem=f"one text; this network reads pairs, with {between} between both")
        if not all(texts):
            return UserInput(where, problem="an empty text")
        return UserInput(where, tuple(texts))

    def encode(self, values: list[tuple[str, ...]]) -> Any:
        from kdrun.domains.text.loader import TextSamples

        first, *second = (list(column) for column in zip(*values, strict=True))
        ids, types, _ = self.tokenizer.encode(first, second[0] if second else None, self.spec.max_length)
        rows = np.arange(len(values))
        return TextSamples(rows, ids, types, np.zeros_like(rows), self.spec.pad, None).inputs(rows)
