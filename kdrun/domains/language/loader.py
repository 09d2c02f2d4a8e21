"""Batches of rows of tokens of similar length. What comes when is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdrun.data.columns import Parts
from kdrun.data.loader import SortedLoader
from kdrun.data.ragged import Ragged

ROWS = 1 << 14
"""Rows that are looked at together."""


@dataclass(frozen=True)
class Origins:
    """What the documents in rows are of: those of row r are at starts[r]:starts[r + 1] of the other columns.

    starts    int64 [rows + 1]
    document  int64 [n]: its id
    begin     int64 [n]: bytes of its text before what is in the row
    """

    starts: np.ndarray
    document: np.ndarray
    begin: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Origins]) -> Origins:
        """The rows of the first, then those of the next."""
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        documents, begins = (np.concatenate([getattr(part, name) for part in parts]) for name in ("document", "begin"))
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), documents, begins)

    def of(self, row: int) -> list[tuple[int, int]]:
        """(document, begin) of each document in a row, in order."""
        here = slice(*self.starts[row : row + 2])
        return list(zip(self.document[here].tolist(), self.begin[here].tolist(), strict=True))


class LanguageSamples(Parts):
    """The rows of one split.

    ids     int64 [n]
    tokens  Ragged: ids of tokens
    bytes   int32, as long as tokens.flat: bytes of text that each token stands for, where it is predicted; -1 where it is not
    parts   Ragged, as long: which document of its row each token is of, from 1; None: rows hold one each
    pad     what rows are filled up with
    origins  of the documents of each row, where they are known
    pictures what rows with these ids (int64 [n]) have beside them: float32 [n, 3, size, size]; None: nothing
    """

    KEPT = ("ids", "tokens", "bytes", "parts", "pad", "origins", "lengths", "predicted", "labelled")

    labelled: torch.Tensor | None = None
    """bool [n]: of which rows the next tokens are learned; of the others a teacher alone says what comes next. None: all."""
    pictures: Callable[[np.ndarray], torch.Tensor] | None = None

    def __init__(
        self,
        ids: np.ndarray,
        tokens: Ragged,
        bytes: np.ndarray,
        parts: Ragged | None,
        pad: int,
        origins: Origins | None = None,
        pictures: Callable[[np.ndarray], torch.Tensor] | None = None,
    ):
        self.pictures = pictures
        self.ids, self.origins = torch.from_numpy(np.array(ids, np.int64)), origins
        self.tokens, self.parts, self.pad = tokens, parts, pad
        self.bytes = Ragged(bytes, tokens.starts)
        self.lengths = tokens.lengths()
        self.predicted = _predicted(bytes, tokens.starts)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_kinds(cls, labelled: LanguageSamples, others: LanguageSamples) -> LanguageSamples:
        """Rows that have labels, and others behind them."""
        kinds = (labelled, others)
        parts = None if labelled.parts is None else Ragged.joined([kind.parts for kind in kinds])
        made = cls(
            np.concatenate([kind.ids.numpy() for kind in kinds]),
            Ragged.joined([kind.tokens for kind in kinds]),
            np.concatenate([kind.bytes.flat for kind in kinds]),
            parts,
            labelled.pad,
            Origins.joined([kind.origins for kind in kinds]),
        )
        made.labelled = torch.arange(len(made)) < len(labelled)
        return made

    def sizes(self, positions: np.ndarray) -> dict[str, int]:
        """How many tokens of these rows are predicted; of those with labels, where not all have some."""
        counts = self.predicted[positions]
        known = {} if self.labelled is None else {"labelled": int(counts[self.labelled.numpy()[positions]].sum())}
        return {"mask": int(counts.sum()), **known}

    def seen(self, ids: np.ndarray) -> dict[str, Any]:
        """{"picture": float32 [n, 3, size, size]} of rows with these ids; {} where they have none."""
        return {} if self.pictures is None else {"picture": self.pictures(ids)}

    def batch(self, positions: np.ndarray, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        """The rows at these positions as a batch (see LanguageLoader). sizes: those over all ranks, where not theirs."""
        sizes = self.sizes(positions) if sizes is None else sizes
        ids, real = self.tokens.padded(positions, self.pad)
        counted = self.bytes.padded(positions, -1)[0][:, 1:]
        attended = real[:, 1:]
        mask = attended if self.parts is None else self.parts.padded(positions, 0)[0][:, :-1] * attended
        return {
            "ids": self.ids[torch.from_numpy(positions)],
            "inputs": {
                "input_ids": torch.from_numpy(np.where(attended, ids[:, :-1], self.pad)),
                "attention_mask": torch.from_numpy(mask),
                **self.seen(self.ids[torch.from_numpy(positions)].numpy()),
            },
            "targets": torch.from_numpy(ids[:, 1:].copy()),
            "mask": torch.from_numpy(counted >= 0),
            "bytes": torch.from_numpy(np.maximum(counted, 0)),
            "view": 0,
            "size": sizes["mask"],
            **({} if self.labelled is None else {"labelled": self.labelled[positions], "sizes": sizes}),
        }


def _predicted(bytes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64 [n]: how many tokens of each row are predicted. Some rows at a time: all of them may be more than memory holds."""
    found = np.zeros(len(starts) - 1, np.int64)
    for first in range(0, len(found), ROWS):
        edges = starts[first : first + ROWS + 1]
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(bytes[edges[0] : edges[-1]] >= 0, dtype=np.int64)])
        found[first : first + ROWS] = np.diff(total[edges - edges[0]])
    return found


class LanguageLoader(SortedLoader):
    """Iterates one split as one of `world` ranks; resumes at any batch (see BatchLoader for how).

    A batch is a dict: "ids" int64 [b]; "inputs": input_ids int64 [b, L] and attention_mask: bool [b, L], where there is a token, or
    int64 [b, L], which document of the row it is of (0: padding),
    and, where rows have one, picture float32 [b, 3, size, size]; "targets" int64 [b, L]: the next token; "mask" bool [b, L]: where
    that counts; "bytes" int64 [b, L]: of the next token; "view" 0; "size": counted tokens over all ranks. Where not all rows have labels
    also "labelled" bool [b] and "sizes": {"mask": size, "labelled": counted tokens of rows that have some}.
    """
