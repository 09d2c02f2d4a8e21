"""Clusters of clients against what is obviously right: pairs counted by hand, divisions that are known."""

import itertools

import numpy as np
import pytest
from test_looks import script

from kdrun.federation import clusters, predictions
from kdrun.federation.messages import Update, size
from kdrun.federation.methods.clusters import collapsed, combined, most_common


def people(groups, spread=0.02, seed=0, samples=30, classes=6):
    """Probabilities [n, samples, classes] of clients of these groups: those of a group differ by little."""
    generator = np.random.default_rng(seed)
    centres = generator.dirichlet(np.full(classes, 0.3), (max(groups) + 1, samples))
    rows = np.stack([centres[group] + spread * generator.random((samples, classes)) for group in groups])
    return (rows / rows.sum(axis=2, keepdims=True)).astype(np.float32)


GROUPS = [0, 0, 1, 2, 1, 2, 2]


@pytest.mark.parametrize("rule", ["gap", "kmeans"])
def test_groups_that_are_there_are_seen_without_being_told(rule):
    assert clusters.cluster(people(GROUPS), rule).tolist() == GROUPS
    assert clusters.cluster(people([0, 1, 0]), "gap").tolist() == [0, 1, 0]


def test_distances_are_root_mean_squares():
    rows = people([0, 1, 1])
    found = clusters.distances(rows)
    for one, other in itertools.product(range(3), repeat=2):
        by_hand = (sum(((a - b) ** 2).sum() for a, b in zip(rows[one], rows[other], strict=True)) / 30) ** 0.5
        assert found[one, other] == pytest.approx(by_hand, abs=1e-6)
    sure = np.eye(2, dtype=np.float32)[:, None]
    assert clusters.distances(sure)[0, 1] == pytest.approx(2**0.5)


@pytest.mark.parametrize("rule", ["gap", "kmeans", "greedy", "one"])
def test_identical_clients_are_one_cluster(rule):
    alike = np.repeat(people([0]), 5, axis=0)
    assert clusters.cluster(alike, rule, threshold=1e-6 if rule == "greedy" else None).tolist() == [0] * 5


def test_a_threshold_of_0_makes_singletons_and_a_large_one_a_single_cluster():
    rows = people(GROUPS)
    assert clusters.cluster(rows, "greedy", threshold=0.0).tolist() == list(range(7))
    assert clusters.cluster(rows, "greedy", threshold=2.0).tolist() == [0] * 7


def test_greedy_takes_the_client_with_most_neighbours_first():
    # On a line: 1 has both neighbours, so that 0 and 2 go with it although 2 is as near to 3.
    places = np.array([0.0, 1.0, 2.0, 3.0, 9.0])
    assert clusters.greedy(np.abs(places[:, None] - places), 1.0).tolist() == [0, 0, 0, 1, 2]


def test_known_and_few():
    assert clusters.cluster(people([0, 1, 2]), "known", groups=[4, 2, 4]).tolist() == [0, 1, 0]
    for rule in ("gap", "kmeans"):
        assert clusters.cluster(people([0]), rule).tolist() == [0]
        assert clusters.cluster(people([0, 1]), rule).tolist() == [0, 0]


def test_agreement_against_counting_pairs():
    generator = np.random.default_rng(1)
    for _ in range(20):
        a, b = generator.integers(0, 3, 12), generator.integers(0, 4, 12)
        pairs = list(itertools.combinations(range(12), 2))
        both, in_a, in_b = (
            sum(bool(same(i, j)) for i, j in pairs)
            for same in (
                lambda i, j: a[i] == a[j] and b[i] == b[j],  # noqa: B023
                lambda i, j: a[i] == a[j],  # noqa: B023
                lambda i, j: b[i] == b[j],  # noqa: B023
            )
        )
        chance = in_a * in_b / len(pairs)
        assert clusters.agreement(a, b) == pytest.approx((both - chance) / ((in_a + in_b) / 2 - chance))
    assert clusters.agreement([0, 0, 1], [5, 5, 2]) == 1.0


