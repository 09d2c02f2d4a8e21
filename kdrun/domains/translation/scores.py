"""BLEU and chrF of translations through sacreBLEU, from whole numbers per sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from kdrun.data.languages import UNSPACED, language_of, unspaced_share
from kdrun.optional import needed
from kdrun.problems import UserError

TOKENIZERS = {
    **dict.fromkeys(("lzh", "wuu", "yue", "zh"), "zh"),
    "ja": "ja-mecab",
    "ko": "ko-mecab",
    **dict.fromkeys(("bo", "dz", "km", "lo", "my", "shn", "th"), "flores200"),
}
"""Target language -> sacreBLEU's tokeniser, as its authors advise; all others have 13a."""
NEEDED = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko")}
"""Tokeniser -> the module it needs, and the extra of sacreBLEU that brings it."""
MODELS = {"flores200": "flores200sacrebleuspm", "flores101": "sacrebleu_tokenizer_spm.model"}
"""Tokeniser -> the file that sacreBLEU would download, below its folder `models`."""

# What sacreBLEU counts in a sentence, as its metrics keep it: for BLEU the lengths of hypothesis and reference and the
# right and all n-grams of 4 orders; for chrF the n-grams of hypothesis, of reference and of both, of 6 orders.
FIELDS = {"bleu": slice(0, 10), "chrf": slice(10, 28)}
WIDTH = 28


def tokenize_for(bleu: str, language: str, references: Sequence[str] = ()) -> str:
    """sacreBLEU's tokeniser for text in a language.

    bleu: its name, or auto: by the language. Raises UserError where what it needs is not here, since nothing is
    downloaded, or where auto would take the words of `references` for which there are none: a sentence without blanks would
    be one word, and BLEU 0 for anything but the whole of it.
    """
    name = TOKENIZERS.get(language_of(language), "13a") if bleu == "auto" else bleu
    others = "data.text.bleu=char (each character a word)"
    if bleu == "auto" and name == "13a" and (share := unspaced_share(references)) > 0.5:
        raise UserError(
            f"the target language is {language}, but {share:.0%} of the targets' characters are of a script without "
            "blanks between words",
            f"say which language it is (one of {', '.join(sorted(UNSPACED))}: data.target_language=...),",
            f"or how words are told apart for BLEU: {others}, data.text.bleu=zh, ...",
        )
    if name in NEEDED and find_spec(NEEDED[name][0]) is None:
        raise UserError(
            f"BLEU of text in {language} needs sacreBLEU's tokeniser {name}, which is not installed: "
            f"pip install 'sacrebleu[{NEEDED[name][1]}]'",
            f"or take another: {others}",
        )
    if name in MODELS and find_spec("sacrebleu") is not None:
        from sacrebleu.utils import SACREBLEU_DIR

        path = Path(SACREBLEU_DIR) / "models" / MODELS[name]
        if not path.is_file():
            raise UserError(
                f"BLEU of text in {language} needs sacreBLEU's tokeniser {name}, whose model is not at {path}",
                f"sacreBLEU downloads it: python -c \"from sacrebleu.metrics import BLEU; BLEU(tokenize='{name}')\"",
                f"or take another: {others}",
            )
    return name


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> np.ndarray:
    """int64 [sentences, 28]: summed over any sentences, on any ranks, they give the exact scores of those sentences.

    tokenize: sacreBLEU's tokeniser, for BLEU (see tokenize_for).
    Raises ValueError where the two differ in number, UserError where sacreBLEU is absent.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    found = np.zeros((len(hypotheses), WIDTH), dtype=np.int64)
    if len(hypotheses):
        for name, metric in _metrics(tokenize).items():
            found[:, FIELDS[name]] = metric._extract_corpus_statistics(hypotheses, [references])
    return found


def scores(totals: np.ndarray, names: Iterable[str] = FIELDS) -> dict[str, float]:
    """BLEU and chrF in 0..100 from the sum [28] of sentence statistics; NaN where there was nothing to compare with."""
    return {name: _score(name, totals) for name in names}


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> dict[str, float]:
    """BLEU and chrF of a corpus with one reference per sentence, in 0..100."""
    return scores(sentence_statistics(hypotheses, references, tokenize).sum(0))


def signatures(tokenize: str = "13a") -> dict[str, str]:
    """sacreBLEU's description of each score (tokenisation, smoothing, version), to be printed beside it."""
    metrics = _metrics(tokenize)
    for metric in metrics.values():
        # It is known only after something was scored how many references there are.
        metric.corpus_score(["a"], [["a"]])
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


class TextScores(Metric):
    """BLEU and chrF of all sentences of all ranks; the state is one sum of whole numbers.

    update(hypotheses, references): lists of sentences; compute(): "bleu" and "chrf" in 0..100 as float64 scalars, NaN
    before any sentence. tokenize: see tokenize_for.
    """

    full_state_update = False

    def __init__(self, tokenize: str = "13a") -> None:
        super().__init__()
        self.tokenize = tokenize
        self.add_state("totals", default=torch.zeros(WIDTH, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[str], references: Sequence[str], counts: np.ndarray | None = None) -> None:
        """counts: their sentence statistics, where these were counted already."""
        found = sentence_statistics(hypotheses, references, self.tokenize) if counts is None else counts
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
    library = needed("comet", f"{model_path} needs COMET", "unbabel-comet")
    samples = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
    model = library.load_from_checkpoint(str(model_path), local_files_only=True)
    return float(model.predict(samples, batch_size=batch_size, gpus=gpus, progress_bar=False).system_score)


def _score(metric: str, totals: np.ndarray) -> float:
    counts = totals[FIELDS[metric]].tolist()
    lengths = counts[1:2] if metric == "bleu" else counts[1::3]  # of the reference
    return _metrics()[metric]._compute_score_from_stats(counts).score if any(lengths) else math.nan


@cache
def _metrics(tokenize: str = "13a") -> dict[str, Any]:
    library = needed("sacrebleu.metrics", "BLEU and chrF need sacreBLEU")
    return {"bleu": library.BLEU(tokenize=tokenize), "chrf": library.CHRF()}
