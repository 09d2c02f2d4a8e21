"""Differences over test samples: against a slow bootstrap, and what a stage keeps of its samples."""

import random
from importlib.util import find_spec

import numpy as np
import pytest

from kdrun.learning.resampling import paired_bootstrap, read_samples, resampled, write_samples

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

    from kdrun.domains.translation.scores import scores, sentence_statistics

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


def diagnosed(folder, strength, classes=3, views=(), counted=(), combined=False, samples=60, seed=0):
    """A stage folder with rows of probabilities, or of members; fewer digits make ties."""
    targets = np.random.default_rng(7).integers(classes, size=samples)
    random = np.random.default_rng(seed)

    def told():
        raw = random.random((samples, classes)) + strength * np.eye(classes)[targets]
        return (raw / raw.sum(1, keepdims=True)).round(2).tolist()

    parts = {view: told() for view in views} or told()
    whole = told() if combined else None
    rows = []
    for number, target in enumerate(targets.tolist()):
        row = {"id": number, "target": target}
        if views:
            row |= {"members": {view: part[number] for view, part in parts.items()}, "counted": list(counted)}
        else:
            row["probabilities"] = parts[number]
        rows.append(row | ({"combined": whole[number]} if combined else {}))
    folder.mkdir()
    write_samples(folder, "test", rows)
    return folder


def slow_auc(rows, of):
    """One class against the rest by all pairs, a mean over classes that occur."""
    found = []
    classes = len(of(rows[0]))
    for one in [1] if classes == 2 else range(classes):
        ones, rest = ([of(row)[one] for row in rows if (row["target"] == one) is kind] for kind in (True, False))
        if ones and rest:
            order = np.sign(np.subtract.outer(ones, rest))
            found.append((order + 1).mean() / 2)
    return sum(found) / len(found)


def slow_auc_bootstrap(pairs, draws, *scores):
    """scores: of rows, one for each side. Draws without a class are drawn again."""
    random, everything = np.random.default_rng(0), {row["target"] for row in pairs[0][0]}

    def difference(chosen):
        sides = [[score([side[n] for n in chosen]) for side, score in zip(pair, scores, strict=True)] for pair in pairs]
        return sum(one - two for one, two in sides) / len(sides)

    number, found = len(pairs[0][0]), []
    while len(found) < draws:
        chosen = random.integers(number, size=number)
        if {pairs[0][0][n]["target"] for n in chosen} == everything:
            found.append(difference(chosen))
    observed = difference(range(number))
    further = sum(abs(value - observed) >= abs(observed) - 1e-10 for value in found)
    return observed, np.percentile(found, [2.5, 97.5]).tolist(), (further + 1) / (draws + 1)


def same(found, expected):
    assert found["mean"] == pytest.approx(expected[0], abs=1e-12)
    assert found["interval"] == pytest.approx(expected[1], abs=1e-12)
    assert found["p_value"] == pytest.approx(expected[2])


@pytest.mark.parametrize(("classes", "samples"), [(2, 30), (3, 30), (4, 12)])
def test_the_bootstrap_of_auc_equals_a_slow_one(tmp_path, classes, samples):
    first = [diagnosed(tmp_path / f"a{n}", 0.4, classes, samples=samples, seed=n) for n in (1, 2)]
    second = [diagnosed(tmp_path / f"b{n}", 0.2, classes, samples=samples, seed=n) for n in (3, 4)]
    found = resampled(first, second, draws=50)
    assert list(found) == ["auc"] and (found["auc"]["samples"], found["auc"]["draws"]) == (samples, 50)

    def score(rows):
        return slow_auc(rows, lambda row: row["probabilities"])

    pairs = [(read_samples(one), read_samples(two)) for one, two in zip(first, second, strict=True)]
    same(found["auc"], slow_auc_bootstrap(pairs, 50, score, score))
    assert ("delong" in found["auc"]) is (classes == 2)


def test_members_are_compared_one_by_one_and_by_the_mean_of_those_that_count(tmp_path):
    make = {"views": ("lung", "bone", "zero"), "counted": ("lung", "bone")}
    first = diagnosed(tmp_path / "a", 0.4, combined=True, **make)
    second = diagnosed(tmp_path / "b", 0.2, combined=True, seed=1, **make)
    found = resampled([first], [second], draws=40)
    assert list(found) == ["auc", "auc/lung", "auc/bone", "auc/zero", "auc/combined"]
    pairs = [(read_samples(first), read_samples(second))]

    def of(view):
        return lambda rows: slow_auc(rows, lambda row: row["members"][view])

    def whole(rows):
        return slow_auc(rows, lambda row: row["combined"])

    def counted(rows):
        return (of("lung")(rows) + of("bone")(rows)) / 2

    same(found["auc"], slow_auc_bootstrap(pairs, 40, counted, counted))
    same(found["auc/zero"], slow_auc_bootstrap(pairs, 40, of("zero"), of("zero")))
    same(found["auc/combined"], slow_auc_bootstrap(pairs, 40, whole, whole))


