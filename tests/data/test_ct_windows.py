from fractions import Fraction

import numpy as np
import pytest

from kdrun.domains.ct.windows import WINDOWS, Window, views, window, windows
from kdrun.problems import UserError

HU = np.arange(-1100, 3100, dtype=np.int16)


@pytest.mark.parametrize("chosen", [*WINDOWS.values(), Window("odd", 41, 351)], ids=lambda one: one.name)
def test_integer_hu_give_the_float_nearest_to_the_exact_quotient(chosen):
    low = Fraction(chosen.level) - Fraction(chosen.width) / 2
    exact = [min(max((int(hu) - low) / Fraction(chosen.width), Fraction(0)), Fraction(1)) for hu in HU]
    out = chosen.apply(HU)
    assert out.dtype == np.float32
    near = np.array([np.float32(value.numerator / value.denominator) for value in exact])
    assert np.array_equal(out, near)


def test_the_windows_of_the_paper():
    assert {name: (one.level, one.width) for name, one in WINDOWS.items()} == {
        "lung": (-600, 1500),
        "mediastinal": (20, 350),
        "hrct": (-600, 2000),
        "zero": (0, 1500),
        "bone": (250, 1000),
    }
    ends = WINDOWS["mediastinal"].apply(np.array([-156, -155, 20, 195, 196]))
    assert ends.tolist() == [0, 0, 0.5, 1, 1]


def test_names_pairs_and_lists():
    assert window("HRCT") is WINDOWS["hrct"]
    assert window([40, 400]) == Window("40/400", 40, 400)
    assert [one.name for one in windows([40, 400])] == ["40/400"]
    assert [one.name for one in windows([[40, 400], "lung"])] == ["40/400", "lung"]
    assert [one.name for one in windows(["lung", "bone"])] == ["lung", "bone"]
    assert windows("all") == tuple(WINDOWS.values())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("lungs", "closest: lung"),
        ([40, 0], "width is above 0"),
        ([40, float("nan")], "finite"),
        ([], "at least one"),
        (["lung", "lung"], "none twice"),
        ([1, 2, 3], "expected the name"),
        (7, "expected the name"),
        ([True, 400], "expected the name"),
    ],
)
def test_what_is_no_window_is_told(given, said):
    with pytest.raises(UserError, match=said):
        windows(given)


def test_views_are_of_the_same_voxels():
    hu = np.random.default_rng(0).integers(-1024, 2000, (3, 4, 5, 6)).astype(np.int16)
    chosen = windows("all")
    stacked = views(hu, chosen)
    assert stacked.shape == (3, 5, 4, 5, 6)
    for place, one in enumerate(chosen):
        assert np.array_equal(stacked[:, place], one.apply(hu))


def test_windows_need_no_torch():
    import subprocess
    import sys

    code = "import sys, kdrun.domains.ct.windows, kdrun.domains.ct.shipped.ct_patches, kdrun.domains.ct.ct_folder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
