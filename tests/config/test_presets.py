"""P06: the two slips everybody makes in a preset are named with file, line and the corrected line."""

import pytest

from kdrun.config.compose import compose
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
    monkeypatch.setattr("kdrun.verbs.check.groups", lambda dirs: {"experiment": _groups(dirs)["experiment"]})
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
