"""Every command that the README shows is typed here, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run
from PIL import Image

from kdrun.verbs.arguments import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def shown(section: str) -> list[str]:
    """The commands of a section."""
    return re.search(rf"## {section}\n\n```sh\n(.*?)```", README, re.S)[1].splitlines()


EVERYDAY = shown("Everyday commands")
CHECK = next(line for line in EVERYDAY if line.startswith("kdrun check"))
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


def test_every_page_of_docs_is_linked_from_here():
    pages = {page.resolve() for page in (ROOT / "docs").glob("*.md")}
    assert len(pages) > 10 and not pages - linked(ROOT / "README.md")


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    broken = [(page.name, str(target)) for page in pages for target in linked(page) if not target.exists()]
    assert not broken


@pytest.mark.parametrize("line", [line for line in EVERYDAY if line != CHECK])
def test_everyday_commands(line, folder):
    """All in one folder, so that they find each other's runs and stages. Of those that need torch, one is typed."""
    one = next(line for line in EVERYDAY if line.split()[1] not in VERBS and " seed=0 " in line)
    done = forked(line, folder) if needs_torch(line) and line != one else typed(line, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_every_shipped_option_and_preset_composes_without_torch(folder):
    done = typed(CHECK, folder, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported and not imported & {"torch", "lightning", "torchmetrics", "wandb"}


def test_the_presets_commands_compose(folder):
    for command in (
        "kdrun experiment=transfer",
        "kdrun -m experiment=temperature objective.kd.temperature=1",
    ):
        assert typed(f"{command.replace(' -m', '')} --cfg job", folder).returncode == 0


def test_translation_composes(folder):
    for line in shown("Translation"):
        command = line.partition("#")[0].strip()
        if command.startswith("kdrun model="):
            assert typed(f"{command} --cfg job", folder).returncode == 0


def test_questions_about_pictures(tmp_path):
    pytest.importorskip("transformers")
    train, ask, plan = shown("Questions about pictures")
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    for line in (f"{train.partition('#')[0]} {SMALL}", ask, plan):
        done = forked(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()


def test_computed_tomography(tmp_path):
    fetch, train, plot = shown("Computed tomography")
    small = "data=ct_synthetic data.train=40 data.val=20 data.test=20 data.depth=8 data.size=16 data.strength=8"
    quick = "'controls=[alone]' trainer.epochs=2 seed=0 tracker=none card=false trainer.optimizer.lr=0.01 teacher.tolerance=1"
    assert fetch.startswith("kdrun fetch ct_patches")
    for line in (f"{train.partition('#')[0]} {small} {quick} strategy.teacher=lung", plot):
        done = forked(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("outputs/runs/*/plots/windows*.png"))


def test_clients_that_learn_together(folder):
    for line in shown("Clients that learn together"):
        small = "strategy.clients=3 strategy.rounds=2 data.limit.train=300 seed=0 tracker=none"
        done = forked(f"{line.partition('#')[0]} {small}", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "points over" in done.stdout


def test_on_your_device(folder):
    quick = "trainer.epochs=2 seed=0 tracker=none data.limit.train=400 teacher.trainer.epochs=3"
    for line in shown("On your device, and what it cost"):
        trains = line.split()[1] not in VERBS
        done = forked(f"{line.partition('#')[0]} {quick}" if trains else f"{line.partition('#')[0]}", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()


def test_the_shown_mistake_is_what_is_printed(folder):
    command, answer = re.search(r"\$ (kdrun strategyy=\S+)\n(.*?)```", README, re.S).groups()
    done = typed(command, folder)
    assert done.returncode == 2
    assert done.stderr == answer


def test_bring_your_own(tmp_path):
    option = re.search(r"```yaml\n(.*?)```", README, re.S)[1]
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "mine.yaml").write_text(option)
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "nets.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Sequential):\n"
        "    def __init__(self, width: int, num_classes: int, image_size: int = 8):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    line = re.search(r"^kdrun --conf \./conf student=mine.*$", README, re.M)[0]
    done = forked(f"{line} teacher=mlp_64 seed=0 trainer.epochs=2 tracker=none card=false", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
