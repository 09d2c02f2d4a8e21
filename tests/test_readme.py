"""Every command that the README and docs/commands.md show is typed here, in an empty folder; so is all of docs/bring-your-own.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run
from PIL import Image

from kdrun.cli import parse
from kdrun.config.compose import compose
from kdrun.config.groups import conf_dirs, groups
from kdrun.config.overrides import split_sweep
from kdrun.job.cells import expected
from kdrun.verbs.arguments import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands(page: str) -> list[str]:
    """The commands of the first block of a page of docs."""
    return re.search(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)[1].splitlines()


EVERYDAY = commands("commands.md")
CHECK = next(line for line in EVERYDAY if line.startswith("kdrun check"))
TABLE = re.findall(
    r"`(kdrun [^`]*)`", README[README.index("## I want to ...") : README.index("## What you can hold it to")]
)
SMALL = (
    "'strategy.teachers=[llava_w64]' 'strategy.controls=[]' seed=0 data.train=800 data.val=40 data.test=40 data.further=0 "
    "trainer.batch_size=16 trainer.epochs=1 student.trainer.epochs=1 tracker=none card=false paths.cache=cache"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def typed(line: str, folder: Path, **environment: str):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **environment}
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, env=environment)


def forked(line: str, folder: Path):
    """The same in a process that has torch imported, and without W&B: both are waited for in the commands that are typed."""
    command, *words = shlex.split(line, comments=True)
    assert command == "kdrun"
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    return run([sys.executable, "-m", "kdrun", *words], folder=folder, env=environment)


def needs_torch(line: str) -> bool:
    word = line.split()[1]
    return word not in VERBS or word in ("plan", "rerun")


def linked(page: Path) -> set[Path]:
    """Files that a page links, without places in them and without what is on the web."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    broken = [(page.name, str(target)) for page in pages for target in linked(page) if not target.exists()]
    assert not broken


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in EVERYDAY if line != CHECK])
def test_everyday_commands(line, folder):
    """All in one folder, so that they find each other's runs and stages. Of those that need torch, one is typed."""
    one = next(line for line in EVERYDAY if line.split()[1] not in VERBS and " seed=0 " in line)
    done = forked(line, folder) if needs_torch(line) and line != one else typed(line, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.slow
def test_every_shipped_option_and_preset_composes_without_torch(folder):
    done = typed(CHECK, folder, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported and not imported & {"torch", "lightning", "torchmetrics", "wandb"}


@pytest.mark.parametrize("line", [line for line in TABLE if line.split()[1] not in VERBS])
def test_jobs_of_the_table_compose_and_their_stages_are_known(line):
    arguments = parse(shlex.split(line)[1:])
    points = split_sweep(arguments.overrides, groups(conf_dirs()[0])) if arguments.multirun else [arguments.overrides]
    for point in points:
        assert expected(compose(point).config)


def row(word: str) -> str:
    """The command of the table that has this word."""
    return next(line for line in TABLE if word in line)


@pytest.mark.slow
def test_questions_about_pictures(tmp_path):
    pytest.importorskip("transformers")
    _, ask = commands("vision-language.md")
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    for line in (f"{row('model=llava')} {SMALL}", ask, "kdrun plan model=llava_paper strategy=cascaded"):
        done = forked(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()


@pytest.mark.slow
def test_computed_tomography(tmp_path):
    small = "data=ct_synthetic data.train=40 data.val=20 data.test=20 data.depth=8 data.size=16 data.strength=8"
    quick = "'controls=[alone]' trainer.epochs=2 seed=0 tracker=none card=false trainer.optimizer.lr=0.01 teacher.tolerance=1"
    for line in (f"{row('cross_window')} {small} {quick} strategy.teacher=lung", "kdrun plot last kind=windows"):
        done = forked(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("outputs/runs/*/plots/windows*.png"))


@pytest.mark.parametrize(
    "line", [row("energy_gated"), f"{row('energy_gated')} strategy=federated strategy.method=fedprox"]
)
def test_clients_that_learn_together(line, folder):
    done = forked(f"{line} strategy.clients=3 strategy.rounds=2 data.limit.train=300 seed=0 tracker=none", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "points over" in done.stdout


@pytest.mark.slow
def test_on_your_device(folder):
    quick = "trainer.epochs=2 seed=0 tracker=none data.limit.train=400 teacher.trainer.epochs=3"
    lines = [
        f"kdrun student=auto hardware=raspberry_pi_5 {quick}",
        row("kdrun card"),
        row("kdrun export"),
        row("kdrun energy"),
        row("kdrun diagnose"),
        f"kdrun strategy=compress student=resnet8_w4 {quick}",
    ]
    for line in lines:
        done = forked(line, folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()


def test_the_shown_mistake_is_what_is_printed(folder):
    page = (ROOT / "docs" / "commands.md").read_text()
    command, answer = re.search(r"\$ (kdrun strategyy=\S+)\n(.*?)```", page, re.S).groups()
    done = typed(command, folder)
    assert done.returncode == 2
    assert done.stderr == answer


@pytest.mark.slow
def test_bring_your_own(tmp_path):
    """All files of the page, then its commands, each with results of its own."""
    page = (ROOT / "docs" / "bring-your-own.md").read_text()
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, re.S):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for line in "".join(re.findall(r"```sh\n(.*?)```", page, re.S)).splitlines():
        done = forked(f"{line} tracker=none card=false", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in tmp_path.glob("mylab/*.py")} == {"nets", "data", "losses", "metrics", "strategy"}
