"""A cohort of NIfTI files, and one of DICOM series where pydicom is installed."""

import importlib.util
import stat

import numpy as np
import pytest
from ct_support import body, write_nifti, write_series

from kdrun.domains.ct.ct_folder import ct_folder, cut, uniform
from kdrun.domains.ct.labels import codes
from kdrun.domains.ct.series import Unusable, Volume
from kdrun.domains.ct.windows import windows
from kdrun.problems import UserError

AFFINE = np.array([[-3.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
SMALL = {"slices": 3, "size": 8, "fraction": [0.0, 1.0]}
NAMES = ("DOE-1", "DOE-2", "DOE-3", "DOE-4")


def write(path, seed):
    write_nifti(path, np.ascontiguousarray(body(seed=seed).transpose(2, 1, 0)), AFFINE)


@pytest.fixture
def cohort(tmp_path):
    root = tmp_path / "cohort"
    root.mkdir()
    for seed, name in enumerate(NAMES):
        write(root / f"{name}.nii.gz", seed)
    (root / "labels.csv").write_text("patient,label\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(NAMES)))
    return root


def load(root, **options):
    return ct_folder(root, **{**SMALL, **options}, cache=root.parent / "cache")


def told(root, **options):
    with pytest.raises(UserError) as caught:
        load(root, **options)
    text = "\n".join(caught.value.lines)
    assert "DOE" not in text
    return text


def test_every_window_shows_the_same_voxels(cohort):
    scans = load(cohort)
    assert scans.x.shape == (4, 5, 3, 8, 8) and scans.x.dtype == np.uint8
    assert scans.views == ("lung", "mediastinal", "hrct", "zero", "bone") and scans.classes == ("0", "1")
    assert scans.y.tolist() == [0, 1, 0, 1] and scans.ids.tolist() == [0, 1, 2, 3]
    for place, name in enumerate(scans.views):
        assert np.array_equal(load(cohort, window=name).x[:, 0], scans.x[:, place])
    assert np.array_equal(load(cohort, window=["bone", "lung"]).x, scans.x[:, [4, 0]])


def test_windows_are_cut_before_resizing():
    """Half air, half bone: a window that is cut afterwards would see the mean of both, in the middle of its range."""
    hu = np.full((1, 2, 2), -1000, np.int16)
    hu[:, :, 1] = 1000
    soft = windows([[40, 400]])
    assert cut(Volume(hu, (1, 1, 1)), soft, 1, None).reshape(-1).tolist() == [128]
    hu[:, :, 1] = 300  # their mean is -350, which the window shows as 0
    assert cut(Volume(hu, (1, 1, 1)), soft, 1, None).reshape(-1).tolist() == [128]


def test_spacing_keeps_the_middle_and_puts_air_around():
    hu = np.full((1, 10, 10), 40, np.int16)
    out = cut(Volume(hu, (1, 2.0, 1.0)), windows([[40, 400], "hrct"]), 20, 1.0)
    assert out.shape == (2, 1, 20, 20)
    assert (out[0, 0, :, 5:15] == 128).all() and (out[0, 0, :, :5] == 0).all()
    assert (out[1, 0, :, :5] == np.rint(576 / 2000 * 255)).all()  # air is no black in this window


def test_slices_are_spread_evenly():
    assert uniform(101, 5, 0.4, 0.9).tolist() == [40, 53, 65, 78, 90]
    assert uniform(10, 10, 0, 1).tolist() == list(range(10))
    assert uniform(11, 1, 0, 1).tolist() == [5]
    with pytest.raises(Unusable, match="5 of its 10 slices"):
        uniform(10, 6, 0.4, 0.9)


def test_scans_without_labels_and_the_reverse(cohort):
    write(cohort / "DOE-9.nii.gz", 9)
    (cohort / "DOE-3.nii.gz").unlink()
    text = told(cohort)
    assert "1 labels without a scan: line 4 (patient-" in text and "1 scans without a label: 1 NIfTI files" in text
    scans = load(cohort, incomplete="leave_out")
    assert scans.ids.tolist() == [0, 1, 3]  # ids stay


def test_scans_that_cannot_be_used_are_told_together(cohort):
    (cohort / "DOE-1.nii.gz").write_bytes(b"no gzip")
    write_nifti(cohort / "DOE-2.nii.gz", np.full((14, 10, 12), 40, np.int16), AFFINE)
    text = told(cohort)
    assert "2 problems" in text or "3 problems" in text
    assert "line 2 (patient-" in text and "line 3 (patient-" in text and "Hounsfield" in text
    scans = load(cohort, incomplete="leave_out")
    assert scans.ids.tolist() == [2, 3] and len(scans.unreadable) == 2
    assert all(name.startswith("patient-") for name in scans.unreadable)


def test_a_patient_in_two_splits_is_refused(cohort):
    (cohort / "labels.csv").write_text(
        "patient,label,split,path\nDOE-1,0,train,DOE-1.nii.gz\nDOE-1,0,test,DOE-2.nii.gz\nDOE-3,1,val,DOE-3.nii.gz\n"
    )
    assert "in two splits" in told(cohort, incomplete="leave_out")


def test_scans_of_a_patient_need_a_split(cohort):
    table = "patient,label,path\n" + "".join(f"DOE-{1 + i // 2},1,{name}.nii.gz\n" for i, name in enumerate(NAMES))
    (cohort / "labels.csv").write_text(table)
    assert "several scans" in told(cohort)
    split = table.replace(",path", ",split,path").replace(",1,", ",1,train,")
    (cohort / "labels.csv").write_text(split)
    scans = load(cohort)
    assert len(set(scans.groups)) == 2 and scans.split.tolist() == [0] * 4


def test_a_scan_under_two_names_is_refused(cohort):
    write(cohort / "DOE-2.nii.gz", 0)
    assert "under several names: line 2 (patient-" in told(cohort)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("patients,label\nDOE-1,0\n", "no column patient; closest: patients"),
        ("patient,diagnosis\nDOE-1,0\n", "no column label"),
        ("patient,label\nDOE-1,\n", "line 2: no label"),
        ("patient,label,split\nDOE-1,0,holdout\n", "line 2: split is 'holdout'"),
        ("patient,label,path\nDOE-1,0,/etc\n", "below data.root"),
        ("patient,label\n../DOE-1,0\n", "below data.root"),
        ("patient,label\nDOE-1,0\n\nDOE-1,0\n", "lines 2, 4 are about the same scan"),
        ("patient,label\n", "no lines"),
    ],
)
def test_what_is_wrong_with_labels_is_told(cohort, table, said):
    (cohort / "labels.csv").write_text(table)
    assert said in told(cohort, incomplete="leave_out")


def test_labels_of_a_spreadsheet(cohort):
    text = "\ufeffPatient; Label ;Split\r\n" + "".join(
        f"{n};copd;{p}\r\n" for n, p in zip(NAMES, ("train", "Val", "test", "train"), strict=True)
    )
    (cohort / "labels.csv").write_text(text, encoding="utf-8")
    scans = load(cohort)
    assert scans.split.tolist() == [0, 1, 2, 0] and scans.classes == ("copd",)


def test_nothing_that_is_kept_names_a_patient(cohort):
    scans = load(cohort)
    cache = cohort.parent / "cache"
    assert stat.S_IMODE((cache / "patient_key").stat().st_mode) == 0o600
    said = f"{scans.groups} {scans.name} {scans.source_hash} {scans.describe(0)}"
    for path in cache.rglob("*"):
        said += path.name + (path.read_bytes().decode("latin1") if path.is_file() else "")
    assert "DOE" not in said
    assert [codes(cohort / "labels.csv", cache)[patient] for patient in scans.groups] == list(NAMES)
    other = ct_folder(cohort, **SMALL, cache=cohort.parent / "elsewhere")
    assert set(other.groups).isdisjoint(scans.groups)  # another key
    assert other.source_hash == scans.source_hash


def test_the_cache_is_used_and_checked(cohort, monkeypatch, caplog):
    first = load(cohort)
    assert isinstance(first.x, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr("kdrun.domains.ct.ct_folder.read_volume", None)
        assert np.array_equal(load(cohort).x, first.x)
    whole = np.array(first.x)
    path = next((cohort.parent / "cache" / "decoded").glob("ct_folder-*")) / "pixels.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert np.array_equal(load(cohort).x, whole) and "is damaged; made again" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slices": 0}, "data.slices=0"),
        ({"size": 1.5}, "data.size=1.5"),
        ({"fraction": [0.9, 0.4]}, "data.fraction"),
        ({"spacing": 0.0}, "data.spacing"),
        ({"incomplete": "skip"}, "data.incomplete=skip"),
        ({"window": "lungs"}, "closest: lung"),
        ({"labels": "none.csv"}, "no such file"),
        ({"slices": 20}, "fewer with data.slices"),
    ],
)
def test_options_are_checked(cohort, options, said):
    assert said in told(cohort, **options)


