"""A run, an export or a folder that somebody sent executes nothing that the person at the shell has not allowed."""

import json
import shutil
import sys

import pytest

import kdrun
from kdrun.cli import main

NETWORK = """
import pathlib
pathlib.Path(__file__).with_name("IMPORTED").touch()
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, x):
        return self.net(x)
"""
RUN = [
    "strategy=alone",
    "data=digits",
    "trainer.epochs=1",
    "seed=0",
    "tracker=none",
    "hardware=cpu",
    "card=false",
    "-q",
]
EVIL = {"_target_": "kdrun.files.os.system", "command": "touch PWNED"}
NESTED = {
    "_target_": "kdrun.domains.ct.networks.late_fusion.LateFusion",
    "encoder": {"_target_": "os.system", "command": "touch PWNED"},
}


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    """A folder with a network, a --conf folder that allows it, and a finished run of it."""
    folder = tmp_path_factory.mktemp("sender")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDRUN_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        (folder / "sentnets.py").write_text(NETWORK)
        (folder / "conf" / "student").mkdir(parents=True)
        (folder / "conf" / "student" / "mine.yaml").write_text("network:\n  _target_: sentnets.Net\n")
        (folder / "conf" / "kdrun.yaml").write_text("targets: {sentnets: true}\n")
        assert main(["--conf", "conf", "student=mine", *RUN]) == 0
        sys.modules.pop("sentnets")
    yield folder


@pytest.fixture
def received(sender, tmp_path, monkeypatch):
    """What was sent, in a folder of somebody who has allowed nothing. Both have the same cache."""
    for name in ("outputs", "conf"):
        shutil.copytree(sender / name, tmp_path / name)
    shutil.copy(sender / "sentnets.py", tmp_path)
    monkeypatch.setenv("KDRUN_CACHE", str(sender / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(sender)])
    yield tmp_path
    sys.modules.pop("sentnets", None)


def executed(folder):
    return (folder / "PWNED").exists() or (folder / "IMPORTED").exists()


def record_of(folder):
    return next((folder / "outputs" / "runs").glob("*/record.json"))


