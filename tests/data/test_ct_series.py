"""DICOM series. The files are written byte by byte, and pydicom reads them."""

import sys

import numpy as np
import pytest
from ct_support import UID, body, dicom, write_series

from kdrun.domains.ct.series import Unusable, read_volume
from kdrun.problems import UserError

pytest.importorskip("pydicom", reason="reads DICOM: pip install -e '.[medical]'")


def refused(folder):
    with pytest.raises(Unusable) as caught:
        read_volume(folder)
    text = str(caught.value)
    assert "JANE" not in text and "Doe" not in text and str(folder) not in text
    return text


def test_a_series_is_sorted_by_position_and_in_hu(tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu)
    volume = read_volume(tmp_path / "a")
    assert np.array_equal(volume.hu, hu) and volume.hu.dtype == np.int16
    assert volume.spacing == (5.0, 2.0, 3.0) and volume.patient == "JANE-42"


def test_slices_from_head_to_feet_and_in_folders_below(tmp_path):
    hu = body()
    write_series(tmp_path / "a" / "b", hu[::-1], start=5.0, step=-5.0)
    (tmp_path / "a" / "notes.txt").write_text("seen")
    assert np.array_equal(read_volume(tmp_path / "a").hu, hu)


def test_other_directions_in_the_plane(tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu[:, ::-1, ::-1], orientation="-1\\0\\0\\0\\-1\\0")
    assert np.array_equal(read_volume(tmp_path / "a").hu, hu)


def test_sagittal_slices_make_the_same_volume_but_none_can_be_chosen(tmp_path):
    hu = body()
    planes = hu[::-1].transpose(2, 0, 1)  # for each column: rows from the head down, then from front to back
    each = {"orientation": "0\\1\\0\\0\\0\\-1", "spacing": "5\\2"}
    write_series(tmp_path / "a", planes, each=lambda n: {"position": f"{3 * n}\\0\\0", **each})
    volume = read_volume(tmp_path / "a")
    assert np.array_equal(volume.hu, hu) and volume.spacing == (5.0, 2.0, 3.0)
    with pytest.raises(Unusable, match="not axial"):
        read_volume(tmp_path / "a", lambda count: np.arange(2))


def test_slope_and_intercept_of_each_slice(tmp_path):
    hu = body()
    # Stored as (hu + 1024) = value: slope 2 and another intercept on every second slice.
    write_series(tmp_path / "a", hu, each=lambda n: {"slope": "2", "intercept": "-1000"} if n % 2 else {})
    expected = hu.astype(float)
    expected[1::2] = (hu[1::2].astype(float) + 1024) * 2 - 1000
    assert np.array_equal(read_volume(tmp_path / "a").hu, np.clip(expected, -1024, 3071))


def test_only_chosen_slices_are_decoded(tmp_path, monkeypatch):
    import pydicom

    hu = body()
    write_series(tmp_path / "a", hu)
    read = []
    whole = pydicom.dcmread

    def counted(path, **options):
        if not options.get("stop_before_pixels"):
            read.append(path)
        return whole(path, **options)

    monkeypatch.setattr(pydicom, "dcmread", counted)
    volume = read_volume(tmp_path / "a", lambda count: np.array([1, count - 1]))
    assert np.array_equal(volume.hu, hu[[1, 11]]) and len(read) == 2
    assert read_volume(tmp_path / "a", lambda count: np.arange(0)) is None and len(read) == 2


