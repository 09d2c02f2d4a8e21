"""Differences over test samples: against a slow bootstrap, and what a stage keeps of its samples."""

import random
from importlib.util import find_spec

import numpy as np
import pytest

from kdrun.resampling import paired_bootstrap, read_samples, resampled, write_samples

needs_sacrebleu = pytest.mark.skipif(find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
WORDS = [
    "der",
    "die",
    "das",
    "Sensor",
    "Ger\u00e4t",
    "wird",
    "nicht",
    ",",
    "bitte",
    "pr\u00fcfen",
    "!",
    "12",
    "%",
    "(an)",
]


def corpus(sentences=60, wrong=0.3):
    draw, changed = random.Random(0), random.Random(wrong)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for _ in range(sentences)]
    return [
        " ".join(changed.choice(WORDS) if changed.random() < wrong else word for word in reference.split())
        for reference in references
    ], references


@needs_sacrebleu
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_paired_bootstrap_of_two_seeds_equals_a_slow_one(metric):
    from sacrebleu.metrics import BLEU, CHRF

    from kdrun.tasks.text_scores import scores, sentence_statistics

    score = {"bleu": BLEU(), "chrf": CHRF()}[metric].corpus_score
    references = corpus()[1]
    students, controls = ([corpus(wrong=share)[0] for share in shares] for shares in ((0.3, 0.25), (0.4, 0.45)))
    counts = [[sentence_statistics(system, references) for system in side] for side in (students, controls)]
    found = paired_bootstrap(*counts, lambda totals: scores(totals)[metric], draws=60, seed=3)

    def difference(rows):
        told = [[[lines[row] for row in rows] for lines in side] for side in (students, controls)]
        there = [references[row] for row in rows]
        one, two = ([score(system, [there]).score for system in side] for side in told)
        return sum(one) / 2 - sum(two) / 2

    draw = np.random.default_rng(3)
    differences = sorted(difference(draw.integers(60, size=60)) for _ in range(60))
    observed = difference(range(60))
    assert found["mean"] == pytest.approx(observed) and observed > 0
    assert found["interval"] == pytest.approx(np.percentile(differences, [2.5, 97.5]).tolist())
    further = sum(abs(value - observed) >= abs(observed) for value in differences)
    assert found["p_value"] == pytest.approx((further + 1) / 61)
    assert (found["samples"], found["draws"]) == (60, 60)


def counts(rights):
    return np.asarray([[right, 1.0] for right in rights])


def share(totals):
    return totals[0] / totals[1]


def test_it_is_seeded_symmetric_and_sees_what_is_there():
    bad, good = counts([0, 1] * 100), counts([1, 1, 1, 0] * 50)
    found = paired_bootstrap([good], [bad], share, draws=200)
    assert found == paired_bootstrap([good], [bad], share, draws=200)
    assert found != paired_bootstrap([good], [bad], share, draws=200, seed=1)
    assert found["mean"] == pytest.approx(0.25) and found["interval"][0] > 0
    back = paired_bootstrap([bad], [good], share, draws=200)
    assert back["mean"] == -found["mean"] and back["p_value"] == found["p_value"]
    assert back["interval"] == pytest.approx([-bound for bound in found["interval"]][::-1])


def test_a_system_does_not_differ_from_itself():
    found = paired_bootstrap([counts([0, 1])], [counts([0, 1])], share, draws=50)
    assert (found["mean"], found["interval"], found["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="same samples"):
        paired_bootstrap([counts([0, 1])], [counts([0])], share)


def test_samples_come_back_as_they_were_kept(tmp_path):
    rows = [{"id": 1, "text": "a\u2028b \u00e4", "right": 1}, {"id": 4, "text": "", "right": 0}]
    write_samples(tmp_path, "test", rows)
    assert read_samples(tmp_path) == rows and read_samples(tmp_path, "shift") == []


def test_arms_are_compared_from_their_folders(tmp_path):
    for name, rights in (("a", [1, 1, 1]), ("b", [1, 0, 0])):
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, "test", [{"id": number, "right": right} for number, right in enumerate(rights)])
    found = resampled([tmp_path / "a"], [tmp_path / "b"])["accuracy"]
    assert found["mean"] == pytest.approx(2 / 3) and found["samples"] == 3
    (tmp_path / "c").mkdir()
    assert resampled([tmp_path / "a"], [tmp_path / "c"]) == {} == resampled([], [])
    write_samples(tmp_path / "c", "test", [{"id": 7, "right": 1}])
    with pytest.raises(ValueError, match="same ones"):
        resampled([tmp_path / "a"], [tmp_path / "c"])
