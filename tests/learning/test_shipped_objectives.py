"""Every shipped objective on a task that has its tensors: one real step, in which each of its terms reaches the student."""

from pathlib import Path

import pytest
import yaml

from kdrun.domains.load import load_data
from kdrun.learning.probe import NotZero, probe
from kdrun.strategies.cast import Cast, distil, supervised
from kdrun.strategies.unused import StageCollector

from .stages import cell

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "objective"
NODES = {path.stem: yaml.safe_load(path.read_text()) or {} for path in sorted(FOLDER.glob("*.yaml"))}
OTHER_TASKS = ("margin_mse", "mse", "mse_kd", "llava", "word_kd", "word_kd_topk", "word_kd_vocabulary")
IMAGES = sorted(set(NODES) - set(OTHER_TASKS))


RESNETS = ("teacher=resnet14", "student=resnet8_w4")
WIDTHS = {"teacher": 16, "student": 8}
VIT = "{hidden_size: %d, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16, patch_size: 4, num_channels: 1}"
NETWORKS = {
    name: [
        f"{who}.network={{_target_: kdrun.networks.by_name.transformers_image_classifier, "
        f"architecture: ViTForImageClassification, config: {VIT % width}}}"
        for who, width in WIDTHS.items()
    ]
    for name in ("minilm", "tinybert")
}
NETWORKS["simkd"] = [
    "student.network={_target_: kdrun.networks.reused_classifier.ReusedClassifier, maps: stage3, width: 64, network: "
    "{_target_: kdrun.networks.resnet.ResNet, depth: 8, width: 4, in_channels: 1, image_size: 8}}"
]
for steps in ("seal", "step_ce", "step_kd", "temporal_decoupling"):
    NETWORKS[steps] = ["student=spiking_resnet8"]
NETWORKS |= {name: ["student=deit_tiny"] for name in ("deit_hard", "deit_soft")}
BERT = "{model_type: bert, hidden_size: %d, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16}"
for text in ("minilm_text", "tinybert_text"):
    NETWORKS[text] = ["data=made_topics", "data.tokens.vocabulary=400", "data.samples=200"] + [
        f"{who}.network={{_target_: kdrun.domains.text.networks.encoder.HuggingFaceEncoder, config: {BERT % width}}}"
        for who, width in WIDTHS.items()
    ]
NETWORKS["minilm_text"].append("objective.attention_relations.heads=4")
NETWORKS["tinybert_text"].append("objective.attention_scores.heads=2")
NETWORKS["minilm"].append("objective.attention_relations.heads=4")
NETWORKS["tinybert"].append("objective.attention_scores.heads=2")


def probed(*words):
    cast, lab = Cast(cell(*RESNETS, "data.limit.train=128", *words)), StageCollector()
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    return probe(stage, load_data(cast.config["data"], cast.config["paths"]))


@pytest.mark.parametrize("name", IMAGES)
def test_each_term_of_an_objective_reaches_the_student(name):
    weights = {term: node["weight"] for term, node in NODES[name].items()}
    if name in NETWORKS:
        pytest.importorskip("transformers")
    terms = probed(f"objective={name}", *NETWORKS.get(name, ()))["terms"]
    assert set(terms) == {term for term, weight in weights.items() if weight} and terms
    assert all(found["gradient"] > 0 for found in terms.values())


def test_a_loss_that_is_not_zero_for_equal_networks_has_to_say_so(monkeypatch):
    from kdrun.objectives.hard import hard

    assert probed("objective=hard")["terms"]["hard"]["identity"] > 0
    monkeypatch.setattr(hard, "zero_at_equality", True)
    with pytest.raises(NotZero, match="the hard term is"):
        probed("objective=hard")
