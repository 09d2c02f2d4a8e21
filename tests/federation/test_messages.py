"""Bytes that travel, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from kdrun.federation.messages import Broadcast, Update, form, refusal, size

ARRAYS = {
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a longer name": np.ones(5, np.float32),
    "count": np.array(3, np.int64),
}


def test_the_size_is_that_of_the_file_and_of_the_numbers():
    update = Update(ARRAYS, 17, {"loss": 0.25})
    assert size(update) == len(save(ARRAYS)) + len(json.dumps({"samples": 17, "loss": 0.25}))
    assert size(Broadcast(4, ARRAYS)) == len(save(ARRAYS)) + len('{"round": 4}')
    assert size(Update({}, 17, {"loss": 0.25})) == size(Broadcast(4)) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": None}, "count is missing"),
        ({"more": np.zeros(2)}, "more is not expected"),
        ({"layer.weight": np.zeros((3, 2), np.float32)}, r"layer.weight has the shape \(3, 2\), expected \(2, 3\)"),
        ({"layer.weight": np.zeros((2, 3))}, "layer.weight is float64, expected float32"),
        ({"a longer name": np.array([1, 2, np.nan, 4, 5], np.float32)}, "a longer name is not finite"),
        ({"a longer name": np.array([1, 2, np.inf, 4, 5], np.float32)}, "a longer name is not finite"),
    ],
)
def test_what_is_refused(change, said):
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    assert refusal(Update(ARRAYS, 3), form(ARRAYS)) is None
    with pytest.raises(AssertionError, match=said):
        assert not (found := refusal(Update(arrays, 3), form(ARRAYS))), found


def test_nobody_without_samples_counts():
    assert refusal(Update(ARRAYS, 0), form(ARRAYS)) == "it was learned from no samples"
    assert refusal(Update(ARRAYS, -1), form(ARRAYS)) == "samples is -1, expected a count"
