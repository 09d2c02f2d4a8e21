from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from kdrun import files
from kdrun.files import number, plain, read_json, sha256_file, write_atomic, write_json
from kdrun.problems import disk_problem


def test_text_and_bytes_are_written_whole(tmp_path):
    write_atomic(tmp_path / "a", "grüße")
    write_atomic(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path, monkeypatch, broken):
    write_atomic(tmp_path / "a", "old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_content_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name, function in real.items():
        monkeypatch.setattr(files.os, name, lambda *a, n=name, f=function: (order.append(n), f(*a))[1])
    write_atomic(tmp_path / "a", "x")
    assert order == ["fsync", "replace", "fsync"]


def test_new_files_obey_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_nan_is_visible_in_the_file_and_a_number_when_read(tmp_path):
    value = {"nan": math.nan, "up": math.inf, "down": -math.inf, "missing": None, "list": [math.nan, 1]}
    write_json(tmp_path / "a.json", value)
    assert '"nan": "nan"' in (tmp_path / "a.json").read_text()
    back = read_json(tmp_path / "a.json")
    assert math.isnan(back["nan"]) and math.isnan(back["list"][0])
    assert (back["up"], back["down"], back["missing"]) == (math.inf, -math.inf, None)


def test_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": (2, 3)})
    write_json(tmp_path / "b", {"a": [2, 3], "b": 1})
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")
    assert sha256_file(tmp_path / "a") == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


def test_plain_takes_numpy_scalars_paths_and_refuses_objects():
    assert plain({1: np.float32(0.5), "p": Path("x/y"), "s": {2, 1}, "i": np.int64(3)}) == {
        "1": 0.5,
        "p": "x/y",
        "s": [1, 2],
        "i": 3,
    }
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_number_knows_what_is_not_one():
    assert [number(value) for value in (None, "x", True, [])] == [None] * 4
    assert (number(0), number(0.5), number("inf")) == (0, 0.5, math.inf)


def test_json_that_was_damaged_is_never_read_as_something_else(tmp_path):
    path, value = tmp_path / "a.json", {"accuracy": 0.95, "name": "ü"}
    write_json(path, value)
    assert json.loads(path.read_text()) == value, "other programs read the same"
    content = path.read_bytes()
    found = []
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            try:
                found.append(read_json(path) == value)
            except ValueError:
                continue
    assert all(found)
    path.write_bytes(content.replace(b"0.95", b"0.94"))
    with pytest.raises(files.Damaged, match=r"a\.json is damaged"):
        read_json(path)
    path.write_text('{"accuracy": 0.94}')
    assert read_json(path) == {"accuracy": 0.94}, "written by hand"


def test_an_array_has_its_room_before_it_is_mapped(tmp_path, monkeypatch):
    """Writing to a sparse map on a full disk would end the process by SIGBUS, without a word."""
    array = files.new_array(tmp_path / "a.npy", np.dtype(np.float32), (1000, 10))
    assert array.shape == (1000, 10) and not array.any()
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= 40_000
    array[3] = 1
    array.flush()
    assert np.load(tmp_path / "a.npy").sum() == 10
    monkeypatch.setattr(
        os, "posix_fallocate", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left") as caught:
        files.new_array(tmp_path / "b.npy", np.dtype(np.float32), (1000, 10))
    assert caught.value.filename == str(tmp_path / "b.npy") and caught.value.needed == 40_000
    assert os.listdir(tmp_path) == ["a.npy"]
    monkeypatch.delattr(os, "posix_fallocate")
    assert files.new_array(tmp_path / "c.npy", np.dtype(np.uint8), (3,)).tolist() == [0, 0, 0]


def test_an_array_that_was_cut_or_is_another_is_made_anew(tmp_path):
    path, kind = tmp_path / "a.npy", np.dtype(np.float32)
    files.new_array(path, kind, (4, 4))[:] = 1
    assert files.open_array(path, kind, (4, 4)).sum() == 16
    path.write_bytes(path.read_bytes()[:-8])
    assert files.open_array(path, kind, (4, 4)).sum() == 0
    path.write_bytes(b"")
    assert files.open_array(path, kind, (2, 4)).shape == (2, 4)


@pytest.mark.parametrize(("number", "said"), [(28, "the disk is full: 40 kB needed"), (30, "the disk is read-only")])
def test_what_a_disk_refuses_is_told_with_path_and_cure(number, said):
    error = OSError(number, os.strerror(number), "/there/is/no/file")
    error.needed = 40_000
    lines = disk_problem(error)
    assert lines[0].startswith(said) and "/there/is/no/file" in lines[1]
    assert "safe" in lines[2] and "same command" in lines[3]
    assert disk_problem(ValueError("x")) is None and disk_problem(OSError("x")) is None


def test_half_a_character_and_endless_brackets_in_json(tmp_path):
    from kdrun.files import read_json, write_json

    write_json(tmp_path / "a.json", {"name": "a\ud800"})
    assert read_json(tmp_path / "a.json") == {"name": "a\ud800"}
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_json(tmp_path / "b.json")
