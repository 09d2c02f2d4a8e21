"""Help is output too: its examples work, and flags that a verb would ignore are refused."""

import re
import shlex

import pytest

from kdrun import cli
from kdrun.verbs.usage import USAGE


def examples():
    texts = [cli.HELP, *USAGE.values()]
    lines = [line.strip() for text in texts for line in text.splitlines() if re.match(r"\s+kdrun( |$)", line)]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


@pytest.mark.parametrize("line", sorted(set(examples())))
def test_every_example_of_the_help_parses_and_composes(line):
    from kdrun.config.compose import split_sweep
    from kdrun.job.compose import compose

    args = cli.parse(shlex.split(line.partition("|")[0])[1:])
    if "hydra/sweeper=optuna" in args.overrides:
        from kdrun.sweep.space import read_space

        assert read_space([word for word in args.overrides if not word.startswith("hydra/")]).parameters
    elif args.verb in ("run", "plan") and not args.conf_dirs and not args.help:
        for point in split_sweep(args.overrides) if args.multirun else [args.overrides]:
            compose(point)


def test_brackets_are_quoted_in_every_example():
    for line in examples():
        bare = re.sub(r"'[^']*'", "", line)
        assert "[" not in bare and "~o" not in bare and "*" not in bare, line


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_has_its_own_help(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"kdrun {verb}: ") and "usage: kdrun" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_whole_help_fits_a_screen_and_names_every_verb_and_flag(capsys):
    assert cli.main(["-h"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS) and all(flag in text for flag in cli.FLAGS)
    assert len(text.splitlines()) <= 55


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--why"],
        ["show", "-m"],
        ["plan", "jobs=2"],
        ["runs", "--from", "x"],
        ["check", "--force"],
        ["show", "--cfg", "job"],
    ],
)
def test_a_flag_that_a_verb_would_ignore_is_refused(words, capsys):
    assert cli.main(words) == 2
    assert "belongs to" in capsys.readouterr().err


def test_cfg_job_of_a_sweep_is_one_document_per_job(capsys):
    import yaml

    assert cli.main(["--cfg", "job", "-m", "seed=0,1"]) == 0
    assert [document["seed"] for document in yaml.safe_load_all(capsys.readouterr().out)] == [0, 1]


def test_the_extra_all_has_every_extra():
    import re
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (whole,) = extras["all"]
    assert set(re.fullmatch(r"kdrun\[(.*)\]", whole)[1].split(",")) == extras.keys() - {"all"}


def test_a_hint_names_packages_that_can_be_installed():
    """`kdrun` itself is on no index."""
    from pathlib import Path

    import kdrun

    for path in Path(kdrun.__file__).parent.rglob("*.py"):
        assert "pip install 'kdrun" not in path.read_text(encoding="utf-8"), path