def test_targets_by_mean_median_and_confidence():
    rows = np.array([[[0.6, 0.4], [0.5, 0.5]], [[0.2, 0.8], [0.9, 0.1]], [[0.7, 0.3], [0.4, 0.6]]], np.float32)
    np.testing.assert_allclose(combined(rows, "mean"), [[0.5, 0.5], [0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(combined(rows, "median"), [[0.6, 0.4], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(combined(rows, "confident"), [[0.2, 0.8], [0.9, 0.1]])
    for how in ("mean", "median", "confident"):
        np.testing.assert_allclose(combined(people([0, 1, 2]), how).sum(axis=1), 1, rtol=1e-5)


def test_a_client_that_names_one_class_has_collapsed():
    assert collapsed(np.array([[0.6, 0.4], [0.9, 0.1]])) and not collapsed(np.array([[0.6, 0.4], [0.1, 0.9]]))
    assert most_common(np.array([-1, 2, 1, 2, -1, -1])) == 2 and most_common(np.array([-1])) == -1


def test_what_travels_is_read_back():
    rows = people([0], classes=6)[0]
    np.testing.assert_array_equal(predictions.decode(predictions.encode(rows, "float32", 3), 6), rows)
    np.testing.assert_allclose(predictions.decode(predictions.encode(rows, "float16", 3), 6), rows, atol=5e-4)
    top = predictions.decode(predictions.encode(rows, "top_k", 2), 6)
    for row, read in zip(rows, top, strict=True):
        largest = np.argsort(-row)[:2]
        np.testing.assert_allclose(read[largest], row[largest], atol=5e-4)
        others = np.delete(read, largest)
        np.testing.assert_allclose(others, (1 - row[largest].sum()) / 4, atol=5e-4)
    whole = predictions.decode(predictions.encode(rows, "top_k", 6), 6)
    np.testing.assert_allclose(whole, rows, atol=5e-4)


def test_bytes_by_encoding_are_those_of_the_messages():
    found = predictions.sizes(200, 10, 3)
    for encoding, per_row in (("float32", 40), ("float16", 20), ("top_k", 3 * 3)):
        rows = people([0], samples=200, classes=10)[0]
        assert found[encoding] == size(Update(predictions.encode(rows, encoding, 3)))
        assert 200 * per_row < found[encoding] < 200 * per_row + 300


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows * 3, "no probabilities"),
        (lambda rows: rows - 0.5, "no probabilities"),
        (lambda rows: rows * 0, "no probabilities"),
    ],
)
def test_what_is_no_prediction_is_refused(change, reason):
    rows = people([0])[0]
    assert predictions.unlikely(predictions.encode(rows, "float32", 3), 6) is None
    assert reason in predictions.unlikely({"predictions": change(rows)}, 6)


def test_classes_of_the_largest_are_looked_at():
    arrays = predictions.encode(people([0])[0], "top_k", 2)
    assert predictions.unlikely(arrays, 6) is None
    twice = {**arrays, "classes": np.zeros_like(arrays["classes"])}
    beyond = {**arrays, "classes": arrays["classes"] + np.uint8(6)}
    assert all("classes" in predictions.unlikely(wrong, 6) for wrong in (twice, beyond))


simulated = script("simulate_clusters").drawn


@pytest.mark.parametrize(("count", "groups"), [(8, 2), (10, 2), (25, 5), (100, 5)])
@pytest.mark.parametrize("alpha", [1, 100])
def test_the_gap_finds_groups_of_uneven_clients(count, groups, alpha):
    found = []
    for seed in range(4 if count < 100 else 2):
        rows, of = simulated(count, groups, alpha, seed)
        found.append(clusters.agreement(clusters.cluster(rows, "gap"), of))
    assert np.mean(found) > 0.95


@pytest.mark.parametrize("count", [10, 25])
def test_a_client_that_learned_otherwise_makes_no_group_of_all_others(count):
    for seed in range(4):
        rows, of = simulated(count, 2, 100, seed)
        rows[3] = np.eye(10)[[2]]
        labels, others = clusters.cluster(rows, "gap"), np.arange(count) != 3
        assert clusters.agreement(labels[others], of[others]) == 1.0


@pytest.mark.parametrize("alpha", [0.5, 1, 100])
def test_clients_without_groups_are_nearly_always_one_cluster(alpha):
    counts = [clusters.cluster(simulated(25, 1, alpha, seed)[0], "gap").max() + 1 for seed in range(8)]
    assert sum(count > 1 for count in counts) <= 1
