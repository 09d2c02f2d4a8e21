from itertools import pairwise

import numpy as np
import pytest

from kdrun.data.audit import audit
from kdrun.data.fetch import default_cache, find, needed
from kdrun.domains.ct.series import AIR, Volume
from kdrun.domains.ct.shipped import ct_patches as source
from kdrun.domains.ct.shipped.ct_patches import BLOCKS, OTHER, SIZE, TISSUES, ct_patches
from kdrun.domains.ct.shipped.volumes import shipped
from kdrun.domains.ct.windows import WINDOWS, windows
from kdrun.domains.load import load_data
from kdrun.problems import UserError

SMALL = {"train": 12, "val": 3, "test": 5}
SHAPE = (28, 40, 50)


def made_up(name):
    """(HU, organs): every voxel has HU of its own; each tissue has a band of rows in all slices. The other has no lung."""
    generator = np.random.default_rng(1 if name == "abdomen" else 2)
    hu = generator.integers(-1000, 1500, SHAPE).astype(np.int16)
    organ = np.zeros(SHAPE, np.uint8)
    for place, numbers in enumerate(TISSUES.values()):
        organ[:, 3 * place : 3 * place + 2, 5:45] = next(iter(numbers))
    if name == "other":
        organ[organ == 10] = 0
    return hu, organ


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of which only the names are looked at."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "example_ct.nii").write_bytes(b"x")
    monkeypatch.setattr(source, "shipped", lambda name, files: Volume(made_up(name)[0], (3.0, 3.0, 3.0)))
    monkeypatch.setattr(source, "organs", lambda name, files: made_up(name)[1])
    return folder


def load(root, **options):
    return ct_patches(**{**SMALL, **options}, root=root, cache=root.parent / "cache")


