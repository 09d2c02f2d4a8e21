"""`${oc.env:NAME}` is used as its value and kept as its name, wherever something is written or printed."""

import json
import re
import sys

import pytest

import kdrun
from kdrun.cli import main
from kdrun.environment import differing
from kdrun.job.compose import compose
from kdrun.problems import UserError

VALUE = "hunter2-of-the-test"
NETWORK = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, token=""):
        super().__init__()
        assert token == os.environ["SECRET"], "the value does not arrive"
        if os.environ.get("FAIL"):
            raise RuntimeError(f"no access with {token}")
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, x):
        return self.net(x)

def loss(student_logits, *, word):
    assert word == os.environ["SECRET"]
    return student_logits.square().sum(-1)
"""
RUN = [
    "strategy=alone",
    "data=digits",
    "trainer.epochs=1",
    "seed=0",
    "tracker=wandb",
    "hardware=cpu",
    "card=false",
    "targets.secretnets=true",
]
NET = "student.network={_target_: secretnets.Net, token: '${oc.env:SECRET}'}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "secretnets.py").write_text(NETWORK)
    monkeypatch.setenv("SECRET", VALUE)
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("secretnets", None)


def assert_nowhere(folder, capsys, *texts):
    """The value is in no name and no content of a file, and in nothing that was printed."""
    said = capsys.readouterr()
    assert VALUE not in said.out + said.err
    for path in folder.rglob("*"):
        assert "hunter2" not in str(path.relative_to(folder)), path
        if path.is_file():
            assert VALUE.encode() not in path.read_bytes(), path
    return said


def test_a_run_uses_the_value_and_records_the_name(here, capsys):
    words = [*RUN[1:], "strategy=vanilla", "teacher=mlp_8", NET, "name=${oc.env:SECRET}", "student.name=of-${oc.env:SECRET}", "tags.who=${oc.env:SECRET}",
             "extra.token=${oc.env:SECRET}", "objective.own={_target_: secretnets.loss, word: '${extra.token}', weight: 0.1}"]  # fmt: skip
    assert main(words) == 0
    for verb in ("show", "report", "runs", "export", "plan"):
        assert main([verb, *(words if verb == "plan" else [])]) == 0
    assert main(["rerun", "last"]) == 0
    assert main(["--cfg", "job", *words]) == 0
    assert_nowhere(here, capsys)
    folder = next((here / "outputs" / "runs").glob("*/record.json")).parent
    record = json.loads((folder / "record.json").read_text())
    for text in (
        record["config"]["student"]["network"]["token"],
        record["config"]["name"],
        record["config"]["extra"]["token"],
    ):
        assert re.fullmatch(r"\$\{oc\.env:SECRET#[0-9a-f]{16}\}", text)
    assert "SECRET" in folder.name
    assert kdrun.load("last") is not None


def test_a_failure_names_it_too(here, capsys, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    for verb in (["run"], ["plan"]):
        assert main([*verb, *RUN, NET]) in (1, 2)
        assert "no access with ${oc.env:SECRET}" in assert_nowhere(here, capsys).err


def test_a_message_about_a_value_names_it(here, capsys):
    assert main(["plan", *RUN, NET, "trainer.epochs=${oc.env:SECRET}"]) == 2
    assert "${oc.env:SECRET}" in assert_nowhere(here, capsys).err


def test_another_value_is_another_job_and_the_same_is_the_same(here, monkeypatch):
    one, again = compose([*RUN, NET]), compose([*RUN, NET])
    monkeypatch.setenv("SECRET", "another value")
    other = compose([*RUN, NET])
    assert one.hash == again.hash != other.hash
    assert differing(one.cells) == ["SECRET"] and differing(other.cells) == []


def test_numbers_folders_choices_and_what_is_declared_harmless_are_recorded(here, monkeypatch):
    monkeypatch.setenv("RATE", "0.5")
    monkeypatch.setenv("FOLDER", str(here / "results"))
    monkeypatch.setenv("WHERE", "cpu")
    words = ["trainer.optimizer.lr=${oc.env:RATE}", "paths.outputs=${oc.env:FOLDER}", "hardware.device=${oc.env:WHERE}"]
    config = compose([*RUN, NET, *words, "environment.SECRET=true"]).config
    assert config["trainer"]["optimizer"]["lr"] == 0.5 and config["paths"]["outputs"] == str(here / "results")
    assert config["hardware"]["device"] == "cpu" and config["student"]["network"]["token"] == VALUE
    plain = compose([*RUN, "student.network={_target_: secretnets.Net, token: '${oc.env:NOT_THERE,none}'}"]).config
    assert plain["student"]["network"]["token"] == "none"


def test_what_cannot_be_kept_out_of_a_record_is_refused(here):
    with pytest.raises(UserError, match=r"environment\.SECRET=true"):
        compose([*RUN, "student.network={_target_: secretnets.Net, token: '${oc.decode:${oc.env:SECRET}}'}"])


def test_a_received_record_reads_nothing_of_the_environment(here, capsys, monkeypatch):
    assert main([*RUN, NET]) == 0
    monkeypatch.setenv("OTHER", "something else that is secret")
    path = next((here / "outputs" / "runs").glob("*/record.json"))
    path.write_text(path.read_text().replace("oc.env:SECRET#", "oc.env:OTHER#").rstrip())
    for words in (["rerun", "last"], ["export", "last"]):
        assert main(words) == 2
        assert "environment.OTHER=true" in capsys.readouterr().err
    monkeypatch.delenv("SECRET")
    path.write_text(path.read_text().replace("oc.env:OTHER#", "oc.env:SECRET#"))
    assert main(["export", "last"]) == 2
    assert "environment variable SECRET, which is not set" in capsys.readouterr().err
