import subprocess
import sys

import numpy as np
import pytest
import torch

from kdrun.federation.partition import SPLITS, corrupted, shares, shift
from kdrun.problems import UserError

SIZES = {"train": 1000, "val": 300, "test": 500}


def labels(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {split: generator.integers(0, 10, size) for split, size in SIZES.items()}


def real(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {split: generator.normal(size=size).astype(np.float32) for split, size in SIZES.items()}


def parts(found) -> dict[str, tuple[np.ndarray, ...]]:
    return {split: getattr(found, split) for split in SPLITS}


@pytest.mark.parametrize("made", [labels, real])
@pytest.mark.parametrize(("kind", "alpha"), [("label", 0.5), ("label", 5.0), ("iid", 1.0), ("quantity", 2.0)])
def test_every_sample_goes_to_exactly_one_client(made, kind, alpha):
    found = shares(made(), 5, kind, alpha, seed=3)
    assert len(found) == 5
    for split, own in parts(found).items():
        assert np.array_equal(np.sort(np.concatenate(own)), np.arange(SIZES[split]))
        assert all(rows.dtype == np.int64 and (np.diff(rows) > 0).all() for rows in own)
        assert min(map(len, own)) >= (8 if split == "train" else 1)


def test_labels_have_the_same_proportions_in_all_splits():
    """Against counting by hand: each client's number of each class is its share in training, give or take one sample."""
    targets = labels()
    found = parts(shares(targets, 4, "label", 0.5, seed=0))
    for label in range(10):
        share = np.array([(targets["train"][rows] == label).mean() * len(rows) for rows in found["train"]])
        share /= (targets["train"] == label).sum()
        for split in ("val", "test"):
            number = (targets[split] == label).sum()
            for client, rows in enumerate(found[split]):
                slack = 1 + number / (targets["train"] == label).sum()
                assert abs((targets[split][rows] == label).sum() - share[client] * number) <= slack


def test_a_smaller_alpha_is_further_from_uniform():
    def distance(alpha: float) -> float:
        targets = labels()
        own = [
            np.bincount(targets["train"][rows], minlength=10) for rows in shares(targets, 5, "label", alpha, 1).train
        ]
        return float(np.mean([np.abs(count / count.sum() - 0.1).sum() for count in own]))

    assert distance(0.1) > distance(1.0) > distance(100.0)
    targets = labels()
    own = [np.bincount(targets["train"][rows], minlength=10) for rows in shares(targets, 5, "iid", 0.1, 1).train]
    assert all(count.sum() == 200 and count.min() > 5 for count in own)


def test_real_targets_are_dealt_by_their_quantiles():
    targets = real()
    found = shares(targets, 5, "label", 0.2, seed=0)
    means = [[targets[split][rows].mean() for rows in own] for split, own in parts(found).items()]
    assert np.ptp(means[0]) > 0.5  # clients differ
    assert np.corrcoef(means[0], means[2])[0, 1] > 0.9  # and in test as in training


def test_quantity_differs_in_size_alone():
    targets = labels()
    found = shares(targets, 5, "quantity", 1.0, seed=2)
    assert np.ptp([len(rows) for rows in found.train]) > 50
    largest = max(found.train, key=len)
    assert np.abs(np.bincount(targets["train"][largest], minlength=10) / len(largest) - 0.1).max() < 0.05


def test_the_same_seed_gives_the_same_shares_and_another_does_not():
    def flat(seed: int):
        found = parts(shares(labels(), 5, "label", 0.3, seed))
        return [rows.tolist() for own in found.values() for rows in own]

    assert flat(0) == flat(0) != flat(1)
    code = (
        "import sys, numpy as np; from kdrun.federation.partition import shares; "
        "y = {s: np.arange(n) % 10 for s, n in (('train', 400), ('val', 100), ('test', 100))}; "
        "print(sum(int(r.sum()) * (i + 1) for i, r in enumerate(shares(y, 4, 'label', 0.5, 7).train)), 'torch' in sys.modules)"
    )
    printed = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(printed) == 1 and printed.pop().split()[1] == "False"


def test_a_client_has_enough_of_every_split_where_that_is_rare():
    found = shares(labels(), 10, "label", 0.1, seed=5)
    assert min(map(len, found.train)) >= 8 and min(map(len, found.val)) >= 1 and min(map(len, found.test)) >= 1


def test_what_is_impossible_is_said():
    with pytest.raises(UserError, match=r"alpha=0.001 with clients=60: in 10,000 draws") as caught:
        shares(labels(), 60, "label", 0.001, seed=0)
    assert "larger alpha or fewer clients" in caught.value.lines[1]
    with pytest.raises(UserError, match="clients=200: 1000 train samples are too few for 8 of each client") as caught:
        shares({**labels(), "val": labels()["val"][:30]}, 200, "iid", 1.0, seed=0)
    assert caught.value.lines[1] == "at most 30 clients", "of all splits"
    with pytest.raises(UserError, match="closest: label"):
        shares(labels(), 5, "lable", 1.0, seed=0)
    for wrong in ({"clients": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"minimum": 0}):
        with pytest.raises(UserError, match="above 0"):
            shares(**{"targets": labels(), "clients": 5, "kind": "label", "alpha": 1.0, "seed": 0, **wrong})


def images(dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 2, 5, 7)).astype(dtype)


def test_no_strength_is_the_identity():
    made = images()
    assert shift(made, 3, 10, 0.0) is made
    assert torch.equal(shift(torch.from_numpy(made), 3, 10, 0), torch.from_numpy(made))


@pytest.mark.parametrize("client", range(4))
def test_a_shift_is_its_formula(client):
    """Pixel by pixel in plain Python, but for the texture, which is what an image of zeros shows."""
    made, s, a = images(), 0.8, 2 * np.pi * client / 4
    found = shift(made, client, 4, s)
    assert found.dtype == np.float32
    rest = shift(np.zeros_like(made), client, 4, s)[0]
    for sample, channel, row, column in ((0, 0, 0, 0), (1, 1, 4, 6), (5, 0, 2, 3), (2, 1, 0, 5)):
        near = [
            made[sample, channel, min(max(row + i, 0), 4), min(max(column + j, 0), 6)]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        ]
        b = s / 2 if client % 2 else 0
        seen = (1 - b) * made[sample, channel, row, column] + b * sum(near) / 9
        expected = np.exp(s / 2 * np.cos(a)) * seen + rest[channel, row, column]
        assert found[sample, channel, row, column] == pytest.approx(expected, abs=1e-5)
    assert rest.mean() == pytest.approx(s / 2 * np.sin(a), abs=0.1)
    assert rest.std() == pytest.approx(s / 4, rel=0.25)


def test_a_shift_depends_on_the_client_and_on_no_other_sample():
    made = images()
    whole = [shift(made, client, 5, 1.0) for client in range(5)]
    assert all(np.array_equal(shift(made[2:4], client, 5, 1.0), whole[client][2:4]) for client in range(5))
    assert min(np.abs(one - other).mean() for i, one in enumerate(whole) for other in whole[:i]) > 0.1
    weak, strong = (np.abs(shift(made, 2, 5, s) - made).mean() for s in (0.1, 1.0))
    assert weak < strong


def test_tensors_stay_tensors_and_rows_of_a_table_are_shifted_too():
    rows = torch.from_numpy(images().reshape(6, -1))
    found = shift(rows, 1, 3, 0.5)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32 and found.shape == rows.shape
    assert np.array_equal(found.numpy(), shift(rows.numpy(), 1, 3, 0.5)) and not torch.equal(found, rows)
    with pytest.raises(ValueError, match="client 3 of 3"):
        shift(rows, 3, 3, 0.5)


def test_corrupted_labels_are_wrong_and_the_others_are_right():
    targets = labels()["train"]
    before = targets.copy()
    found, flipped = corrupted(targets, 10, 0.3, seed=1)
    assert np.array_equal(targets, before) and found.dtype == np.int64
    assert flipped.sum() == 300 and np.array_equal(found != targets, flipped)
    assert found.min() >= 0 and found.max() <= 9
    counts = np.bincount((found - targets)[flipped] % 10, minlength=10)
    assert counts[0] == 0 and counts[1:].min() > 15  # any other class


def test_more_corruption_has_the_same_and_further_labels():
    targets = labels()["train"]
    less, more = corrupted(targets, 10, 0.1, seed=1), corrupted(targets, 10, 0.4, seed=1)
    assert more[1][less[1]].all() and np.array_equal(less[0][less[1]], more[0][less[1]])
    assert np.array_equal(corrupted(targets, 10, 0.1, 1)[0], less[0])
    assert not np.array_equal(corrupted(targets, 10, 0.1, 2)[1], less[1])
    assert not corrupted(targets, 10, 0.0, 1)[1].any() and corrupted(targets, 10, 1.0, 1)[1].all()
    assert np.array_equal(corrupted(np.array([0, 1]), 2, 1.0, 0)[0], [1, 0])


@pytest.mark.parametrize(("classes", "fraction"), [(1, 0.5), (10, -0.1), (10, 1.1), (10, float("nan"))])
def test_what_cannot_be_corrupted(classes, fraction):
    with pytest.raises(ValueError, match="cannot be corrupted"):
        corrupted(np.zeros(4, np.int64), classes, fraction, 0)
