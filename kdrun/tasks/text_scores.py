"""BLEU and chrF of translations through sacreBLEU, from whole numbers per sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from kdrun.problems import UserError

# What sacreBLEU counts in a sentence, as its metrics keep it: for BLEU the lengths of hypothesis and reference and the
# right and all n-grams of 4 orders; for chrF the n-grams of hypothesis, of reference and of both, of 6 orders.
FIELDS = {"bleu": slice(0, 10), "chrf": slice(10, 28)}
WIDTH = 28


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """int64 [sentences, 28]: summed over any sentences, on any ranks, they give the exact scores of those sentences.

    Raises ValueError where the two differ in number, UserError where sacreBLEU is absent.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    found = np.zeros((len(hypotheses), WIDTH), dtype=np.int64)
    if len(hypotheses):
        for name, metric in _metrics().items():
            found[:, FIELDS[name]] = metric._extract_corpus_statistics(hypotheses, [references])
    return found


def scores(totals: np.ndarray, names: Iterable[str] = FIELDS) -> dict[str, float]:
    """BLEU and chrF in 0..100 from the sum [28] of sentence statistics; NaN where there was nothing to compare with."""
    return {name: _score(name, totals) for name in names}


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF of a corpus with one reference per sentence, in 0..100."""
    return scores(sentence_statistics(hypotheses, references).sum(0))


def copy_baseline(sources: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What a system scores that copies its input: names and numbers are often the same in both languages."""
    return corpus_scores(sources, references)


def signatures() -> dict[str, str]:
    """sacreBLEU's description of each score (tokenisation, smoothing, version), to be printed beside it."""
    for metric in _metrics().values():
        # It is known only after something was scored how many references there are.
        metric.corpus_score(["a"], [["a"]])
    return {name: str(metric.get_signature()) for name, metric in _metrics().items()}


class TextScores(Metric):
    """BLEU and chrF of all sentences of all ranks; the state is one sum of whole numbers.

    update(hypotheses, references): lists of sentences; compute(): "bleu" and "chrf" in 0..100 as float64 scalars, NaN
    before any sentence.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", default=torch.zeros(WIDTH, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[str], references: Sequence[str], counts: np.ndarray | None = None) -> None:
        """counts: their sentence statistics, where these were counted already."""
        found = sentence_statistics(hypotheses, references) if counts is None else counts
        self.totals += torch.from_numpy(found.sum(0)).to(self.totals.device)

    def compute(self) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(value) for name, value in scores(self.totals.cpu().numpy()).items()}


def comet(
    model_path: str | Path | None,
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    batch_size: int = 8,
    gpus: int = 0,
) -> float | None:
    """COMET of a corpus with the checkpoint at model_path; None ("n/a") where there is no such file.

    Nothing is downloaded. The file is a pickle that Lightning loads: use only one you trust.
    Raises UserError where the checkpoint is there and unbabel-comet is not.
    """
    if model_path is None or not Path(model_path).is_file():
        return None
    try:
        from comet import load_from_checkpoint
    except ModuleNotFoundError as error:
        if error.name != "comet":
            raise
        raise UserError(f"{model_path} needs COMET: pip install unbabel-comet") from error
    samples = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
    model = load_from_checkpoint(str(model_path), local_files_only=True)
    return float(model.predict(samples, batch_size=batch_size, gpus=gpus, progress_bar=False).system_score)


def _score(metric: str, totals: np.ndarray) -> float:
    counts = totals[FIELDS[metric]].tolist()
    lengths = counts[1:2] if metric == "bleu" else counts[1::3]  # of the reference
    return _metrics()[metric]._compute_score_from_stats(counts).score if any(lengths) else math.nan


@cache
def _metrics() -> dict[str, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ModuleNotFoundError as error:
        if error.name not in ("sacrebleu", "sacrebleu.metrics"):
            raise  # installed, but something it needs is not: its own message says what
        raise UserError("BLEU and chrF need sacreBLEU: pip install 'kdrun[nmt]'") from error
    return {"bleu": BLEU(), "chrf": CHRF()}
