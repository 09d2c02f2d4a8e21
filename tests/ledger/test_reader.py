"""From the config to sensors: what auto takes, what a name insists on, and what stays unimported."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdrun.ledger.reader import check_reader, foreseen, open_metering
from kdrun.ledger.sensor import Unreadable
from kdrun.problems import UserError

from .fakes import Sensor

CPU, CUDA = {"device": "cpu", "precision": "fp32"}, {"device": "cuda", "precision": "fp32", "devices": 2}
FIGURES = SimpleNamespace(name="fake", joules=lambda flops, precision: 2e-9 * flops)


def settings(reader="auto", **changes):
    return {"reader": reader, "interval": 0.5, "idle": 0.0, **changes}


def missing(text):
    def opened():
        raise Unreadable(text)

    return opened


RAPL = {"rapl": Sensor}
GPU = {"nvml": lambda: Sensor("nvml", ("gpu",), machine_wide=False, devices=["GPU-1", "GPU-2"])}
NEITHER = {"rapl": missing("RAPL: none"), "nvml": missing("NVML: none")}


@pytest.mark.parametrize(
    ("hardware", "there", "expected"),
    [
        (CPU, {**GPU, **RAPL}, ["rapl"]),  # a GPU that is not computed on is not ours
        (CUDA, {**GPU, **RAPL}, ["nvml", "rapl"]),
        (CUDA, {**NEITHER, **GPU}, ["nvml"]),
        (CUDA, {**NEITHER, **RAPL}, ["rapl"]),
    ],
)
def test_auto_takes_what_can_be_read(hardware, there, expected):
    metering = open_metering(settings(), hardware, sensors=there, figures=lambda _: FIGURES)
    assert list(metering.meter.sensors) == expected


def test_auto_without_sensors_is_the_model_and_without_constants_nothing():
    metering = open_metering(settings(), CPU, sensors=NEITHER, figures=lambda _: FIGURES)
    assert metering.meter is None and metering.model(1e9) == 2.0 and metering.why == ("RAPL: none",)
    metering = open_metering(settings(), CPU, sensors=NEITHER, figures=lambda _: None)
    assert metering.meter is None and metering.model is None
    assert metering.spending().record({"train": 1e9}) is None


def test_none_and_no_settings_measure_nothing():
    for given in (None, settings("none")):
        metering = open_metering(given, CUDA, sensors={**GPU, **RAPL}, figures=lambda _: FIGURES)
        assert metering.meter is None and metering.model is None


def test_a_sensor_that_is_asked_for_has_no_model_behind_it():
    metering = open_metering(settings("rapl"), CPU, sensors=RAPL, figures=lambda _: FIGURES)
    assert list(metering.meter.sensors) == ["rapl"] and metering.model is None


@pytest.mark.parametrize("reader", ["rapl", "nvml"])
def test_a_sensor_that_is_asked_for_and_not_there_says_what_was_looked_for(reader):
    with pytest.raises(UserError, match=f"energy.reader={reader}.*\n.*none"):
        open_metering(settings(reader), CUDA, sensors=NEITHER)


def test_the_model_without_constants_is_refused():
    with pytest.raises(UserError, match="no constants are known for cuda in fp32"):
        open_metering(settings("model"), CUDA, figures=lambda _: None)


def test_an_unknown_reader_names_the_nearest():
    for open_ in (open_metering, check_reader):
        with pytest.raises(UserError, match="no such reader; closest: rapl"):
            open_(settings("raple"), CPU)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install "):
        check_reader(settings("codecarbon"), CPU)


def test_what_a_search_can_count_on():
    assert foreseen(None, CPU) is None and foreseen(settings("none"), CPU) is None
    assert foreseen(settings("model"), CPU) == "estimate" and foreseen(settings("codecarbon"), CPU) == "estimate"
    assert foreseen(settings(), CPU) in ("sensor", "estimate")
    assert foreseen(settings("model"), {"device": "mps", "precision": "fp32"}) is None


def test_a_missing_sensor_ends_a_run_before_anything_is_imported_or_made(tmp_path):
    code = (
        "import sys; from kdrun.cli import main;"
        "import kdrun.ledger.rapl as r; r.Rapl.__init__.__defaults__ = ('nowhere', None);"
        "print(main(['data=digits', 'energy.reader=rapl', 'tracker=none']));"
        "print('torch' in sys.modules, 'pynvml' in sys.modules, 'codecarbon' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False", "False", "False"], done
    assert "below nowhere" in done.stderr and not list(tmp_path.iterdir())


def test_codecarbon_is_an_estimate_and_writes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    from kdrun.ledger.codecarbon import CodeCarbon

    sensor = CodeCarbon(0.1)
    try:
        import time

        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            pass
        first = sensor.read()
        assert first is not None and first >= 0 and sensor.estimate and "ram" in sensor.covers
        assert sensor.read() >= first
    finally:
        sensor.close()
    assert not list(tmp_path.iterdir())