def test_a_patch_lies_around_a_voxel_of_its_class(root):
    hu_window = [1000, 6000]  # -2000..4000: one to one
    scans = load(root, window=hu_window)
    hu = np.rint(scans.x[:, 0].astype(float) * 6000 - 2000)
    for number, name in enumerate(("abdomen", "other")):
        volume, organ = made_up(name)
        rows = np.flatnonzero(scans.ids >> 32 == number)
        assert len(rows)
        for row in rows:
            plane, line, column = np.unravel_index(scans.ids[row] & 0xFFFFFFFF, SHAPE)
            assert organ[plane, line, column] in list(TISSUES.values())[scans.y[row]]
            for step in (-SIZE // 2, -1, 0, 7, SIZE // 2 - 1):
                inside = 0 <= line + step < SHAPE[1]
                expected = volume[plane, line + step, column] if inside else AIR
                assert hu[row, SIZE // 2 + step, SIZE // 2] == expected


def test_splits_are_blocks_of_slices_with_a_gap_between(root):
    scans = load(root)
    planes = (scans.ids & 0xFFFFFFFF) // (SHAPE[1] * SHAPE[2])
    inside = scans.ids >> 32 == 0
    parts = {part: set(planes[inside & (scans.split == part)].tolist()) for part in (0, 1, 2)}
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert min(abs(x - y) for x in parts[a] for y in parts[b]) >= 2
    scans.check_split(scans.split)
    for group in set(scans.groups):
        rows = [row for row, name in enumerate(scans.groups) if name == group]
        assert planes[rows].max() - planes[rows].min() < 6 or group.startswith("other")
    for one, next_one in pairwise(BLOCKS + BLOCKS):
        assert one == next_one or "." in (one, next_one)
    assert [np.bincount(scans.y[scans.split == part]).tolist() for part in (0, 1, 2)] == [[12] * 12, [3] * 12, [5] * 12]


def test_the_other_patient_is_in_no_split(root):
    scans = load(root)
    other = scans.further[OTHER]
    assert (scans.split[other] == -1).all() and len(other) == 11 * 5
    assert 0 not in scans.y[other]  # it has no lung
    assert {scans.groups[row].split(",")[0] for row in other} == {"other"}


def test_every_window_shows_the_same_patches_under_the_same_ids(root):
    whole = load(root, window="all")
    assert whole.views == tuple(WINDOWS) and whole.x.shape[1:] == (5, 32, 32)
    for place, name in enumerate(WINDOWS):
        one = load(root, window=name)
        assert np.array_equal(one.x[:, 0], whole.x[:, place]) and np.array_equal(one.ids, whole.ids)
        assert one.source_hash == whole.source_hash


def test_seed_and_sizes_decide_which(root):
    first = load(root)
    again = ct_patches(**SMALL, root=root, cache=root.parent / "another")
    assert np.array_equal(first.x, again.x) and first.source_hash == again.source_hash
    assert set(load(root, seed=1).ids.tolist()) != set(first.ids.tolist())
    more = load(root, train=20, test=8)
    assert set(first.ids.tolist()) < set(more.ids.tolist())


def test_kdrun_loads_them(root):
    config = {
        "_target_": "kdrun.domains.ct.shipped.ct_patches.ct_patches",
        "root": str(root),
        **SMALL,
        "window": ["lung", "bone"],
    }
    module = load_data(config, {"cache": str(root.parent / "cache")})
    assert module.spec.shape == (2, 32, 32)
    assert module.spec.sizes == {"train": 144, "val": 36, "test": 60, "other_patient": 55} and module.extra_tests == (
        "other_patient",
    )
    inputs = module.samples("train").inputs(module.samples("train").ids * 0)
    assert inputs.shape == (144, 2, 32, 32)
    assert module.audit()["summary"].startswith("no sample is in two splits")


def test_damage_is_mended_and_mistakes_are_told(root, tmp_path, caplog):
    first = load(root)
    path = next((tmp_path / "cache" / "decoded").glob("ct_patches-*")) / "hu.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert (load(root).x == first.x).all() and "is damaged; made again" in caplog.text
    with pytest.raises(UserError, match=r"data\.val=0"):
        load(root, val=0)
    with pytest.raises(UserError) as caught:
        ct_patches(cache=tmp_path / "empty")
    assert caught.value.lines == ["data=ct_patches needs a data set that is not here yet: kdrun fetch ct_patches"]


@pytest.fixture(scope="module")
def cache():
    """The real thing where it is in the cache, else a skip that says what would bring it."""
    folder = default_cache()
    if not find("ct_patches").present(folder):
        pytest.skip("needs: kdrun fetch ct_patches")
    return folder


@pytest.fixture(scope="module")
def files(cache):
    return needed("ct_patches", cache)


@pytest.mark.parametrize(
    ("patient", "shape", "spacing", "span"),
    [
        ("abdomen", (112, 101, 122), (3, 3, 3), (-1024, 3071)),
        ("angiography", (191, 167, 233), (1.5, 1.5, 1.5), (-1024, 3071)),
        ("chest_1", (48, 512, 512), (5, 0.5703125, 0.5703125), (-1024, 3071)),
        ("chest_2", (61, 512, 512), (5, 0.6269531, 0.6269531), (-1024, 1671)),
    ],
)
def test_patients_that_ship(files, patient, shape, spacing, span):
    volume = shipped(patient, files)
    assert volume.hu.shape == shape and np.allclose(volume.spacing, spacing, rtol=1e-4)
    assert (volume.hu.min(), volume.hu.max()) == span
    # Lying on the back: the table is below the patient, and the body is denser than what is above it.
    lower, upper = volume.hu[:, shape[1] // 2 :], volume.hu[:, : shape[1] // 4]
    assert lower.mean() > upper.mean()


def test_the_dicom_patient_fits_its_masks(files):
    pytest.importorskip("pydicom", reason="reads DICOM: pip install -e '.[medical]'")
    hu, organ = source._resized("other", files)
    assert hu.shape == organ.shape == (20, 167, 167)
    means = {tissue: hu[np.isin(organ, list(numbers))] for tissue, numbers in TISSUES.items()}
    assert abs(means["liver"].mean() - 89) < 2 and abs(means["aorta"].mean() - 173) < 5
    assert means["vertebra"].mean() > 200 and means["rib"].mean() > 200
    rows = np.flatnonzero((organ == 5).any(axis=(0, 2)))
    columns = np.flatnonzero((organ == 5).any(axis=(0, 1)))
    spleen = np.flatnonzero((organ == 1).any(axis=(0, 1)))
    assert columns.mean() < 83 < spleen.mean() and len(rows)  # the liver on the patient's right


def test_real_patches(cache):
    try:
        scans = ct_patches(window="all", cache=cache)
    except UserError as error:
        pytest.skip(error.lines[0])
    assert scans.x.shape == (7340, 5, 32, 32)
    assert [np.bincount(scans.y[scans.split == part]).tolist() for part in (0, 1, 2)] == [
        [350] * 12,
        [60] * 12,
        [110] * 12,
    ]
    other = scans.further[OTHER]
    missing = {"lung", "kidney"}
    present = {scans.classes[label] for label in np.unique(scans.y[other])}
    assert len(other) == 1100 and present == set(scans.classes) - missing
    assert audit(scans, scans.split)["summary"] == "no sample is in two splits"
    # HU tell tissues apart: lungs are air, ribs are bone.
    centre = scans.x[:, windows("all").index(WINDOWS["zero"]), 16, 16] * 1500 - 750
    by_class = {name: np.median(centre[scans.y == place]) for place, name in enumerate(scans.classes)}
    assert by_class["lung"] == -750 and 20 < by_class["liver"] < 110 and by_class["rib"] > 150
