"""Targets are data: which there are, what they inherit, and whether this machine is one."""

import subprocess
import sys

import pytest

from kdrun.hardware.targets import chosen_targets, read_targets
from kdrun.job.compose import compose
from kdrun.ledger.figures import DeviceFigures, energy_figures, read_figures
from kdrun.ledger.machine import machine_words
from kdrun.problems import UserError

SHIPPED = {
    "local", "jetson_orin_nano", "jetson_orin_nx", "jetson_agx_orin", "drive_orin", "raspberry_pi_5", "android_mid", "cpu_laptop",
    "rtx_4090", "h100", "h200",
}  # fmt: skip


def test_every_shipped_target_is_there_and_composes_as_it_is_read():
    targets = read_targets(words=[])
    assert set(targets) >= SHIPPED
    for name, target in targets.items():
        node = compose([f"hardware={name}", "seed=0"]).config["hardware"]
        assert node["deploy"] == target.deploy and node["device"] == target.device
    assert targets["jetson_orin_nano"].deploy["deadline_ms"] == 33 and targets["local"].deploy["deadline_ms"] is None


def test_a_target_is_here_only_where_the_machine_says_so():
    assert not read_targets(words=["NVIDIA A100"])["h100"].here
    assert read_targets(words=["NVIDIA H100 80GB HBM3"])["h100"].here
    board = read_targets(words=["NVIDIA Jetson Orin Nano Developer Kit"])
    assert [name for name, target in board.items() if target.here and target.figures] == ["jetson_orin_nano"]
    assert read_targets(words=[])["local"].here, "local is whatever machine this is"


def test_ones_own_target_inherits_and_is_never_here_by_chance(tmp_path):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "drone.yaml").write_text(
        "defaults: [jetson_orin_nx, _self_]\n"
        "figures: {peak_tflops: {fp32: 1}, memory_gb: 4, bandwidth_gb_s: 30, source: mine}\n"
        "deploy: {deadline_ms: 8}\n"
    )
    target = read_targets([str(tmp_path)], words=["NVIDIA Jetson Orin NX"])["drone"]
    assert not target.here and target.deploy["deadline_ms"] == 8 and target.deploy["memory_mb"] == 2000


def test_an_unknown_target_is_told_with_the_nearest():
    with pytest.raises(UserError) as caught:
        chosen_targets(["jetson_orin_nanoo"])
    assert "closest: jetson_orin_nano" in caught.value.lines[0]


def test_targets_are_read_without_torch():
    code = "import sys; from kdrun.hardware.targets import read_targets; read_targets(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_machine_says_neither_its_name_nor_its_user():
    import getpass
    import socket

    assert not any(
        name and name in word for word in machine_words() for name in (socket.gethostname(), getpass.getuser())
    )


def test_energy_constants_are_those_of_what_computes():
    assert energy_figures({"name": "local", "device": "cpu", "figures": None}).name == "cpu"
    of_h100 = compose(["hardware=h100", "seed=0"]).config["hardware"]
    assert energy_figures({**of_h100, "device": "cpu"}).name == "cpu", "trained for it, not on it"
    assert energy_figures({"name": "gpu", "device": "cuda", "figures": None}) is None, "nothing is published of any GPU"


def test_energy_model_of_figures():
    figures = DeviceFigures(
        "x", {"fp32": 2.0, "int8": None}, None, None, "s", power_w={"a": 10, "b": 99}, utilisation=0.5
    )
    assert figures.joules(3e12, "fp32") == pytest.approx(3 * 10 / (2 * 0.5))
    assert figures.joules(3e12, "int8") is None
    assert read_figures()["cpu"].joules(1e12, "fp32") == 133


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("match: '['", "not a regular expression"),
        ("utilisation: 1.5", "above 0 and at most 1"),
        ("power_w: {high: -3}", "figures.power_w.high"),
        ("joules_per_tflop: {fp31: 3}", "no such format"),
        ("launch_us: soon", "microseconds"),
    ],
)
def test_wrong_figures_are_told_with_their_file(tmp_path, text, said):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "mine.yaml").write_text(f"figures:\n  source: mine\n  {text}\n")
    with pytest.raises(UserError) as caught:
        read_figures([str(tmp_path)])
    assert said in "\n".join(caught.value.lines) and "mine.yaml" in caught.value.lines[0]
