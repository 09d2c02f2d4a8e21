"""Published figures of devices are data, checked when they are read."""

import subprocess
import sys

import pytest

from kdrun.job.compose import compose
from kdrun.ledger.figures import read_figures
from kdrun.problems import UserError

TARGETS = ("h100", "h200", "jetson_agx_orin", "rtx_4090")


def test_shipped_targets_have_figures_with_their_source():
    found = read_figures()
    assert set(TARGETS) <= set(found)
    assert {"gpu", "local"}.isdisjoint(found), "what a person's own machine can do is not published"
    assert not any(found.pop("cpu").peak_tflops.values()), (
        "of a CPU that is not known there are constants of a model only"
    )
    for figures in found.values():
        assert figures.source and figures.memory_gb and figures.bandwidth_gb_s
        known = [figures.peak_tflops[name] for name in ("fp32", "tf32", "bf16", "int8")]
        known = [peak for peak in known if peak is not None]
        assert known == sorted(known), "narrower formats are not slower"
    assert found["jetson_agx_orin"].peak_tflops["bf16"] is None
    assert found["h200"].memory_gb > found["h100"].memory_gb > found["rtx_4090"].memory_gb


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_an_option_of_hardware(name):
    hardware = compose([f"hardware={name}", "seed=0"]).config["hardware"]
    assert (
        hardware["device"] == ("auto" if "jetson" in name else "cuda")
        and hardware["figures"]["memory_gb"] == read_figures()[name].memory_gb
    )


def test_figures_are_no_part_of_a_jobs_identity():
    words = ["hardware=h100", "seed=0"]
    assert compose(words).hash == compose([*words, "hardware.figures=null"]).hash


def mine(tmp_path, text, name="mine"):
    (tmp_path / "hardware").mkdir(exist_ok=True)
    (tmp_path / "hardware" / f"{name}.yaml").write_text("# mine\ndefaults: [gpu, _self_]\n" + text)
    return [str(tmp_path)]


def test_a_device_of_ones_own(tmp_path):
    own = mine(tmp_path, "figures: {peak_tflops: {fp32: 2}, memory_gb: 8, source: a leaflet}\n")
    found = read_figures(own)["mine"]
    assert (found.peak_tflops["fp32"], found.peak_tflops["bf16"], found.bandwidth_gb_s) == (2, None, None)


def test_ones_own_figures_come_before_the_shipped_ones(tmp_path):
    own = mine(tmp_path, "figures: {memory_gb: 94, source: a leaflet}\n", name="h100")
    assert read_figures(own)["h100"].memory_gb == 94


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("figures: 3", ["hardware/mine.yaml", "expected a mapping"]),
        ("figures: {memry_gb: 8, source: x}", ["closest: memory_gb"]),
        ("figures: {memory_gb: 8}", ["figures.source"]),
        ("figures: {memory_gb: 0, source: x}", ["figures.memory_gb", "above 0"]),
        ("figures: {memory_gb: much, source: x}", ["figures.memory_gb", "'much'"]),
        ("figures: {memory_gb: .inf, source: x}", ["figures.memory_gb"]),
        ("figures: {peak_tflops: 5, source: x}", ["FORMAT: NUMBER"]),
        ("figures: {peak_tflops: {fp8: 5}, source: x}", ["peak_tflops.fp8", "bf16"]),
        ("figures: {peak_tflops: {fp32: true}, source: x}", ["peak_tflops.fp32"]),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, named):
    with pytest.raises(UserError) as caught:
        read_figures(mine(tmp_path, f"{text}\n"))
    assert all(part in str(caught.value) for part in named), str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    own = mine(tmp_path, "figures: {memory_gb: -1, bandwidth_gb_s: 0, source: x}\n")
    with pytest.raises(UserError) as caught:
        read_figures(own)
    assert "memory_gb" in str(caught.value) and "bandwidth_gb_s" in str(caught.value)


def test_reading_needs_no_torch():
    code = (
        "import sys; from kdrun.ledger.figures import read_figures; import kdrun.hardware.cost; read_figures();"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_energy_of_operations_is_a_constant_for_each_kind(tmp_path):
    found = read_figures()["cpu"]
    assert found.joules_of({"mac": 1000, "add": 2000}) == pytest.approx(1e-12 * (1000 * 4.6 + 2000 * 0.9))
    assert "Horowitz" in found.source and read_figures()["h100"].joules_of({"mac": 1}) is None
    own = mine(tmp_path, "figures: {memory_gb: 8, operation_pj: {mul: 1}, source: a leaflet}\n")
    with pytest.raises(UserError, match=r"operation_pj\.mul: no such operation; operations: mac, add"):
        read_figures(own)
