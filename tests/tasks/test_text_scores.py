"""Scores from sums against sacreBLEU's own."""

import math
import random
import sys
import types
from importlib.util import find_spec

import pytest
import torch

from kdrun.domains.translation import scores as text_scores
from kdrun.domains.translation.scores import (
    TextScores,
    comet,
    corpus_scores,
    scores,
    sentence_statistics,
    signatures,
)
from kdrun.problems import UserError

needs_sacrebleu = pytest.mark.skipif(find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
WORDS = ["der", "die", "das", "Sensor", "Gerät", "wird", "nicht", ",", "bitte", "prüfen", "!", "12", "%", "(an)"]


def corpus(sentences: int = 60, wrong: float = 0.3, seed: int = 0) -> tuple[list[str], list[str]]:
    """Hypotheses and references; some of both are empty."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for _ in range(sentences)]
    changed = random.Random(wrong)
    hypotheses = [
        " ".join(changed.choice(WORDS) if changed.random() < wrong else word for word in reference.split())
        for reference in references
    ]
    return hypotheses, references


@needs_sacrebleu
def test_sums_over_any_parts_give_the_scores_of_the_corpus():
    from sacrebleu.metrics import BLEU, CHRF

    hypotheses, references = corpus()
    expected = {
        "bleu": BLEU().corpus_score(hypotheses, [references]).score,
        "chrf": CHRF().corpus_score(hypotheses, [references]).score,
    }
    assert 10 < expected["bleu"] < 90 and corpus_scores(hypotheses, references) == expected
    parts = [sentence_statistics(hypotheses[i::3], references[i::3]).sum(0) for i in range(3)]
    assert scores(sum(parts)) == expected
    ranks = [TextScores(), TextScores()]
    for rank, (start, end) in enumerate([(0, 10), (10, 45), (45, 60)]):
        ranks[rank % 2].update(hypotheses[start:end], references[start:end])
    together = TextScores()
    together.totals = together._reductions["totals"](torch.stack([rank.totals for rank in ranks]))
    together._update_count = 1
    assert {name: value.item() for name, value in together.compute().items()} == pytest.approx(expected, rel=1e-6)


@needs_sacrebleu
def test_nothing_right_is_zero_and_nothing_to_compare_is_not_a_number():
    assert corpus_scores(["x"], ["ganz anders hier"])["bleu"] == 0.0
    assert all(math.isnan(value) for value in corpus_scores([], []).values())
    assert all(math.isnan(value) for value in corpus_scores(["x", ""], ["", ""]).values())
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        corpus_scores(["a"], ["a", "b"])


@needs_sacrebleu
def test_copying_names_scores_more_than_nothing():
    sources, references = ["Philips Hue Bridge V2 Licht", "Sensor 12"], ["Philips Hue Bridge V2 light", "Sensor 12"]
    found = corpus_scores(sources, references)
    assert 0 < found["bleu"] < 100 and 0 < found["chrf"] < 100
    assert found == corpus_scores(sources, references)


@needs_sacrebleu
def test_signatures_say_how_and_with_which_version():
    from sacrebleu import __version__

    found = signatures()
    assert found["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{__version__}"
    assert found["chrf"].startswith("nrefs:1|") and found["chrf"].endswith(__version__)


def test_without_sacrebleu_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    text_scores._metrics.cache_clear()
    with pytest.raises(UserError, match=r"pip install sacrebleu"):
        corpus_scores(["a"], ["a"])


def test_comet_is_not_available_without_its_checkpoint(tmp_path):
    assert comet(None, ["a"], ["b"], ["c"]) is None
    assert comet(tmp_path / "model.ckpt", ["a"], ["b"], ["c"]) is None


def test_comet_is_asked_with_source_output_and_reference(monkeypatch, tmp_path):
    asked = []

    class Model:
        def predict(self, samples, batch_size, gpus, progress_bar):
            asked.append((samples, batch_size, gpus, progress_bar))
            return types.SimpleNamespace(scores=[0.5, 0.7], system_score=0.6)

    library = types.SimpleNamespace(load_from_checkpoint=lambda path, local_files_only: asked.append(path) or Model())
    monkeypatch.setitem(sys.modules, "comet", library)
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.touch()
    assert comet(checkpoint, ["s", "t"], ["h", "i"], ["r", "q"]) == 0.6
    rows = [{"src": "s", "mt": "h", "ref": "r"}, {"src": "t", "mt": "i", "ref": "q"}]
    assert asked == [str(checkpoint), (rows, 8, 0, False)]
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(UserError, match="pip install unbabel-comet"):
        comet(checkpoint, ["s"], ["h"], ["r"])
