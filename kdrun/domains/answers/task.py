"""Questions whose answers are checked: what a language model writes as the last answer of a chat, and the share that is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric, MetricCollection

from kdrun import kinds
from kdrun.domains.answers.spec import AnswersSpec
from kdrun.domains.language import general
from kdrun.domains.language.module import LanguageDataModule
from kdrun.domains.language.rewards import same
from kdrun.domains.language.rows import PIECES
from kdrun.domains.language.task import CausalLanguage
from kdrun.domains.task import Batch
from kdrun.problems import UserError

DOMAIN = kinds.find("answers")


class AnswersModule(LanguageDataModule):
    """Chats whose last answers are checked; see LanguageDataModule."""

    DOMAIN, SPEC = DOMAIN, AnswersSpec


class Answers(CausalLanguage):
    """The next token as in CausalLanguage, and the share of questions that are answered right: the network writes the last answer of each
    chat, with the likeliest tokens and in at most data.language.max_new of them.

    An answer is right where what the source knows of its chat says so (`known.right(text) -> bool`, and on test `known.executed(text)`
    where there is such, which may take longer); where it knows nothing, one that equals the answer of the data, spaces and line breaks apart.
    """

    METRICS = DOMAIN.metrics
    MAIN = DOMAIN.main

    def metrics(self) -> MetricCollection:
        return MetricCollection({**super().metrics(), "answers": Share()})

    def evaluate(
        self, metrics: MetricCollection, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """Adds losses of the next token, then whether each answer is right. The text of each is in the rows of test."""
        prediction = self.predict(network, batch["inputs"])
        self.update(metrics, prediction, batch)
        self.update_added(metrics, prediction, batch)
        rows = batch["mask"].any(dim=1).nonzero().flatten().tolist()  # a rank without a row has one that counts nothing
        if not rows:
            return None
        if int(batch["ids"][rows[0]]) // PIECES >= general.FIRST:  # general texts ask nothing
            metrics["answers"].update(batch["ids"].new_zeros(0))
            return self.rows(prediction, batch) if final else None
        texts, references = self.written_answers(network, batch, rows)
        known = [self.module.source.told(int(batch["ids"][row]) // PIECES) for row in rows]
        right = [_right(*each, final) for each in zip(known, texts, references, strict=True)]
        metrics["answers"].update(torch.tensor(right, dtype=torch.int64, device=batch["mask"].device))
        ids = batch["ids"][rows].tolist()
        if not final:
            return [{"id": number, "right": one} for number, one in zip(ids, right, strict=True)]
        told = zip(self.rows(prediction, batch), right, texts, strict=True)
        return [{**row, "right_tokens": row["right"], "right": one, "text": text} for row, one, text in told]

    def written_answers(self, network: nn.Module, batch: Batch, rows: list[int]) -> tuple[list[str], list[str]]:
        """(what the network writes as the last answer of these rows, what stands there)."""
        if not hasattr(network, "generate"):
            raise UserError(f"{type(network).__name__} has no generate(): it writes no answers that could be checked")
        begun, references = [], []
        for row in rows:
            counted = batch["mask"][row].cpu().numpy()
            begins = np.flatnonzero(counted & ~np.concatenate([[False], counted[:-1]]))
            first, last = int(begins[-1]), int(np.flatnonzero(counted)[-1])
            begun.append(batch["inputs"]["input_ids"][row, : first + 1].tolist())
            references.append(batch["targets"][row, first : last + 1].tolist())
        generator = torch.Generator(batch["mask"].device)
        seen = {name: batch["inputs"][name][rows] for name in ("picture",) if name in batch["inputs"]}
        made = self.write(network, begun, self.module.written[1], 0.0, generator, **seen)
        return self._read(made), self._read(references)


def _right(known: Any, text: str, reference: str, final: bool) -> int:
    if not hasattr(known, "right"):
        return int(same(text, reference))
    return int((getattr(known, "executed", known.right) if final else known.right)(text))


class Share(Metric):
    """Share of right answers over all batches and ranks; nothing where nothing was asked."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "seen"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: torch.Tensor) -> None:
        self.right += right.sum()
        self.seen += len(right)

    def compute(self) -> dict[str, torch.Tensor]:
        return {"success": self.right.float() / self.seen} if self.seen else {}
