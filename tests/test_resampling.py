"""Differences over test samples: against a slow bootstrap, and what a stage keeps of its samples."""

import random
from importlib.util import find_spec

import numpy as np
import pytest

from kdrun import kinds
from kdrun.differences import SAMPLES, TWO_LEVEL, difference_of
from kdrun.domains.rows import mean_of
from kdrun.learning import resampling
from kdrun.learning.resampling import compared, has_own_last, read_samples, two_levels, write_samples

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


def resampled(first, second, task="classification", **options):
    """Of folders, as a summary does it."""
    pairs = [(read_samples(one), read_samples(two)) for one, two in zip(first, second, strict=True)]
    return resampling.resampled(pairs, kinds.find(task).sums, **options)


def slow_two_levels(observed, drawn, samples):
    """(mean, error, degrees): the parts of the variance as they are defined, by loops over lists."""
    from statistics import fmean, variance

    n, mean = len(observed), fmean(observed)
    seeds = variance(observed) / n
    of_samples = fmean((fmean(draw) - mean) ** 2 for draw in drawn)
    together = max(fmean(variance(draw) / n for draw in drawn) - seeds, 0)
    rest = max(of_samples - together, of_samples - seeds, 0)
    return mean, (seeds + rest) ** 0.5, (seeds + rest) ** 2 / (seeds**2 / (n - 1) + rest**2 / (samples - 1))


@needs_sacrebleu
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_bootstrap_of_two_seeds_equals_a_slow_one(metric):
    from sacrebleu.metrics import BLEU, CHRF

    from kdrun.domains.translation.scores import sentence_statistics

    score = {"bleu": BLEU(), "chrf": CHRF()}[metric].corpus_score
    references = corpus()[1]
    students, controls = ([corpus(wrong=share)[0] for share in shares] for shares in ((0.3, 0.25), (0.4, 0.45)))

    def kept(system):
        return [{"id": n, "counts": row} for n, row in enumerate(sentence_statistics(system, references).tolist())]

    pairs = [(kept(one), kept(two)) for one, two in zip(students, controls, strict=True)]
    found = compared(pairs, kinds.find("translation").sums(pairs[0][0][0])[metric], draws=60, seed=3)

    def differences(rows):
        there = [references[row] for row in rows]
        told = (
            (score([lines[row] for row in rows], [there]).score for lines in pair)
            for pair in zip(students, controls, strict=True)
        )
        return [(one - two) / 100 for one, two in told]

    draw = np.random.default_rng(3)
    mean, error, degrees = slow_two_levels(
        differences(range(60)), [differences(draw.integers(60, size=60)) for _ in range(60)], 60
    )
    assert found["mean"] == pytest.approx(mean) and mean > 0
    assert found["error"] == pytest.approx(error) and found["degrees"] == pytest.approx(degrees)
    assert sum(found["interval"]) / 2 == pytest.approx(mean)
    assert (found["samples"], found["draws"], found["seeds"], found["method"]) == (60, 60, 2, TWO_LEVEL)


def rows(rights):
    return [{"id": number, "right": right} for number, right in enumerate(rights)]


def test_of_one_seed_it_is_the_bootstrap_over_samples_seeded_and_symmetric():
    bad, good = rows([0, 1] * 100), rows([1, 1, 1, 0] * 50)
    found = compared([(good, bad)], mean_of("right"), draws=200)
    assert found == compared([(good, bad)], mean_of("right"), draws=200)
    assert found != compared([(good, bad)], mean_of("right"), draws=200, seed=1)
    assert found["mean"] == pytest.approx(0.25) and found["interval"][0] > 0
    assert found["method"] == SAMPLES and "seeds" not in found
    back = compared([(bad, good)], mean_of("right"), draws=200)
    assert back["mean"] == -found["mean"] and back["p_value"] == found["p_value"]
    assert back["interval"] == pytest.approx([-bound for bound in found["interval"]][::-1])
    draw = np.random.default_rng(0)
    differences = np.asarray([1, 0, 1, -1] * 50)
    slow = [differences[draw.integers(200, size=200)].mean() for _ in range(200)]
    assert found["interval"] == pytest.approx(np.percentile(slow, [2.5, 97.5]).tolist())
    further = sum(abs(value - 0.25) >= 0.25 - 1e-10 for value in slow)
    assert found["p_value"] == pytest.approx((further + 1) / 201)


