"""Differences of the points of a sweep are corrected for their number."""

import pytest
from plots.records import make_run, make_sweep

from kdrun.plots.subject import find_subject
from kdrun.report.sweep_page import _differences, configurations


def test_p_values_of_points_are_corrected_over_all_of_them(tmp_path):
    points = [([f"t={n}"], make_run(tmp_path, f"{n}a" * 32, shift=n / 100)) for n in (1, 2, 3)]
    for _, run in points:  # seeds that differ a little, so that p is no 0
        values = [0.02, 0.05, 0.03]
        found = run.record["summary"]["difference"]["best"]
        found.clear()
        found |= {
            "mean": 0.0333,
            "n": 3,
            "sd": 0.0153,
            "interval": [0.02, 0.05],
            "interval_t": [-0.01, 0.07],
            "values": values,
        }
        run.record["summary"].pop("differences")
    make_sweep(tmp_path, points)
    rows = configurations(find_subject(tmp_path, ["temperature-0badcafe"]))
    for row, (_, run) in zip(rows, points, strict=True):
        row.run.record["summary"] = run.record["summary"]
    found = _differences(rows)
    assert [one["comparisons"] for one in found.values()] == [3, 3, 3]
    assert all(one["p_holm"] == pytest.approx(3 * one["p_value"]) for one in found.values())
