"""Every shipped network, teacher, student and family: it composes, builds, runs, and is what its first line says."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir

from kdrun.data.spec import DataSpec
from kdrun.data.text_spec import TextSpec
from kdrun.ledger.flops import forward_flops, parameters
from kdrun.networks.build import build_network
from kdrun.tasks.build import task_for

CONF = Path(__file__).resolve().parents[2] / "conf"
BY_NAME = ("timm", "transformers", "hf_seq2seq")  # need an extra and a name; see test_by_name.py, test_seq2seq.py
NETWORKS = sorted(path.stem for path in (CONF / "network").glob("*.yaml"))
TEXT = [name for name in NETWORKS if name.startswith("nmt_")]
FAMILIES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
WORDS = {"M": 1e6, "k": 1e3}


def spec(shape=(1, 8, 8)) -> DataSpec:
    channels = shape[0]
    names = tuple(map(str, range(10)))
    return DataSpec("s", names, shape, {"train": 1, "val": 1, "test": 1}, (0.5,) * channels, (0.5,) * channels)


def text_spec() -> TextSpec:
    return TextSpec("t", ("de", "en"), 512, 0, 1, 2, 3, {"train": 1, "val": 1, "test": 1}, 128, "0" * 64)


def task(data):
    return task_for(SimpleNamespace(spec=data))


@pytest.mark.parametrize("name", TEXT)
def test_text_networks_run_and_can_be_counted(name):
    assert task(text_spec()).flops(build_network(node(name), text_spec(), seed=0)) > 0


def node(name: str) -> dict:
    return yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in (*BY_NAME, *TEXT)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_runs_on_every_shipped_image_size_and_can_be_counted(name, shape):
    network = build_network(node(name), spec(shape), seed=0)
    assert forward_flops(network, shape) > 0
    first = (CONF / "network" / f"{name}.yaml").read_text().splitlines()[0]
    if said := re.search(r"\(([\d.]+) (M|k) parameters\)", first):
        assert parameters(network) / WORDS[said[2]] == pytest.approx(float(said[1]), rel=0.1)


@pytest.mark.parametrize("group", ["network", "teacher", "student", "objective", "model"])
def test_the_first_line_of_comment_says_what_it_is(group):
    for path in (CONF / group).glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        assert re.match(r"# \S.{10,110}$", lines[0]), path


@pytest.mark.parametrize("group", ["teacher", "student"])
def test_every_network_is_a_teacher_and_a_student_of_its_name(group):
    assert sorted(path.stem for path in (CONF / group).glob("*.yaml")) == NETWORKS
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in NETWORKS:
            chosen = compose(overrides=[f"+{group}={name}"])[group]
            assert chosen.name == name
            assert chosen.network._target_ == node(name)["_target_"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gets_smaller_from_teacher_over_assistants_to_student(family):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = compose("config", overrides=[f"model={family}"])
    ladder = [job.teacher, *job.assistants.values(), job.student]
    data = text_spec() if family.startswith("nmt_") else spec()
    networks = [build_network(dict(learner.network), data, seed=0) for learner in ladder]
    sizes = [(parameters(network), task(data).flops(network)) for network in networks]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes) >= 3
    assert list(job.assistants) == [learner.name for learner in job.assistants.values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_typed_teacher_and_student_win_over_the_family(family):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = compose("config", overrides=[f"model={family}", "teacher=cnn_small", "student=mlp_64"])
    assert (job.teacher.name, job.student.name) == ("cnn_small", "mlp_64")
