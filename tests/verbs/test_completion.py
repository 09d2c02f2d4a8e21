"""What TAB offers, and that the scripts are accepted by their shells."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdrun import cli
from kdrun.verbs.completion import candidates

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=va"], ["strategy=vanilla"]),
        (["pla"], ["plan"]),
        (["runs", "stat"], ["status="]),
        (["table", "transfer_"], ["transfer_fashion"]),
        (["train"], ["trainer=", "trainer/groups=", "trainer/optimizer=", "trainer."]),
        (["trainer.ep"], ["trainer.epochs="]),
        (["trainer.optimizer.l"], ["trainer.optimizer.lr="]),
        (["student.network."], ["student.network.depth=", "student.network.width="]),
        (["student=mlp_8", "student.network."], ["student.network.hidden="]),
        (["model=mlp_ladder", "student.network."], ["student.network.hidden="]),
        (["objective.kd."], ["objective.kd.weight=", "objective.kd.temperature="]),
        (["objective=ce", "objective.k"], []),
        (["strategy=cascaded", "strategy.dr"], ["strategy.drop="]),
        (["hardware.device=c"], ["hardware.device=cpu", "hardware.device=cuda"]),
        (["hardware.channels_last="], ["hardware.channels_last=true", "hardware.channels_last=false"]),
        (["-m", "strategy=alone,va"], ["strategy=alone,vanilla"]),
        (["experiment=smo"], ["experiment=smoke"]),
        (["plan", "strategy=va"], ["strategy=vanilla"]),
        (["ls", "str"], ["strategy"]),
        (["fetch", "fash"], ["fashion_mnist"]),
        (["completion", "z"], ["zsh"]),
        (["--js"], ["--json"]),
        (["--cfg", ""], ["job"]),
        (["--conf", ""], []),
        (["nothing.like.this"], []),
        (["strategy=nothing"], []),
    ],
)
def test_candidates(words, expected):
    assert list(candidates(words)) == expected


def test_the_first_word_may_be_a_verb_and_later_ones_may_not():
    assert "plan" in candidates([""]) and "student=" in candidates([""])
    assert "plan" not in candidates(["seed=1", ""])


def test_folders_given_before_are_included(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine.yaml").write_text("# my own\nnetwork:\n  _target_: mylab.Net\n  blocks: 3\n")
    assert candidates(["--conf", str(tmp_path), "student=mine"]) == {"student=mine": "my own"}
    assert candidates([f"--conf={tmp_path}", "student=mine"]) == {"student=mine": "my own"}
    assert list(candidates(["--conf", str(tmp_path), "student=mine", "student.network."])) == [
        "student.network.blocks="
    ]


def test_runs_by_name(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "runs" / "vanilla-0123abcd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert list(candidates(["show", "van"])) == ["vanilla-0123abcd"]
    assert "last" in candidates(["rerun", ""])


def test_every_candidate_key_is_accepted():
    """What is offered exists: taking each key away or setting it to null never gives `no such key`."""
    from kdrun.job.compose import compose
    from kdrun.problems import UserError

    keys = [name for prefix in ("trainer.", "teacher.", "objective.kd.", "data.") for name in candidates([prefix])]
    keys = [name for name in keys if name.endswith("=")]
    assert len(keys) > 20
    try:
        compose([f"{key}null" for key in keys])
    except UserError as error:
        assert not any(
            "no such key" in line or "no parameter" in line for problem in error.problems for line in problem
        )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_parse_and_complete(shell, capsys, tmp_path):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    assert cli.main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    subprocess.run([program, "-n", str(script)], check=True)
    command = str(BIN / "kdrun")
    tries = {
        "bash": 'compopt() { :; }; source "$1"; COMP_LINE="$2 strategy=va"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$2"); _kdrun; echo "${COMPREPLY[@]}"',
        "zsh": 'compdef() { : }; compadd() { echo "$@" }; source "$1"; words=("$2" strategy=va); CURRENT=2; _kdrun',
        "fish": 'function kdrun; end; set -x PATH (dirname "$argv[2]") $PATH; source "$argv[1]"; complete -C "kdrun strategy=va"',
    }
    options = ["-f"] if shell == "zsh" else ["--no-config"] if shell == "fish" else ["--norc"]
    extra = [] if shell == "fish" else ["x"]
    done = subprocess.run(
        [program, *options, "-c", tries[shell], *extra, str(script), command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "vanilla" in done.stdout, done.stderr