def test_a_scout_is_passed_over(tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu)
    scout = dicom(
        np.zeros((4, 4), np.uint16), (0, 0, 0), 99, series=UID + "8", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"
    )
    (tmp_path / "a" / "scout").write_bytes(scout)
    assert np.array_equal(read_volume(tmp_path / "a").hu, hu)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip": (4, 5)}, "2 slices are missing: 15 mm between two slices, 5 mm elsewhere (after slice 4 of 10)"),
        ({"modality": "MR"}, "modality is MR, not CT"),
        ({"modality": None}, "modality is not said"),
        ({"slope": None}, "12 of 12 slices have no RescaleSlope"),
        ({"photometric": "MONOCHROME1"}, "MONOCHROME1"),
        ({"burned_in": "YES"}, "burnt into"),
        ({"each": lambda n: {"series": UID + ("7" if n < 9 else "8")}}, "mixed: 2 series (9 + 3 slices)"),
        ({"each": lambda n: {"patient": "JANE-42" if n < 9 else "JOHN-1"}}, "mixed: 2 patients (9 + 3 slices)"),
        ({"series": "", "each": lambda n: {"spacing": "2\\3" if n < 9 else "1\\1"}}, "slices differ in PixelSpacing"),
        ({"each": lambda n: {"position": f"{n * 3}\\0\\{n * 5}"}}, "tilted gantry"),
        ({"each": lambda n: {"position": f"0\\0\\{n * n / 8 + n * 5}"}}, "unevenly spaced"),
        ({"each": lambda n: {"position": f"0\\0\\{n // 2 * 5}"}}, "6 slices lie where another lies"),
        ({"orientation": None}, "do not say ImageOrientationPatient"),
        ({"position": None}, "do not say ImagePositionPatient"),
        ({"samples": 3}, "coloured"),
        ({"slope": ""}, "12 of 12 slices have no RescaleSlope"),
        ({"slope": "0"}, "the slope above 0"),
        ({"slope": "one"}, "12 of 12 slices have no RescaleSlope"),
        ({"each": lambda n: {"intercept": "" if n == 3 else "-1024"}}, "1 of 12 slices have no RescaleSlope"),
        ({"rescale_type": "Z_EFF"}, "not in HU: RescaleType is Z_EFF"),
        ({"position": "1\\2"}, "2 numbers for its geometry where 3 should be"),
        ({"each": lambda n: {"position": "a\\b\\c"} if n == 3 else {}}, "something else than numbers"),
        ({"orientation": "1\\0\\0\\0\\1"}, "5 numbers for its geometry where 6 should be"),
        ({"orientation": "1\\0\\0\\1\\0\\0"}, "not two directions at right angles"),
        ({"spacing": "-1\\1"}, "PixelSpacing is -1 and 1 mm"),
    ],
)
def test_what_is_no_ct_volume_says_why(tmp_path, options, said):
    write_series(tmp_path / "a", body(), **options)
    assert said in refused(tmp_path / "a")


def test_empty_folders_and_damaged_files(tmp_path):
    (tmp_path / "a").mkdir()
    assert "empty folder" in refused(tmp_path / "a")
    (tmp_path / "a" / "x.txt").write_text("x")
    assert "none is a DICOM image" in refused(tmp_path / "a")
    write_series(tmp_path / "b", body())
    path = next((tmp_path / "b").iterdir())
    path.write_bytes(path.read_bytes()[:-50])
    assert "cannot be decoded" in refused(tmp_path / "b")
    write_series(tmp_path / "c", body(depth=1))
    assert "one slice" in refused(tmp_path / "c")


def test_without_pydicom_the_package_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "a", body())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match="needs pydicom: pip install pydicom"):
        read_volume(tmp_path / "a")


SPELLED = [
    {"orientation": "1.000000\\0.000000\\0.000000\\0.000000\\1.000000\\0.000000"},
    {"orientation": "1\\0\\1e-7\\0\\0.9999999\\0"},
    {"orientation": "+1.0\\-0\\0\\0\\1\\0 "},
    {"spacing": "2.000000\\3.000000"},
    {"spacing": "2.0000001\\2.9999999"},
    {"spacing": " 2\\3 "},
    {"modality": "CT "},
    {"patient": "JANE-42 "},
]


@pytest.mark.parametrize("other", SPELLED, ids=[next(iter(other.values())) for other in SPELLED])
def test_numbers_are_compared_as_numbers(other, tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu, each=lambda n: other if n % 3 else {})
    volume = read_volume(tmp_path / "a")
    assert np.array_equal(volume.hu, hu) and np.allclose(volume.spacing, (5, 2, 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"spacing": "2\\3.001"}, "slices differ in PixelSpacing"),
        ({"spacing": "2.001\\3"}, "slices differ in PixelSpacing"),
        ({"orientation": "0.9998\\0.02\\0\\-0.02\\0.9998\\0"}, "slices differ in ImageOrientationPatient"),
        ({"orientation": "a\\b\\c\\d\\e\\f"}, ""),
    ],
)
def test_beyond_the_tolerances_they_differ(other, said, tmp_path):
    write_series(tmp_path / "a", body(), each=lambda n: other if n % 2 else {})
    assert said in refused(tmp_path / "a")


