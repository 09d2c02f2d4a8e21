"""P06: the two slips everybody makes in a preset are named with file, line and the corrected line."""

import pytest

from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.verbs.check import main as check


class Words:
    overrides: tuple = ()
    words: tuple = ()

    def __init__(self, folder):
        self.conf_dirs = [str(folder)]


SLIPS = {
    "# mine\ndefaults:\n  - override /model: mlp_ladder\n": ["line 1", "# @package _global_"],
    "# mine\ntrainer:\n  epochs: 3\n": ["line 1", "# @package _global_"],
    "# @package _global_\ndefaults:\n  - model: mlp_ladder\n": ["line 3", "- override /model: mlp_ladder"],
    "# @package _global_\ndefaults:\n  - /model: mlp_ladder\n": ["line 3", "- override /model: mlp_ladder"],
    "# @package _global_\ndefaults:\n  - override model: mlp_ladder\n": ["line 3", "- override /model: mlp_ladder"],
    "# @package _global_\ntrainer:\n  epoch: 3\n": ["line 3", "closest: trainer.epochs"],
    "# @package _global_\ndefaults:\n  - override /model: mlp_laddr\n": ["mlp_laddr", "closest: mlp_ladder"],
}


@pytest.mark.parametrize("text", SLIPS)
def test_a_slip_is_explained_when_the_preset_is_used_and_by_check(text, tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as used:
        compose(["experiment=mine"], [tmp_path])
    monkeypatch.setattr(
        "kdrun.verbs.check.groups", lambda dirs: {"experiment": {"mine": _groups(dirs)["experiment"]["mine"]}}
    )
    monkeypatch.setattr("kdrun.verbs.check.tables", lambda dirs: {})
    with pytest.raises(UserError) as checked:
        check(Words(tmp_path))
    for error in (used, checked):
        shown = "\n".join(error.value.lines)
        assert "experiment/mine.yaml" in shown
        assert all(part in shown for part in SLIPS[text]), shown


def _groups(dirs):
    from kdrun.config.groups import groups

    return groups(dirs)


def test_a_right_preset_has_no_mistakes():
    from kdrun.config.groups import conf_dirs, groups
    from kdrun.config.presets import PRESETS, mistakes

    table = groups(conf_dirs()[0])
    for group in PRESETS:
        for option in table[group].values():
            assert mistakes(option, table) == []


def test_presets_and_options_in_subfolders_are_listed_completed_composed_and_checked(tmp_path, capsys):
    from kdrun.cli import main
    from kdrun.config.groups import conf_dirs

    files = {
        "experiment/cifar100/x.yaml": "# @package _global_\n# mine\ndefaults:\n  - override /objective: soft/half\nseeds: 1\n",
        "experiment/cifar100/deep/y.yaml": "# @package _global_\ndefaults:\n  - override /data: here/d\nseeds: 2\n",
        "objective/soft/half.yaml": "ce: {weight: 0.5}\nkd: {weight: 0.5}\n",
        "data/here/d.yaml": "_target_: kdrun.domains.images.shipped.digits.digits\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    job = compose(["experiment=cifar100/x"], [str(tmp_path)])
    assert job.config["objective"]["ce"]["weight"] == 0.5 and job.config["seeds"] == [0]
    deep = compose(["experiment=cifar100/deep/y"], [str(tmp_path)])
    assert deep.config["seeds"] == [0, 1] and deep.config["data"]["name"] == "d"
    with pytest.raises(UserError, match="closest: cifar100/deep/y"):
        compose(["experiment=cifar100/deep/z"], [str(tmp_path)])
    with pytest.raises(UserError, match="type experiment=cifar100/x"):
        compose(["experiment/cifar100=x"], [str(tmp_path)])
    assert main(["ls", "experiment", "--conf", str(tmp_path)]) == 0
    assert "cifar100/x" in capsys.readouterr().out
    assert main(["__complete", "--conf", str(tmp_path), "experiment=cifar100/d"]) == 0
    assert capsys.readouterr().out.split() == ["experiment=cifar100/deep/y"]
    table = _groups(conf_dirs([str(tmp_path)])[0])
    assert "trainer/optimizer" in table and "optimizer/sgd" not in table["trainer"], "a group of its own stays one"
    assert not any(group.startswith(("experiment/", "data/")) for group in table)
