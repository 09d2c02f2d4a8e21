import numpy as np
import pytest

from kdrun.data.audit import audit
from kdrun.domains.ct.shipped.ct_synthetic import AMONG, CohortPlan, band, ct_synthetic, scan
from kdrun.domains.ct.windows import WINDOWS, window, windows
from kdrun.problems import UserError

SMALL = {"train": 10, "val": 4, "test": 6}


def twins(signal, person, **changes):
    """The same patient without and with the disease."""
    low, high = band(window(signal), windows(AMONG))
    plan = CohortPlan(
        **{"low": low, "high": high, "depth": 16, "size": 32, "strength": 1.5, "echo": 0.0, "seed": 0, **changes}
    )
    return scan(plan, person, 0), scan(plan, person, 1)


@pytest.mark.parametrize("signal", ["lung", "bone"])
@pytest.mark.parametrize("strength", [0.5, 1.5, 4.0])
def test_one_window_shows_the_disease_and_the_others_show_nothing(signal, strength):
    for person in range(40):
        healthy, diseased = twins(signal, person, strength=strength)
        assert (healthy != diseased).sum() > 30
        for name in AMONG:
            same = np.array_equal(WINDOWS[name].apply(healthy), WINDOWS[name].apply(diseased))
            assert same == (name != signal)


def test_the_echo_is_in_all_windows():
    healthy, diseased = twins("lung", 3, echo=8.0)
    for name in AMONG:
        assert not np.array_equal(WINDOWS[name].apply(healthy), WINDOWS[name].apply(diseased))
    soft = WINDOWS["mediastinal"]
    changed = soft.apply(diseased) - soft.apply(healthy)
    assert np.allclose(changed[changed != 0], 16 / 350, atol=2 / 350)


def test_nothing_but_the_sign_tells_the_classes_apart():
    """Size, place and number of lesions are the same; so is the mean of an organ, but for patients that differ more."""
    levels, shifts = [], []
    for person in range(30):
        healthy, diseased = twins("lung", person)
        organ = (healthy < -250) & (healthy > -1020)
        levels.append(healthy[organ].mean())
        shifts.append(diseased[organ].mean() - healthy[organ].mean())
    assert np.std(levels) > 2 * np.mean(shifts) > 0


def test_the_signal_is_learnable():
    """The third moment of an organ's voxels is positive with dense lesions, negative with others."""
    scans = ct_synthetic("lung", train=60, val=2, test=2)
    x = scans.x[scans.split == 0, 0]
    organ = (x > 0.22) & (x < 0.73)
    third = [((sample[inside] - sample[inside].mean()) ** 3).mean() for sample, inside in zip(x, organ, strict=True)]
    scores = {label: np.array(third)[scans.y[scans.split == 0] == label] for label in (0, 1)}
    area = (scores[1][:, None] > scores[0][None]).mean()
    assert area > 0.8


def test_what_it_returns():
    scans = ct_synthetic(**SMALL, scans=2)
    assert scans.x.shape == (40, 3, 16, 32, 32) and scans.x.dtype == np.float32
    assert scans.views == AMONG and scans.classes == ("healthy", "diseased")
    assert [np.bincount(scans.y[scans.split == part]).tolist() for part in (0, 1, 2)] == [[10, 10], [4, 4], [6, 6]]
    assert len(set(scans.groups)) == 20
    scans.check_split(scans.split)
    assert audit(scans, scans.split)["summary"] == "no sample is in two splits"
    same = [row for row, patient in enumerate(scans.groups) if patient == scans.groups[0]]
    assert len(same) == 2 and len({int(scans.y[row]) for row in same}) == 1
    assert not np.array_equal(scans.x[same[0]], scans.x[same[1]])


def test_deterministic_and_stable_under_growth():
    first, more = ct_synthetic(**SMALL), ct_synthetic(**{**SMALL, "train": 14, "test": 8})
    assert first.source_hash == ct_synthetic(**SMALL).source_hash
    assert first.source_hash != ct_synthetic(**SMALL, seed=1).source_hash
    kept = np.isin(more.ids, first.ids)
    assert np.array_equal(more.x[kept], first.x) and kept.sum() == len(first)


def test_the_same_bits_everywhere():
    healthy, diseased = twins("lung", 0)
    assert (int(healthy.sum()), int(diseased.sum())) == (-9160664, -9129011)


def test_a_shared_patient_is_refused():
    scans = ct_synthetic(**SMALL, scans=2)
    split = scans.split.copy()
    split[0] = -1
    scans.check_split(split)
    split[0] = 2
    with pytest.raises(UserError, match="1 of its patients in two splits: patient-0000000 in test and train"):
        scans.check_split(split)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signal": "mediastinal"}, "show nearly all"),
        ({"signal": "hrct"}, "not one of data.among"),
        ({"signal": "lung", "among": ["lung", "hrct"]}, "show nearly all"),
        ({"train": 1}, "data.train=1"),
        ({"scans": 9}, "data.scans=9"),
        ({"depth": 2}, "data.depth=2"),
        ({"echo": 100.0}, "data.echo=100"),
        ({"window": "lungs"}, "closest: lung"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(UserError, match=said):
        ct_synthetic(**{**SMALL, **options})
