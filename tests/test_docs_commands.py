"""Commands of pages whose jobs take longer than a test, or whose data a machine may lack: each composes, and what it would do is known."""

import re
import shlex
from pathlib import Path

import pytest

from kdrun.cli import parse
from kdrun.config.compose import compose
from kdrun.config.groups import conf_dirs, groups
from kdrun.config.overrides import split_sweep
from kdrun.job.cells import expected

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (
    "parameter-groups",
    "optimizers",
    "image-benchmarks",
    "text",
    "vocabulary-losses",
    "language-models",
    "rewards",
    "gui-agents",
    "spiking",
    "federated-clusters",
    "continual",
)
COMMANDS = [
    line.partition(" #")[0].strip()
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_composes_and_its_stages_are_known(line):
    command, *words = shlex.split(line)
    assert command == "kdrun"
    arguments = parse(words)
    points = split_sweep(arguments.overrides, groups(conf_dirs()[0])) if arguments.multirun else [arguments.overrides]
    for point in points:
        assert expected(compose(point).config)
