"""Recordings of a user's own: counted by hand, in every form they may have, and what is refused."""

import base64
import lzma
import sys

import numpy as np
import pytest

from kdrun.domains.images.event_folder import event_folder
from kdrun.problems import UserError

EVENTS = np.array([[0, 0, 10, 1], [2, 1, 19, 0], [2, 1, 15, 0], [3, 2, 20, 1], [3, 2, 30, -1]])


def written(root, **files):
    for name, array in files.items():
        path = root / f"{name.replace('__', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return root


def test_events_are_counted_by_part_of_time_polarity_and_place(tmp_path):
    found = event_folder(written(tmp_path, cat__a=EVENTS, dog__b=EVENTS[:2]), frames=2)
    wanted = np.zeros((2, 2, 3, 4), np.uint8)
    wanted[0, 0, 0, 0], wanted[0, 1, 1, 2] = 1, 2  # 10 to 20 is the first half
    wanted[1, 0, 2, 3], wanted[1, 1, 2, 3] = 1, 1
    assert found.x.dtype == np.uint8 and (found.x[0] == wanted.reshape(4, 3, 4)).all()
    assert found.classes == ("cat", "dog") and found.y.tolist() == [0, 1] and found.names == ("cat/a.npy", "dog/b.npy")


def test_fields_frames_and_splits_are_read_as_well(tmp_path):
    kind = [("x", "i2"), ("y", "i2"), ("t", "i8"), ("on", "i1")]
    fields = np.array([tuple(row) for row in EVENTS], kind)
    frames = event_folder(written(tmp_path / "one", cat__a=EVENTS), frames=2).x[0].reshape(2, 2, 3, 4)
    root = written(
        tmp_path / "two", train__cat__a=fields, train__dog__b=frames, test__cat__c=EVENTS, test__dog__d=EVENTS
    )
    found = event_folder(root, frames=2, height=5, width=6)
    assert found.x.shape == (4, 4, 5, 6) and (found.x == found.x[:1]).all()
    assert len(set(found.split.tolist())) == 2 and found.y.tolist() == [0, 1, 0, 1]
    assert found.content_hash != event_folder(root, frames=2).content_hash


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (EVENTS[:, :3], r"a\.npy: int64 \(5, 3\)"),
        (EVENTS[:0], r"a\.npy: int64 \(0, 4\)"),
        (EVENTS - 1, r"a\.npy: x and y have to be whole numbers"),
        (EVENTS + 0.5, "x and y have to be whole numbers"),
        (np.zeros((3, 2, 4, 4), int), r"3 frames, data\.frames=4"),
        (np.zeros(3, [("x", "i2"), ("y", "i2")]), "fields x"),
        (EVENTS + np.array([9, 0, 0, 0]), r"above data\.height=3 data\.width=4"),
        (EVENTS + np.array([1e12, 0, 0, 0]), r"a\.npy: a place of 1e\+12"),
        (np.full((4, 2, 3, 4), -1), "frames hold numbers of events, from 0 on"),
        (np.zeros((4, 2, 0, 4), int), "frames hold numbers of events"),
        (np.zeros(3, [("x", "S2"), ("y", "i2"), ("t", "i8"), ("p", "i1")]), r"a\.npy: x is \|S2"),
    ],
)
def test_what_is_something_else_is_refused_with_its_file(tmp_path, array, said):
    with pytest.raises(UserError, match=said):
        event_folder(written(tmp_path, cat__a=array), height=3, width=4)


def test_places_that_are_none_are_told_before_memory_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"GiB\n.*a\.npy; columns are \(x, y, t, p\)"):
        event_folder(written(tmp_path, cat__a=EVENTS[:, [2, 2, 0, 3]] * 1_000_000))
    with pytest.raises(UserError, match=r"data\.height=0: at least 1"):
        event_folder(tmp_path, height=0)


