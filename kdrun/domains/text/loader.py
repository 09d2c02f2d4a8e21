"""Batches of texts of similar length. What comes when is a function of (seed, epoch)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdrun.data.loader import SortedLoader
from kdrun.data.ragged import Ragged


class TextSamples:
    """The encoded texts of one split, in the order of the source.

    ids       int64 [n]
    tokens    Ragged: their ids
    types     Ragged, as long: which text of a pair each token is of; None: texts are not pairs
    targets   int64 [n]: their classes
    pad       what rows are filled up with
    labelled  bool [n]: which have a label; None: all
    rows      int64 [n]: which rows of tokens and types are theirs; None: all
    """

    def __init__(
        self,
        ids: np.ndarray,
        tokens: Ragged,
        types: Ragged | None,
        targets: np.ndarray,
        pad: int,
        labelled: np.ndarray | None,
        rows: np.ndarray | None = None,
    ):
        self.ids, self.targets = torch.from_numpy(np.array(ids)), torch.from_numpy(np.array(targets))
        self.tokens, self.types, self.pad = tokens, types, pad
        self.labelled = None if labelled is None else torch.from_numpy(labelled)
        self.rows = np.arange(len(tokens)) if rows is None else rows
        self.lengths = tokens.lengths(self.rows)

    def __len__(self) -> int:
        return len(self.ids)

    def sizes(self, positions: np.ndarray) -> dict[str, int]:
        """How many texts these are, and of these how many with a label, where not all have one."""
        known = {} if self.labelled is None else {"labelled": int(self.labelled[torch.from_numpy(positions)].sum())}
        return {"mask": len(positions), **known}

    def inputs(self, positions: np.ndarray) -> dict[str, torch.Tensor]:
        """What networks are called with: ids and mask (and types) [b, W], W the longest of these texts."""
        rows = self.rows[positions]
        ids, real = map(torch.from_numpy, self.tokens.padded(rows, self.pad))
        types = {} if self.types is None else {"token_type_ids": torch.from_numpy(self.types.padded(rows, 0)[0])}
        return {"input_ids": ids, "attention_mask": real, **types}

    def batch(self, positions: np.ndarray, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        """The texts at these positions as a batch (see TextLoader). sizes: those over all ranks, where not theirs."""
        sizes, rows = self.sizes(positions) if sizes is None else sizes, torch.from_numpy(positions)
        return {
            "ids": self.ids[rows],
            "inputs": self.inputs(positions),
            "targets": self.targets[rows],
            "mask": torch.ones(len(rows), dtype=torch.bool),
            "view": 0,
            "size": sizes["mask"],
            **({} if self.labelled is None else {"labelled": self.labelled[rows], "sizes": sizes}),
        }


class TextLoader(SortedLoader):
    """Iterates one split as one of `world` ranks; resumes at any batch (see BatchLoader for how).

    A batch is a dict: "ids" int64 [b]; "inputs": input_ids int64 [b, L], attention_mask bool [b, L] and of pairs token_type_ids int64
    [b, L]; "targets" int64 [b]; "mask" bool [b] (False for the row of a rank that has none); "view" 0; "size": texts of the batch over all
    ranks. Where not all texts have a label also "labelled" bool [b] and "sizes": {"mask": size, "labelled": those with one}.

    batch_size  texts of a batch over all ranks
    seed        of the order; None: longest first (evaluation)
    """

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        if self.seed is None:
            return np.argsort(-self.samples.lengths, kind="stable"), np.arange(len(self._bounds))
        return super()._order()
