"""Every config of a text source names a function that takes its keys; what is not an argument is common to all."""

import inspect
from pathlib import Path

import pytest
import yaml
from text_support import COMMON

from kdrun import targets

CONF = Path(__file__).parents[2] / "conf" / "data"
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if "kdrun.domains.translation." in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys(path):
    config = yaml.safe_load(path.read_text())
    accepted = inspect.signature(targets.locate(config["_target_"])).parameters
    assert path.stem == config["name"] == config["_target_"].rpartition(".")[2]
    text = config.pop("text")
    assert config.pop("task") == "translation" and text.keys() <= COMMON.keys()
    own = {key: value for key, value in config.items() if key not in COMMON and key != "_target_"}
    assert own.keys() == accepted.keys() - {"cache"}
    for key, value in own.items():
        default = accepted[key].default
        assert value == "???" if default is inspect.Parameter.empty else value == default


def test_all_are_there():
    assert len(FILES) == 5