def test_a_system_does_not_differ_from_itself():
    for seeds in (1, 2):
        found = compared([(rows([0, 1]), rows([0, 1]))] * seeds, mean_of("right"), draws=50)
        assert (found["mean"], found["interval"], found["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="same samples"):
        compared([(rows([0, 1]), rows([0]))], mean_of("right"))


def test_without_chance_in_samples_it_is_students_t_over_seeds():
    observed = np.asarray([0.02, -0.005, 0.05, 0.01])
    found = two_levels(observed, np.tile(observed, (100, 1)), 500)
    over_seeds = difference_of(dict(enumerate(observed)), dict.fromkeys(range(4), 0.0))
    assert found["interval"] == pytest.approx(over_seeds.interval) and found["p_value"] == pytest.approx(
        over_seeds.p_value
    )
    assert found["degrees"] == pytest.approx(3)


def test_chance_in_samples_alone_is_that_of_the_bootstrap_over_samples():
    random = np.random.default_rng(1)
    draws = random.normal(0.02, 0.01, (20_000, 1)).repeat(3, axis=1)  # what seeds do not differ in
    found = two_levels(np.full(3, 0.02), draws, 400)
    assert found["error"] == pytest.approx(0.01, rel=0.02) and found["degrees"] == pytest.approx(399)


def test_what_is_kept_of_the_last_epoch_has_a_file_of_its_own():
    assert has_own_last({"val": {"epoch_best": 2, "epochs": 4}})
    assert not has_own_last({"val": {"epoch_best": 3, "epochs": 4}})
    assert not has_own_last({"val": {"epoch_best": None, "epochs": 0}})


def test_samples_come_back_as_they_were_kept(tmp_path):
    rows = [{"id": 1, "text": "a\u2028b \u00e4", "right": 1}, {"id": 4, "text": "", "right": 0}]
    write_samples(tmp_path, "test", rows)
    assert read_samples(tmp_path) == rows and read_samples(tmp_path, "shift") == [] == read_samples(tmp_path, last=True)
    write_samples(tmp_path, "test", rows[:1], last=True)
    assert read_samples(tmp_path) == rows and read_samples(tmp_path, last=True) == rows[:1]


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
    """(mean, error, degrees) of several seeds, (mean, interval, p) of one. scores: of rows, one for each side. Draws without a class
    are drawn again."""
    random, everything = np.random.default_rng(0), {row["target"] for row in pairs[0][0]}

    def difference(chosen):
        sides = [[score([side[n] for n in chosen]) for side, score in zip(pair, scores, strict=True)] for pair in pairs]
        return [one - two for one, two in sides]

    number, found = len(pairs[0][0]), []
    while len(found) < draws:
        chosen = random.integers(number, size=number)
        if {pairs[0][0][n]["target"] for n in chosen} == everything:
            found.append(difference(chosen))
    observed = difference(range(number))
    if len(pairs) > 1:
        return slow_two_levels(observed, found, number)
    (observed,), found = observed, [value for (value,) in found]
    further = sum(abs(value - observed) >= abs(observed) - 1e-10 for value in found)
    return observed, np.percentile(found, [2.5, 97.5]).tolist(), (further + 1) / (draws + 1)


def same(found, expected):
    names = ("mean", "error", "degrees") if "seeds" in found else ("mean", "interval", "p_value")
    for name, value in zip(names, expected, strict=True):
        assert found[name] == pytest.approx(value, abs=1e-12), name


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