def change(folder, **values):
    """The record with these values in its config, and everything in it allowed by itself."""
    for path in (folder / "outputs" / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        record["config"] |= values | {"targets": dict.fromkeys(("os", "sentnets", "kdrun", "joblib"), True)}
        record["status"] = "interrupted"
        path.write_text(json.dumps(record))


VERBS = [["rerun", "last"], ["export", "last"], ["card", "last", "calls=20"]]


@pytest.mark.parametrize("words", VERBS)
def test_the_runs_own_folder_knows_what_was_allowed_there(sender, monkeypatch, capsys, words):
    monkeypatch.setenv("KDRUN_CACHE", str(sender / "cache"))
    monkeypatch.chdir(sender)
    assert main(words) == 0


def test_what_a_run_was_allowed_to_call_stands_in_its_record(sender):
    assert json.loads(record_of(sender).read_text())["config"]["targets"] == {"sentnets": True}


@pytest.mark.parametrize("words", VERBS)
def test_what_a_received_record_allows_does_not_count(received, capsys, words):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "targets.sentnets=true" in said and "does not count" in said
    assert not executed(received)


@pytest.mark.parametrize("words", VERBS)
@pytest.mark.parametrize("allow", [["targets.sentnets=true"], ["--conf", "conf"]])
def test_the_user_allows_it_by_a_word_or_by_a_folder(received, capsys, words, allow):
    assert main([*words, *allow]) == 0
    assert main(words) == (0 if words[0] == "rerun" else 2)  # what was started here is known here


def test_from_python(received):
    with pytest.raises(kdrun.UserError, match="sentnets"):
        kdrun.load("last")
    assert not executed(received)
    assert kdrun.load("last", targets=["sentnets"]) is not None
    assert kdrun.load("last", conf_dirs=["conf"]) is not None
    with pytest.raises(kdrun.UserError, match="sentnets"):
        kdrun.load("last")


@pytest.mark.parametrize("words", VERBS)
@pytest.mark.parametrize("place", ["network", "nested", "data", "strategy", "objective", "optimizer", "teacher"])
def test_a_changed_record_executes_nothing(received, capsys, words, place):
    config = json.loads(record_of(received).read_text())["config"]
    changed = {
        "network": {"student": {**config["student"], "network": EVIL}},
        "nested": {"student": {**config["student"], "network": NESTED}},
        "teacher": {"teacher": {**config["teacher"], "network": EVIL}},
        "data": {"data": {**config["data"], **EVIL}},
        "strategy": {"strategy": EVIL},
        "objective": {"objective": {"mine": {**EVIL, "weight": 1.0}}},
        "optimizer": {"trainer": {**config["trainer"], "optimizer": EVIL}},
    }[place]
    change(received, **changed)
    assert main([*words, "targets.sentnets=true", "targets.os=true"]) == 2
    assert "refused" in capsys.readouterr().err
    assert not (received / "PWNED").exists()


@pytest.mark.parametrize("node", [EVIL, NESTED, {"_target_": "joblib.load", "filename": "x"}])
def test_metadata_of_weights_execute_nothing(received, capsys, node):
    from kdrun.files import sha256_file
    from kdrun.networks.weights import load_state, read_metadata, save_state

    for weights in (received / "outputs" / "store").rglob("*.safetensors"):
        metadata = {**read_metadata(weights), "network": node}
        save_state(load_state(weights), weights, metadata)
        for manifest in weights.parent.glob("*.json"):
            text = manifest.read_text()
            known = json.loads(text).get("files", {}).get(weights.name) if "files" in text else None
            old = known.get("sha256") if isinstance(known, dict) else known
            if old:
                manifest.write_text(text.replace(old, sha256_file(weights)))
    for words in (["export", "last"], ["card", "last"]):
        assert main([*words, "targets.sentnets=true"]) == 2
    with pytest.raises(kdrun.UserError):
        kdrun.load("last", targets=["sentnets"])
    assert not (received / "PWNED").exists()


def test_an_exported_network_says_nothing_of_what_it_may_call(received, capsys):
    from kdrun.hardware.exports.artifact import Artifact
    from kdrun.hardware.exports.load import load_export

    assert main(["export", "last", "format=safetensors", "to=files", "targets.sentnets=true"]) == 0
    sys.modules.pop("sentnets")
    (received / "IMPORTED").unlink()
    folder = next((received / "files").glob("*/*/artifact.json")).parent
    for load in (lambda: load_export(folder), lambda: Artifact.read(folder).session()):
        with pytest.raises(kdrun.UserError, match="sentnets"):
            load()
    assert not executed(received)
    assert load_export(folder, ["sentnets"])[0] is not None


def test_a_pt2_file_that_was_not_made_here_is_not_opened(tmp_path, monkeypatch):
    from kdrun.hardware.exports.sessions import captured

    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path))
    (tmp_path / "model.pt2").write_bytes(b"sent")
    with pytest.raises(kdrun.UserError, match="not made here"):
        captured(tmp_path / "model.pt2", "cpu")


def test_what_a_file_allows_is_told_once(received, caplog, capsys):
    """A --conf folder that somebody sent may declare targets, but not silently."""
    words = ["--conf", "conf", "--cfg", "job", "student=mine"]
    for told in (1, 1):
        assert main(words) == 0
        assert sum("sentnets" in message for message in caplog.messages) == told
    assert (
        main(["--cfg", "job", "student=mlp_8", "student.network={_target_: sentnets.Net}", "targets.sentnets=true"])
        == 0
    )
    assert not executed(received)


def test_a_network_adopts_no_weights_whose_metadata_name_something_else():
    from kdrun.domains.images.spec import DataSpec
    from kdrun.networks.build import build_network

    spec = DataSpec("digits", tuple("0123456789"), (1, 8, 8), {}, (0.5,), (0.5,))
    base = {"_target_": "kdrun.networks.mlp.MLP", "hidden": [4], "_partial_": True}
    node = {"_target_": "kdrun.networks.compressed.Compressed", "base": base, "quantize": True}
    with pytest.raises(kdrun.UserError, match="refused"):
        build_network(node, spec, seed=0).adopt({"network": EVIL}, {})


def test_no_file_of_the_current_folder_stands_in_for_a_library(tmp_path):
    import subprocess

    (tmp_path / "yaml.py").write_text("open('PWNED', 'w')\n")
    command = [sys.executable, "-m", "kdrun", "--cfg", "job", "data=digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "PWNED").exists()
