"""Every shipped network, teacher, student and family: it composes, builds, runs, and is what its first line says."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from kdrun import kinds
from kdrun.config.groups import conf_dirs
from kdrun.config.hydra import compose_groups
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.language.spec import LanguageSpec
from kdrun.domains.text.spec import ClassifiedTextSpec
from kdrun.domains.translation.spec import TextSpec
from kdrun.domains.vision_language.networks.towers import build_tower
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.ledger.flops import counted_flops, parameters
from kdrun.ledger.roofline import on
from kdrun.networks.build import build_network
from kdrun.problems import Problems

CONF = Path(__file__).resolve().parents[2] / "conf"
NETWORKS = sorted(path.stem for path in (CONF / "network").glob("*.yaml"))
# Need an extra and a name, files that are fetched, or gigabytes; see test_by_name.py, test_monai.py, test_seq2seq.py ...
BY_NAME = (
    "timm",
    "transformers",
    "hf_seq2seq",
    "hf_encoder",
    "hf_causal_lm",
    "monai",
    "se_resnet50_monai",
    "served",
    *(n for n in NETWORKS if n.endswith("_events")),
    *(n for n in NETWORKS if n.startswith(("llava_smollm2", "llava_qwen", "minilm", "smollm2", "qwen_"))),
)
TEXT = [name for name in NETWORKS if name.startswith("nmt_")]
CLASSIFIED = [name for name in NETWORKS if name.startswith("text_")]
VISION = [name for name in NETWORKS if name.startswith(("llava_w", "multimodal"))]
LANGUAGE = [name for name in NETWORKS if name.startswith(("lm_", "agent_vision"))]
SEQUENCES = (*TEXT, *CLASSIFIED, *VISION, *LANGUAGE)
FAMILIES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
LARGE = ("llava_paper", "llava_smollm2", "text_classifier", "smollm2", "qwen_paper")
EQUAL = ("ct_se_resnet", "ct_paper", "clients_mixed", "spiking_resnet", "lm_answers", "lm_elastic", "smollm2_elastic")
"""No ladders: the same network for each view, clients of several makes, students that compute in each of several steps, that are of
the size of their assistant, or that are cut out of their teacher."""
WORDS = {"M": 1e6, "k": 1e3}


def spec(shape=(1, 8, 8)) -> DataSpec:
    channels = shape[0]
    names = tuple(map(str, range(10)))
    return DataSpec("s", names, shape, {"train": 1, "val": 1, "test": 1}, (0.5,) * channels, (0.5,) * channels)


def text_spec() -> TextSpec:
    return TextSpec("t", 512, 0, 1, 2, {"train": 1, "val": 1, "test": 1}, 128, "0" * 64, ("de", "en"), 3)


def vision_spec(modalities: tuple[str, ...] | None = None) -> VisionSpec:
    pytest.importorskip("transformers")
    tower = build_tower("efficientnet_lite0@16x2")
    return VisionSpec(
        "v",
        136,
        0,
        1,
        2,
        {},
        128,
        "0" * 64,
        4,
        tower.tokens(96),
        96,
        tower.width,
        f"{tower.identity}/96",
        "plain",
        ("a",),
        modalities=modalities,
    )


def classified_text_spec() -> ClassifiedTextSpec:
    pytest.importorskip("transformers")
    return ClassifiedTextSpec("c", ("a", "b", "c"), 512, 0, {}, 32, "0" * 64)


def language_spec(image_size: int | None = None) -> LanguageSpec:
    pytest.importorskip("transformers")
    return LanguageSpec("l", 512, 0, 1, 2, {}, 64, "0" * 64, image_size=image_size)


def data_of(name: str):
    if name.startswith(("agent_vision", "gui_agent_vision")):
        return language_spec(84)
    if name.startswith(("lm_", "causal_lm", "gui_")):
        return language_spec()
    if name.startswith("text_"):
        return classified_text_spec()
    if name.startswith("multimodal"):
        return vision_spec(("image", "audio", "video"))
    return text_spec() if name.startswith("nmt_") else vision_spec() if name.startswith("llava") else spec()


def task(data):
    return kinds.of_kind(data.kind).task(SimpleNamespace(spec=data))


@pytest.mark.parametrize("name", SEQUENCES)
def test_networks_of_sequences_run_and_can_be_counted(name):
    data = data_of(name)
    assert task(data).flops(build_network(node(name), data, seed=0)) > 0


def node(name: str) -> dict:
    return yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in (*BY_NAME, *SEQUENCES)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_runs_on_every_shipped_image_size_and_can_be_counted(name, shape):
    network = build_network(node(name), spec(shape), seed=0)
    assert counted_flops(network, on(shape)) > 0
    first = (CONF / "network" / f"{name}.yaml").read_text().splitlines()[0]
    if said := re.search(r"\(([\d.]+) (M|k) parameters\)", first):
        assert parameters(network) / WORDS[said[2]] == pytest.approx(float(said[1]), rel=0.1)


@pytest.mark.parametrize("group", ["network", "objective", "model"])
def test_the_first_line_of_comment_says_what_it_is(group):
    for path in (CONF / group).glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        assert re.match(r"# \S.{10,110}$", lines[0]), path


def composed(*overrides: str) -> dict:
    """The composed config, interpolations kept."""
    problems = Problems()
    done = compose_groups(overrides, conf_dirs()[0], {}, problems)
    problems.stop()
    return done.tree


@pytest.mark.parametrize("group", ["teacher", "student"])
def test_every_network_is_a_teacher_and_a_student_of_its_name(group):
    for name in NETWORKS:
        chosen = composed(f"{group}={name}")[group]
        assert chosen["network"]["_target_"] == node(name)["_target_"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in (*LARGE, *EQUAL)])
def test_a_family_gets_smaller_from_teacher_over_assistants_to_student(family):
    job = composed(f"model={family}")
    ladder = [job["teacher"], *job["assistants"].values(), job["student"]]
    data = data_of(family)
    networks = [build_network(learner["network"], data, seed=0) for learner in ladder]
    sizes = [(parameters(network), task(data).flops(network)) for network in networks]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_typed_teacher_and_student_win_over_the_family(family):
    job = composed(f"model={family}", "teacher=cnn_small", "student=mlp_64")
    targets = [job[learner]["network"]["_target_"] for learner in ("teacher", "student")]
    assert targets == [node(name)["_target_"] for name in ("cnn_small", "mlp_64")]