@pytest.mark.skipif(importlib.util.find_spec("pydicom") is None, reason="reads DICOM: pip install -e '.[medical]'")
def test_dicom_series_and_patients_that_are_the_same_inside(cohort):
    for seed, name in enumerate(NAMES):
        (cohort / f"{name}.nii.gz").unlink()
        write_series(cohort / name, body(seed=seed), patient=f"JANE-{seed}")
    scans = load(cohort, slices=12)
    expected = cut(Volume(body(seed=2), (5, 2, 3)), windows("all"), 8, None)
    assert np.array_equal(scans.x[2], expected)
    write_series(cohort / "DOE-2", body(seed=1), patient="JANE-0")
    assert "several scans" in told(cohort)
    rows = zip(NAMES, ("train", "test", "val", "train"), strict=True)
    (cohort / "labels.csv").write_text("patient,label,split\n" + "".join(f"{n},0,{part}\n" for n, part in rows))
    assert "in two splits" in told(cohort)
    for seed, name in enumerate(NAMES):
        write_series(cohort / name, body(seed=seed), patient="ANON")
    assert load(cohort).split.tolist() == [0, 2, 1, 0]  # a word that all share says nothing
    write_series(cohort / "DOE-4", body(seed=3), patient="ANON", modality="MR")
    assert "modality is MR" in told(cohort)


