import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.data.splits import assign
from kdrun.domains.images.source import Images
from kdrun.domains.load import COMMON, load_data, separate
from kdrun.problems import UserError

PATHS = {"cache": "unused"}
DIGITS = {"_target_": "kdrun.domains.images.shipped.digits.digits"}


def images(labels, split=None):
    labels = np.asarray(labels, np.int64)
    return Images(
        x=np.zeros((len(labels), 1, 2, 2), np.uint8),
        y=labels,
        split=np.zeros(len(labels), np.int8) if split is None else np.asarray(split, np.int8),
        ids=np.arange(len(labels)),
        classes=tuple(map(str, range(int(labels.max()) + 1))),
        name="made",
        source_hash="0",
    )


def config(**changes):
    common = separate({})[1]
    return {**common, **changes}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=30, max_size=200), st.floats(0.05, 0.4), st.integers(0, 5))
def test_parts_are_disjoint_stratified_and_fixed(labels, fraction, seed):
    labels = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, *labels]
    made = images(labels)
    split = assign(made, config(val_fraction=fraction, test_fraction=0.2, split_seed=seed))
    assert np.array_equal(split, assign(made, config(val_fraction=fraction, test_fraction=0.2, split_seed=seed)))
    for label in range(5):
        members = split[made.y == label]
        test, rest = (members == 2).sum(), (members != 2).sum()
        assert test == max(round(len(members) * 0.2), 1)
        assert (members == 1).sum() == min(max(round(rest * fraction), 1), rest - 1)
        assert (members == 0).any()


def test_another_seed_is_another_split():
    made = images([0, 1] * 100)
    assert not np.array_equal(assign(made, config(split_seed=0)), assign(made, config(split_seed=1)))


def test_a_split_of_the_source_stays():
    made = images([0, 1] * 50, split=[0] * 60 + [2] * 40)
    split = assign(made, config())
    assert (split[60:] == 2).all() and set(split[:60].tolist()) == {0, 1}


def test_changing_validation_does_not_change_test():
    made = images([0, 1, 2] * 50)
    small, large = assign(made, config(val_fraction=0.1)), assign(made, config(val_fraction=0.4))
    assert np.array_equal(small == 2, large == 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(0, 3))
def test_limit_gives_exactly_so_many_in_proportion(limit, seed):
    made = images([0] * 100 + [1] * 50 + [2] * 7)
    limits = {"train": limit, "val": None, "test": None}
    split = assign(made, config(limit=limits, split_seed=seed))
    rows = split == 0
    assert rows.sum() == min(limit, (assign(made, config(split_seed=seed)) == 0).sum())
    if limit >= 3:
        assert set(made.y[rows].tolist()) == {0, 1, 2}
    if limit >= 20:
        share = (made.y[rows] == 0).sum() / rows.sum()
        assert abs(share - 100 / 157) < 0.1


def test_ids_do_not_depend_on_split_or_limit():
    whole = load_data(DIGITS, PATHS)
    part = load_data({**DIGITS, "split_seed": 3, "limit": {"train": 100}}, PATHS)
    assert len(part.train_ids) == 100
    pixels = {int(i): whole.images.x[i] for i in range(1797)}
    for position, sample in enumerate(part.train_ids.tolist()):
        again = (part.inputs(part.train_ids[position : position + 1])[0] * part.spec.std[0] + part.spec.mean[0]) * 255
        assert np.abs(again.numpy() - pixels[sample]).max() < 1e-2


def test_normalisation_is_that_of_training():
    module = load_data(DIGITS, PATHS)
    train = module.images.x[module.split == 0] / 255
    assert module.spec.mean[0] == pytest.approx(train.mean(), abs=1e-12)
    assert module.spec.std[0] == pytest.approx(train.std(), abs=1e-9)
    inputs = module.inputs(module.train_ids)
    assert abs(float(inputs.mean())) < 1e-4 and abs(float(inputs.std()) - 1) < 1e-3
    given_one = load_data({**DIGITS, "normalize": {"mean": [0.5], "std": [0.25]}}, PATHS)
    assert given_one.spec.mean == (0.5,) and given_one.spec.std == (0.25,)
    with pytest.raises(UserError, match=r"data\.normalize"):
        load_data({**DIGITS, "normalize": {"mean": [0.5, 0.5], "std": [1, 1]}}, PATHS)


def test_common_keys_do_not_reach_the_source():
    own, common = separate({**DIGITS, "val_fraction": 0.3, "limit": {"train": 5}})
    assert own == DIGITS
    assert common["limit"] == {"train": 5, "val": None, "test": None} and set(common) == set(COMMON)


def test_something_that_is_no_source_is_refused():
    with pytest.raises(UserError, match="is refused: not a source of data"):
        load_data({"_target_": "kdrun.files.dump_json", "value": 1}, PATHS)