def test_classes_and_splits_are_held_apart_as_those_of_images(tmp_path):
    with pytest.raises(UserError, match="in folders of classes"):
        event_folder(written(tmp_path / "flat", train__a=EVENTS, test__b=EVENTS))
    with pytest.raises(UserError, match="one class or several"):
        event_folder(written(tmp_path / "case", cat__a=EVENTS, Cat__b=EVENTS))
    written(tmp_path / "other", cat__a=EVENTS)
    (tmp_path / "other" / "dog").mkdir()
    (tmp_path / "other" / "dog" / "b.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="no file of class dog can be read as events"):
        event_folder(tmp_path / "other")


def test_folders_without_events_and_broken_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=FOLDER"):
        event_folder()
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("no")
    with pytest.raises(UserError, match="holds no events in subfolders"):
        event_folder(tmp_path)
    for content in (b"no", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{'descr': (      "):
        (tmp_path / "cat" / "a.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npy: not a readable \.npy array"):
            event_folder(tmp_path)
    np.savez(tmp_path / "cat" / "a.npz", EVENTS)
    (tmp_path / "cat" / "a.npz").rename(tmp_path / "cat" / "a.npy")
    with pytest.raises(UserError, match="an archive of arrays"):
        event_folder(tmp_path)


RECORDED = (
    "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4AP2AaxdABGIRKZJomQ0PEaLImux5NtrjOan2ZpXa9QuIA3R6PI3TKOAln7kxxMZ+qvtKX/2UaMgsSeZpfAm"
    "OBWQNtvZs8nxybB/qdbzFNe+qu6vBxFvwiRMcumC2dXrSym2LJD3Qi7XnC9Z7l4nD77uIoRAb9Rg2SMEEu5aDOLD862aelxt3q16vp7ENfbydb8RVf4X"
    "A6RBDYx9qqv4OrI0q1JLEKAN0nasDfm7f4m2ScIAx/ZrBFaZMCvZxd4+byr9Syr3GMiGPAIdJKnyz+8ydR0MX7oSnReX9isqOewPictTFy+578uNIgKa"
    "taCx+ZCVIBDVnX4Y0Du+BVGt8dVqwFlzweiM3CeR+3AynK7o7qhbXLcNEYnWzFbZC/j90ZyhT27OCtsrJhmlFOCPPZjnmZe1e7k6Io3vizjAZeQ12CE2"
    "eqnGFCGNAvJaDUNj5SrhNgRJxpeQnWzZvq6/txxRH+beHKdpWkkkLV2uHlSCZAQzut3APeaSY0z0LxSkMiU/jM/+W2rcmmpPmFL0IuEQ4GrtC4jJYw2K"
    "3n2ymmQOWbTBm1Iojwe9bPN7B9gIDTMIALPei6opnF1WAAHIA/cHAABPCrBnscRn+wIAAAAABFla"
)
"""EVENTS (p as on and off) in an .aedat4 file that dv-processing 2.0.4 wrote, packed by lzma."""


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "cat").mkdir()
    path = tmp_path / "cat" / "a.aedat4"
    path.write_bytes(lzma.decompress(base64.b64decode(RECORDED)))
    return path


def test_a_recording_is_read_as_its_events(recorded, tmp_path):
    pytest.importorskip("aedat")
    wanted = event_folder(written(tmp_path / "arrays", cat__a=EVENTS), frames=2)
    found = event_folder(tmp_path, frames=2)
    assert len(found.x) == 2 and np.array_equal(found.x[1], found.x[0]) and np.array_equal(found.x[:1], wanted.x)


def test_a_damaged_recording_is_told_with_its_file(recorded, tmp_path):
    pytest.importorskip("aedat")
    recorded.write_bytes(recorded.read_bytes()[:500])
    with pytest.raises(UserError, match=r"a\.aedat4: not a readable \.aedat4 file"):
        event_folder(tmp_path)


def test_recordings_say_which_package_reads_them(recorded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(UserError, match="pip install aedat"):
        event_folder(tmp_path)
