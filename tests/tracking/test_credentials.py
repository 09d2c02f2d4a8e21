from __future__ import annotations

import pytest

from kdrun.problems import UserError
from kdrun.tracking.credentials import has_key, resolve_mode

AUTO = {"name": "wandb", "mode": "auto"}


@pytest.mark.parametrize(
    ("tracker", "environment", "expected"),
    [
        (AUTO, {}, "offline"),
        (AUTO, {"WANDB_API_KEY": "k"}, "online"),
        (AUTO, {"WANDB_API_KEY": ""}, "offline"),
        (AUTO, {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        (AUTO, {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, None),
        ({**AUTO, "mode": "offline"}, {"WANDB_API_KEY": "k"}, "offline"),
        ({**AUTO, "mode": "online"}, {"WANDB_API_KEY": "k"}, "online"),
        ({"name": "none", "mode": "online"}, {}, None),
    ],
)
def test_mode(tracker, environment, expected, tmp_path):
    assert resolve_mode(tracker, {"HOME": str(tmp_path), **environment}) == expected


def test_online_without_a_key_is_one_line_at_plan_time(tmp_path):
    with pytest.raises(UserError) as error:
        resolve_mode({**AUTO, "mode": "online"}, {"HOME": str(tmp_path)})
    assert len(error.value.lines) == 1 and "wandb login" in error.value.lines[0]


def test_a_netrc_entry_counts_for_its_host_only(tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    home = {"HOME": str(tmp_path)}
    assert has_key(home)
    assert not has_key({**home, "WANDB_BASE_URL": "https://wandb.example.org"})
    (tmp_path / ".netrc").write_text("machine [broken")
    assert not has_key(home)


def test_misspelt_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="closest: wandb"):
        resolve_mode({"name": "wand"}, {})
    with pytest.raises(UserError, match="closest: offline"):
        resolve_mode({**AUTO, "mode": "ofline"}, {})