@pytest.mark.parametrize(
    ("representation", "stored", "tags"),
    [
        (0, 63536, {"padding": 63536}),
        (0, 63536, {"padding": -2000}),  # the bits of 63536, written signed
        (1, -2000, {"padding": -2000}),
        (1, -2000, {"padding": 63536}),
        (0, 4095, {"padding": 4095}),
        (0, 40000, {"padding": 40000, "padding_limit": 41000}),
        (0, 40500, {"padding": 41000, "padding_limit": 40000}),
        (1, -1500, {"padding": -2000, "padding_limit": -1200}),
    ],
)
def test_padding_is_air(representation, stored, tags, tmp_path):
    """A ring of padding would be the brightest thing in the picture, or mark the scanner."""
    hu = body().astype(np.int64)
    hu[:, :2] = stored - 1024  # what is written is 1024 more
    write_series(tmp_path / "a", hu, representation=representation, **tags)
    seen = read_volume(tmp_path / "a").hu
    assert (seen[:, :2] == -1024).all()
    assert np.array_equal(seen[:, 2:], body()[:, 2:])


def test_without_the_tag_a_value_is_what_it_is(tmp_path):
    hu = np.full((3, 4, 4), 2000, np.int16)
    write_series(tmp_path / "a", hu)
    assert (read_volume(tmp_path / "a").hu == 2000).all()


def bare(content, kept):
    """A DICOM file without its preamble, of whose mark and header only this much is kept."""
    if kept == "mark":
        return content[128:]
    if kept == "header":
        return content[132:]
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


@pytest.mark.parametrize("kept", ["mark", "header", "nothing"])
def test_files_without_a_preamble_are_read(kept, tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu)
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(bare(path.read_bytes(), kept))
    assert np.array_equal(read_volume(tmp_path / "a").hu, hu)


def test_implicit_files_without_a_header(tmp_path):
    import pydicom
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    hu = body()
    write_series(tmp_path / "a", hu, padding=5)
    for path in (tmp_path / "a").iterdir():
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, True
        write_dataset(out, pydicom.dcmread(path))
        path.write_bytes(out.getvalue())
    assert np.array_equal(read_volume(tmp_path / "a").hu, np.where(hu == 5 - 1024, -1024, hu))


def test_what_dicom_would_look_like_is_said(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.img").write_bytes(bytes(200))
    text = refused(tmp_path / "a")
    assert "3 files, and none is a DICOM image (3 .img)" in text and "byte 128" in text


def test_what_systems_leave_in_a_series_is_passed_over(tmp_path):
    hu = body()
    write_series(tmp_path / "a", hu)
    (tmp_path / "a" / "like.bin").write_bytes(b"\x08\x00\x05\x00CS\xff\xff" + b"no more than a beginning" * 9)
    (tmp_path / "a" / "__MACOSX").mkdir()
    for path in list((tmp_path / "a").glob("IM*")):
        (tmp_path / "a" / "__MACOSX" / path.name).write_bytes(path.read_bytes())
        (tmp_path / "a" / f"._{path.name}").write_bytes(path.read_bytes())
    assert np.array_equal(read_volume(tmp_path / "a").hu, hu)


@pytest.mark.slow
def test_monai_reads_the_same_hu_in_the_same_orientation(tmp_path):
    transforms = pytest.importorskip("monai.transforms", reason="compares with MONAI: pip install -e '.[medical]'")
    hu = body()
    write_series(tmp_path / "a", hu[::-1, ::-1], start=5.0, step=-5.0, orientation="1\\0\\0\\0\\-1\\0")
    load = transforms.LoadImage(reader="PydicomReader", ensure_channel_first=True, image_only=True)
    image = transforms.Orientation(axcodes="LPS")(load(tmp_path / "a"))
    volume = read_volume(tmp_path / "a")
    assert np.array_equal(np.asarray(image)[0].transpose(2, 1, 0), volume.hu)
    assert np.allclose(image.pixdim[[2, 1, 0]], volume.spacing)
