import math

import pytest

from kdrun.federation.effects import deltas


def slow_percentile(values: list[float], percent: float) -> float:
    values = sorted(values)
    place = percent / 100 * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def test_deltas_by_hand():
    method = {client: 0.5 + 0.05 * client for client in range(10)}
    local = {client: 0.6 for client in range(10)}
    found = deltas(method, local)
    expected = [-0.1 + 0.05 * client for client in range(10)]
    assert list(found["per_client"].values()) == pytest.approx(expected)
    assert found["avg"] == pytest.approx(sum(expected) / 10) and found["worst"] == pytest.approx(-0.1)
    assert found["p10"] == pytest.approx(slow_percentile(expected, 10)) == pytest.approx(-0.055)


def test_positive_is_good_for_errors_too():
    found = deltas({"a": 50.0, "b": 70.0}, {"a": 60.0, "b": 60.0}, "min")
    assert found["per_client"] == {"a": 10.0, "b": -10.0} and found["worst"] == -10.0 and found["avg"] == 0.0


def test_one_client_is_all_of_them():
    found = deltas({3: 0.75}, {3: 0.5})
    assert found == {"avg": 0.25, "worst": 0.25, "p10": 0.25, "per_client": {3: 0.25}}


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_client_without_a_result_is_not_known_and_hides_nothing(missing):
    found = deltas({0: 0.7, 1: missing}, {0: 0.5, 1: 0.5})
    assert found["per_client"][1] is None and found["per_client"][0] == pytest.approx(0.2)
    assert (found["avg"], found["worst"], found["p10"]) == (None, None, None)
    assert deltas({}, {}) == {"avg": None, "worst": None, "p10": None, "per_client": {}}


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="clients 1, 2 are in one"):
        deltas({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0})
    with pytest.raises(ValueError, match="max or min"):
        deltas({0: 1.0}, {0: 1.0}, "more")
