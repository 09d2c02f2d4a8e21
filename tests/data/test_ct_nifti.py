import gzip
import importlib.util

import numpy as np
import pytest
from ct_support import body, write_nifti

from kdrun.domains.ct.nifti import read_nifti
from kdrun.domains.ct.series import Unusable, orient, read_volume

AFFINE = np.array([[-2.0, 0, 0, 90], [0, -3.0, 0, 80], [0, 0, 5.0, -70], [0, 0, 0, 1]])  # left, back, head


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_what_was_written_is_read(tmp_path, name, order, kind):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(kind)
    write_nifti(tmp_path / name, array, AFFINE, order=order)
    read, affine = read_nifti(tmp_path / name)
    assert read.dtype == kind and np.array_equal(read, array) and np.allclose(affine, AFFINE)


def test_slope_and_intercept(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_nifti(tmp_path / "a.nii", array, AFFINE, slope=2.0, intercept=-1024.0)
    assert np.array_equal(read_nifti(tmp_path / "a.nii")[0], array * 2.0 - 1024)


@pytest.mark.parametrize(("units", "millimetres"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (3 + 16, 0.001)])
def test_spacing_is_in_millimetres_whatever_the_file_is_in(units, millimetres, tmp_path):
    array = np.full((2, 3, 4), -1000, np.int16)
    affine = np.vstack([AFFINE[:3] / millimetres, AFFINE[3:]])
    write_nifti(tmp_path / "a.nii", array, affine, units=units)
    assert np.allclose(read_nifti(tmp_path / "a.nii")[1], AFFINE, rtol=1e-6)
    assert np.allclose(read_volume(tmp_path / "a.nii").spacing, (5, 3, 2), rtol=1e-6)


def test_a_sheared_volume_is_refused():
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.0  # slices that are shifted by a millimetre each
    with pytest.raises(Unusable, match="right angles"):
        orient(np.zeros((2, 3, 4)), sheared)


def test_a_quaternion(tmp_path):
    # Half a turn about the third axis: x and y change direction.
    array = np.zeros((2, 3, 4), np.int16)
    write_nifti(tmp_path / "a.nii", array, AFFINE, quaternion=(0, 0, 1, 90, 80, -70, 1))
    assert np.allclose(read_nifti(tmp_path / "a.nii")[1], AFFINE, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("nibabel") is None, reason="compares with nibabel: pip install nibabel")
def test_nibabel_reads_the_same(tmp_path):
    import nibabel

    generator = np.random.default_rng(3)
    for number in range(4):
        array = generator.integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
        image = nibabel.Nifti1Image(array, AFFINE) if number % 2 else nibabel.Nifti2Image(array, AFFINE)
        if number > 1:  # the qform alone, of a rotation that is no multiple of a right angle
            angle = generator.uniform(0, 0.4)
            turn = np.eye(4)
            turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            image.set_qform(turn @ AFFINE, 1)
            image.set_sform(None, 0)
        nibabel.save(image, tmp_path / "a.nii.gz")
        read, affine = read_nifti(tmp_path / "a.nii.gz")
        other = nibabel.load(tmp_path / "a.nii.gz")
        assert np.array_equal(read, np.asarray(other.dataobj)) and np.allclose(affine, other.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:200], "no whole NIfTI"),
        (lambda content: content[:-10], "ends too early"),
        (lambda content: b"PNG" + content[3:], "length of a header"),
        (lambda content: content[:344] + b"ni1\0" + content[348:], "another file"),
        (lambda content: content[:70] + b"\x80\x00" + content[72:], "plain numbers"),
        (lambda content: content[:252] + b"\0\0\0\0" + content[256:], "orientation"),
        (lambda content: b"", "no whole NIfTI"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, spoil, said):
    write_nifti(tmp_path / "a.nii", body().transpose(2, 1, 0), AFFINE)
    path = tmp_path / "a.nii"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=said):
        read_nifti(path)


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_nifti(path)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_any_orientation_comes_out_as_one(axes, flips):
    """A volume in our orientation, stored with its axes in any order and direction, comes back voxel for voxel."""
    hu = body()
    spacing = {0: 3.0, 1: 2.0, 2: 5.0}  # of columns, rows and slices
    ours = hu.transpose(2, 1, 0)  # x to the left, y to the back, z to the head
    stored = ours.transpose(axes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for place, axis in enumerate(axes):
        direction = {0: -1, 1: -1, 2: 1}[axis] * flips[place]
        affine[axis, place] = direction * spacing[axis]
        if flips[place] < 0:
            stored = np.flip(stored, place)
    out, found = orient(stored, affine)
    assert np.array_equal(out, hu) and found == (5.0, 2.0, 3.0)


def test_askew_slices_are_refused():
    angle = np.deg2rad(30)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.raises(Unusable, match="askew"):
        orient(body(), affine)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((3, 3, 3), 40, np.int16), "Hounsfield"),
        (np.full((3, 3, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_not_in_hu_is_refused_without_the_name_of_its_file(tmp_path, array, said):
    path = tmp_path / "JANE-42.nii"
    write_nifti(path, array, AFFINE)
    with pytest.raises(Unusable, match=said) as caught:
        read_volume(path)
    assert "JANE" not in str(caught.value)
