from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest

from kdrun import files
from kdrun.files import number, plain, read_json, sha256_file, write_atomic, write_json


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
