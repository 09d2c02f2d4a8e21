"""Folders of configs: shipped, given with --conf, brought by a plugin; what `ls` says of them."""

import json
import re
import subprocess
import sys

import pytest

from kdrun import cli
from kdrun.config.groups import conf_dirs, groups
from kdrun.job.compose import compose
from kdrun.problems import UserError


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path in which packages with entry points are 'installed'."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, value, files=()):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[kdrun.conf]\n{name} = {value}\n")
        for path, text in dict(files).items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return install


GOOD = {
    "goodlab/__init__.py": "raise RuntimeError('the code of a plugin must not run for ls')\n",
    "goodlab/nets.py": "class Net:\n    def __init__(self, num_classes, width: int = 3): ...\n",
    "goodlab/conf/student/goodnet.yaml": "# a network of goodlab\nnetwork:\n  _target_: goodlab.nets.Net\n",
    "goodlab/conf/trainer/quick.yaml": "epochs: 99\n",
}


def test_a_plugin_adds_options_everywhere_and_its_package_is_allowed(site, capsys):
    site("goodlab", "goodlab.conf", GOOD)
    assert cli.main(["ls", "student"]) == 0
    assert "a network of goodlab" in capsys.readouterr().out
    assert cli.main(["__complete", "student=good"]) == 0
    assert capsys.readouterr().out.split() == ["student=goodnet"]
    with pytest.raises(UserError, match="closest: goodnet"):
        compose(["student=goodnt"])
    assert compose(["student=goodnet"]).config["student"]["network"]["_target_"] == "goodlab.nets.Net"
    with pytest.raises(UserError, match=r"closest: student\.network\.width"):
        compose(["student=goodnet", "student.network.widht=3"])


NETWORK = "# a network of mine\n_target_: kdrun.networks.mlp.MLP\nhidden: [{}]\n"


def test_a_network_is_an_option_of_both_learners(tmp_path, capsys):
    for name, width in (("mine", 5), ("wide/mine", 50)):
        file = tmp_path / "network" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NETWORK.format(width))
    folders = [str(tmp_path)]
    config = compose(["student=mine", "teacher=wide/mine", "teacher@assistants.resnet8=mine"], folders).config
    assert config["student"]["network"]["hidden"] == config["assistants"]["resnet8"]["network"]["hidden"] == [5]
    assert config["teacher"]["network"]["hidden"] == [50]
    assert [config[learner]["name"] for learner in ("student", "teacher")] == ["mine", "mine"]
    assert cli.main(["ls", "teacher", "--conf", folders[0]]) == 0
    assert re.search(r"^  wide/mine +a network of mine$", capsys.readouterr().out, re.M)
    with pytest.raises(UserError, match="no student 'mien'; closest: mine"):
        compose(["student=mien"], folders)
    (tmp_path / "network" / "mine.yaml").write_text(NETWORK.format(5) + "depht: 3\n")
    with pytest.raises(UserError, match=r"student\.network\.depht \(\S*network/mine\.yaml, line 4\)"):
        compose(["student=mine"], folders)


def test_a_file_of_a_learner_says_more_than_the_network_of_its_name(tmp_path):
    for group, text in (
        ("network", NETWORK.format(5)),
        ("teacher", "defaults:\n  - /network@network: mine\nseed: 7\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    config = compose(["student=mine", "teacher=mine"], [str(tmp_path)]).config
    assert config["teacher"]["seed"] == 7 and config["teacher"]["network"] == config["student"]["network"]


def test_a_plugin_never_changes_what_a_shipped_name_means(site):
    site("goodlab", "goodlab.conf", GOOD)
    assert compose(["trainer=quick"]).config["trainer"]["epochs"] != 99


@pytest.mark.parametrize("value", ["nosuchlab.conf", "goodlab.nothing", "", "..", "goodlab.conf:thing"])
def test_a_broken_plugin_is_named_and_stops_nobody(site, value, capsys):
    site("goodlab", "goodlab.conf", GOOD)
    site("badlab", value)
    assert cli.main(["ls", "student"]) == 0
    captured = capsys.readouterr()
    assert "plugin badlab" in captured.err and len(captured.err.splitlines()) == 1
    assert "goodnet" in captured.out
    assert compose(["student=goodnet"])


def test_conf_folders_come_first_then_shipped_then_plugins(tmp_path, site):
    site("goodlab", "goodlab.conf", GOOD)
    (tmp_path / "conf").mkdir()
    dirs, _ = conf_dirs([str(tmp_path / "conf")])
    assert [d.origin for d in dirs] == ["--conf", "kdrun", "plugin goodlab"]


def test_a_conf_folder_that_is_not_there():
    with pytest.raises(UserError, match="no such folder"):
        conf_dirs(["/no/where"])


def test_building_blocks_are_hidden_and_nested_groups_found(tmp_path):
    for name in ("student/_base.yaml", "student/mine.yaml", "trainer/optimizer/own.yaml", ".git/x.yaml", "notes.yaml"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\n# text\n")
    table = groups(conf_dirs([str(tmp_path)])[0])
    assert "mine" in table["student"] and "_base" not in table["student"]
    assert table["trainer/optimizer"]["own"].summary == "text"
    assert ".git" not in table


def test_ls_as_json(capsys):
    assert cli.main(["ls", "strategy", "--json"]) == 0
    assert "vanilla" in json.loads(capsys.readouterr().out)["strategy"]


def test_kdrun_yaml_of_a_conf_folder(tmp_path):
    (tmp_path / "kdrun.yaml").write_text("targets: {mylab: true}\n")
    with pytest.raises(UserError, match="no package 'mylab'"):  # allowed, but not there
        compose(["student.network._target_=mylab.Net"], [str(tmp_path)])
    (tmp_path / "kdrun.yaml").write_text("target: {mylab: true}\n")
    with pytest.raises(UserError, match=r"kdrun\.yaml: expected only"):
        compose([], [str(tmp_path)])


def test_a_package_in_the_current_folder_is_found_after_installed_ones(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kdrun", "ls", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
