"""Scores from sums against sacreBLEU's own, and the paired bootstrap against a slow one."""

import math
import random
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from kdrun.problems import UserError
from kdrun.tasks import text_scores
from kdrun.tasks.text_scores import (
    TextScores,
    comet,
    copy_baseline,
    corpus_scores,
    paired_bootstrap,
    scores,
    sentence_statistics,
    signatures,
)

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
    found = copy_baseline(sources, references)
    assert 0 < found["bleu"] < 100 and 0 < found["chrf"] < 100
    assert found == corpus_scores(sources, references)


@needs_sacrebleu
def test_signatures_say_how_and_with_which_version():
    from sacrebleu import __version__

    found = signatures()
    assert found["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{__version__}"
    assert found["chrf"].startswith("nrefs:1|") and found["chrf"].endswith(__version__)


@needs_sacrebleu
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_paired_bootstrap_equals_a_slow_one(metric):
    from sacrebleu.metrics import BLEU, CHRF

    score = {"bleu": BLEU(), "chrf": CHRF()}[metric].corpus_score
    (first, references), (second, _) = corpus(wrong=0.4), corpus(wrong=0.3)
    statistics = [sentence_statistics(system, references) for system in (first, second)]
    found = paired_bootstrap(*statistics, metric=metric, samples=60, seed=3)
    draw, differences = np.random.default_rng(3), []
    for _ in range(60):
        rows = draw.integers(60, size=60)
        again = [[lines[row] for row in rows] for lines in (first, second, references)]
        differences.append(score(again[1], [again[2]]).score - score(again[0], [again[2]]).score)
    observed = score(second, [references]).score - score(first, [references]).score
    assert found.difference == pytest.approx(observed) and found.difference > 0
    ordered = sorted(differences)
    for value, share in zip(found.interval, (0.025, 0.975), strict=True):
        place = share * 59
        below, above = ordered[int(place)], ordered[int(place) + 1]
        assert value == pytest.approx(below + (above - below) * (place - int(place)))
    further = sum(abs(difference - observed) >= abs(observed) for difference in differences)
    assert found.p_value == pytest.approx((further + 1) / 61)
    assert (found.metric, found.samples, found.sentences) == (metric, 60, 60)


@needs_sacrebleu
def test_the_bootstrap_is_seeded_symmetric_and_sees_what_is_there():
    (bad, references), (good, _) = corpus(200, 0.6), corpus(200, 0.2)
    bad, good = sentence_statistics(bad, references), sentence_statistics(good, references)
    found = paired_bootstrap(bad, good, samples=200)
    assert found == paired_bootstrap(bad, good, samples=200) != paired_bootstrap(bad, good, samples=200, seed=1)
    assert found.p_value == pytest.approx(1 / 201) and found.interval[0] > 0
    back = paired_bootstrap(good, bad, samples=200)
    assert back.difference == -found.difference and back.p_value == found.p_value
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


@needs_sacrebleu
def test_a_system_does_not_differ_from_itself():
    statistics = sentence_statistics(*corpus())
    found = paired_bootstrap(statistics, statistics, samples=50)
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(ValueError, match="same sentences"):
        paired_bootstrap(statistics, statistics[1:])


def test_without_sacrebleu_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    text_scores._metrics.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'kdrun\[nmt\]'"):
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