def test_scans_without_labels_are_read_as_those_of_the_cohort(cohort):
    """A patient is called by the same code, so that nobody is in training without a label and in test with one."""
    labelled = load(cohort)
    plain = ct_folder(cohort, **SMALL, labels=None, cache=cohort.parent / "cache")
    assert set(plain.groups) >= set(labelled.groups) and set(plain.y.tolist()) == {0}
    first = plain.groups.index(labelled.groups[0])
    assert np.array_equal(plain.x[first], labelled.x[0]) and plain.views == labelled.views
    with pytest.raises(UserError, match="holds no folders of DICOM files"):
        (cohort.parent / "none").mkdir()
        ct_folder(cohort.parent / "none", **SMALL, labels=None, cache=cohort.parent / "cache")


def test_what_is_read_of_a_path_has_the_shape_of_the_cohort():
    from kdrun.domains.ct.domain import DOMAIN

    data = {"_target_": "kdrun.domains.ct.ct_folder.ct_folder", "root": "a", "labels": "b.csv", "size": 8, "slices": 3}
    assert DOMAIN.reads_unlabelled(data) == {"_target_": data["_target_"], "labels": None, "size": 8, "slices": 3}
    images = DOMAIN.reads_unlabelled({"_target_": "kdrun.domains.images.shipped.digits.digits"})
    assert images["_target_"].endswith("unlabelled_images")