def test_only_what_both_sides_have_is_compared(tmp_path):
    first = diagnosed(tmp_path / "a", 0.4, views=("lung", "bone"), counted=("lung", "bone"), combined=True)
    second = diagnosed(tmp_path / "b", 0.2, views=("bone", "zero"), counted=("zero",), seed=1)
    found = resampled([first], [second], draws=20)
    assert list(found) == ["auc", "auc/bone"]
    assert (
        found["auc"]["mean"] == found["auc/bone"]["mean"]
    )  # lung is not in the second, zero does not count in the first
    other = diagnosed(tmp_path / "c", 0.2, views=("zero",), counted=("zero",), seed=1)
    assert resampled([first], [other], draws=20) == {}
    plain = diagnosed(tmp_path / "d", 0.3, seed=2)
    found = resampled([first], [plain], draws=20)
    rows = read_samples(first), read_samples(plain)
    views = [slow_auc(rows[0], lambda row, view=view: row["members"][view]) for view in ("lung", "bone")]
    assert list(found) == ["auc"]
    assert found["auc"]["mean"] == pytest.approx(sum(views) / 2 - slow_auc(rows[1], lambda row: row["probabilities"]))


def test_views_that_count_may_differ_from_seed_to_seed(tmp_path):
    counted = {1: ("lung",), 2: ("bone",)}
    sides = [
        [
            diagnosed(tmp_path / f"{name}{n}", 0.3, views=("lung", "bone"), counted=counted[n], seed=n + add)
            for n in counted
        ]
        for name, add in (("a", 0), ("b", 5))
    ]
    found = resampled(*sides, draws=20)

    def difference(view, seed):
        one, two = (slow_auc(read_samples(side[seed]), lambda row: row["members"][view]) for side in sides)
        return one - two

    assert found["auc"]["mean"] == pytest.approx((difference("lung", 0) + difference("bone", 1)) / 2)


def test_two_classes_have_delong_for_each_seed_where_the_metric_is_one_score(tmp_path):
    from kdrun.auc import delong

    make = {"classes": 2, "views": ("lung", "bone"), "counted": ("lung", "bone"), "combined": True}
    first = [diagnosed(tmp_path / f"a{n}", 0.4, seed=n, **make) for n in (1, 2)]
    second = [diagnosed(tmp_path / f"b{n}", 0.2, seed=n, **make) for n in (3, 4)]
    found = resampled(first, second, draws=20)
    assert "delong" not in found["auc"]
    assert [len(found[name]["delong"]) for name in ("auc/lung", "auc/bone", "auc/combined")] == [2, 2, 2]
    rows = read_samples(first[1]), read_samples(second[1])
    scores = [[row["members"]["bone"][1] for row in side] for side in rows]
    assert found["auc/bone"]["delong"][1] == delong([row["target"] for row in rows[0]], *scores)


def test_auc_has_two_thousand_draws_and_does_not_depend_on_how_many_are_weighed_at_once(tmp_path, monkeypatch):
    folders = [diagnosed(tmp_path / name, strength, seed=ord(name)) for name, strength in (("a", 0.4), ("b", 0.3))]
    found = resampled(folders[:1], folders[1:])
    assert found["auc"]["draws"] == 2000
    monkeypatch.setattr("kdrun.learning.resampling.AT_ONCE", 60 * 17)
    assert resampled(folders[:1], folders[1:]) == found
    back = resampled(folders[1:], folders[:1])
    assert back["auc"]["mean"] == pytest.approx(-found["auc"]["mean"])
    itself = resampled(folders[:1], folders[:1])["auc"]
    assert (itself["mean"], itself["interval"], itself["p_value"]) == (0.0, [0.0, 0.0], 1.0)


def test_what_cannot_be_compared_by_auc(tmp_path):
    one, two = (diagnosed(tmp_path / name, 0.3, seed=ord(name)) for name in "ab")
    rows = read_samples(two)
    write_samples(two, "test", [{**row, "target": 0} for row in rows])
    with pytest.raises(ValueError, match="same targets"):
        resampled([one], [two])
    write_samples(one, "test", [{**row, "target": 0} for row in read_samples(one)])
    assert resampled([one], [two], draws=10) == {}  # one class only
    # Of nine classes with one sample each hardly a draw has all.
    rare = [{"id": n, "target": n, "probabilities": [0.1] * 9} for n in range(9)]
    for folder in (one, two):
        write_samples(folder, "test", rare)
    assert resampled([one], [two], draws=10) == {}
    write_samples(two, "test", [{**row, "probabilities": [float("nan")] * 3} for row in rows])
    write_samples(one, "test", rows)
    assert resampled([one], [two], draws=10) == {}
