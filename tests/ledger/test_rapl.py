"""RAPL on a folder that a test writes: what is added and what is not, wrap-around, and what cannot be read."""

from __future__ import annotations

import os

import pytest

from kdrun.ledger.rapl import Rapl
from kdrun.ledger.sensor import Unreadable

from .fakes import Clock, Powercap


@pytest.fixture
def tree(tmp_path):
    return Powercap(tmp_path)


def test_two_packages_add_and_what_lies_inside_them_does_not(tree):
    tree.zone("intel-rapl:0", "package-0", 10)
    tree.zone("intel-rapl:0:0", "core", 5)
    tree.zone("intel-rapl:0:1", "uncore", 2)
    tree.zone("intel-rapl:1", "package-1", 900)
    tree.zone("intel-rapl:2", "psys", 100)
    tree.zone("intel-rapl-mmio:0", "package-0", 10)  # the same package once more
    rapl = Rapl(tree.root, Clock())
    assert rapl.read() == 0 and rapl.covers == ("cpu",) and rapl.devices == ["package-0", "package-1"]
    for folder, joules in (("0", 13), ("0:0", 9), ("0:1", 8), ("1", 904), ("2", 190)):
        tree.set(f"intel-rapl:{folder}", joules)
    assert rapl.read() == pytest.approx(3 + 4)


def test_memory_is_beside_the_package_and_named(tree):
    tree.zone("intel-rapl:0", "package-0", 10)
    tree.zone("intel-rapl:0/intel-rapl:0:2", "dram", 1)  # sub-zones inside their parents, as in /sys/devices
    rapl = Rapl(tree.root, Clock())
    tree.set("intel-rapl:0", 12)
    tree.set("intel-rapl:0/intel-rapl:0:2", 1.5)
    assert rapl.read() == pytest.approx(2.5)
    assert rapl.covers == ("cpu", "dram") and rapl.devices == ["package-0", "dram of package-0"]


def test_a_counter_that_wraps_three_times(tree):
    clock = Clock()
    tree.zone("intel-rapl:0", "package-0", 990, span_joules=1000)
    rapl = Rapl(tree.root, clock)
    true, shown = 0.0, 990.0
    for step in (5, 20, 600, 700, 650, 3, 900):
        clock.now += 0.5
        true, shown = true + step, (shown + step) % 1000
        tree.set("intel-rapl:0", shown)
        assert rapl.read() == pytest.approx(true)


def test_a_gap_in_which_it_could_have_wrapped_twice_is_unknown(tree):
    clock = Clock()
    tree.zone("intel-rapl:0", "package-0", 0, span_joules=1000)
    rapl = Rapl(tree.root, clock)
    clock.now = 100.0  # the machine slept: at up to 1000 W that may have been many times the span
    tree.set("intel-rapl:0", 500)
    assert rapl.read() is None
    clock.now += 0.5
    tree.set("intel-rapl:0", 501)
    assert rapl.read() is None  # and it stays so


def test_going_back_without_a_span_is_unknown(tree):
    tree.zone("intel-rapl:0", "package-0", 5, span_joules=None)
    rapl = Rapl(tree.root, Clock())
    tree.set("intel-rapl:0", 4)
    assert rapl.read() is None


def test_a_counter_that_stands_still_is_unknown_and_not_zero(tree):
    clock = Clock()
    tree.zone("intel-rapl:0", "package-0", 5)
    rapl = Rapl(tree.root, clock)
    clock.now = 1.0
    assert rapl.read() == 0
    clock.now = 3.5
    assert rapl.read() is None


def test_a_memory_counter_that_never_moves_is_left_out(tree):
    clock = Clock()
    tree.zone("intel-rapl:0", "package-0", 5)
    tree.zone("intel-rapl:0:0", "dram", 0)
    rapl = Rapl(tree.root, clock)
    for number in range(1, 8):
        clock.now = 0.5 * number
        tree.set("intel-rapl:0", 5 + number)
        assert rapl.read() == pytest.approx(number)
    assert rapl.covers == ("cpu",)


def test_a_file_that_goes_away_is_unknown(tree):
    tree.zone("intel-rapl:0", "package-0", 5)
    rapl = Rapl(tree.root, Clock())
    (tree.root / "intel-rapl:0" / "energy_uj").unlink()
    assert rapl.read() is None


def test_no_package_and_no_folder_say_what_was_looked_for(tree, tmp_path):
    tree.zone("intel-rapl:0", "psys", 5)
    for root in (tree.root, tmp_path / "nowhere"):
        with pytest.raises(Unreadable, match=f"intel-rapl:N with a name of package-N below {root}"):
            Rapl(root)


def test_permission_denied_says_so_with_the_file(tree, monkeypatch):
    tree.zone("intel-rapl:0", "package-0", 5)
    file = tree.root / "intel-rapl:0" / "energy_uj"
    file.chmod(0)
    if os.access(file, os.R_OK):  # root may read everything
        from pathlib import Path

        honest = Path.read_text

        def refuse(self, *arguments, **options):
            if self == file:
                raise PermissionError(13, "Permission denied", str(self))
            return honest(self, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Unreadable, match=f"permission denied: {file}"):
        Rapl(tree.root)
