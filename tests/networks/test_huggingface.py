"""Networks of transformers: layers that are kept, and weights of a network with more layers."""

import pytest
import torch

from kdrun.domains.language.networks.causal_lm import HuggingFaceCausalLM
from kdrun.domains.text.networks.encoder import HuggingFaceEncoder
from kdrun.networks.weights import load_weights, save_weights
from kdrun.problems import UserError

pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "initializer_range": 0.5}
KINDS = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
QWEN = {
    **SIZES,
    "model_type": "qwen3",
    "head_dim": 8,
    "num_key_value_heads": 2,
    "sliding_window": 2,
    "use_sliding_window": True,
}
BERT = {**SIZES, "model_type": "bert", "num_hidden_layers": 4}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def decoder(kinds, layers=None):
    torch.manual_seed(0)
    config = {**QWEN, "num_hidden_layers": len(kinds), "layer_types": kinds}
    return HuggingFaceCausalLM(None, config, layers, 40, 0, 1, 64).eval()


def encoder(layers=None):
    torch.manual_seed(0)
    return HuggingFaceEncoder(None, BERT, layers, 40, 0, 64, 3).eval()


@pytest.mark.parametrize(("made", "shape"), [(encoder, (1, 3)), (lambda: decoder(KINDS), (1, 7, 40))])
def test_shapes_are_told_without_memory_although_a_mask_is_given(made, shape):
    with torch.device("meta"):
        network = made()
        ids = torch.zeros(IDS.shape, dtype=torch.int64)
        said = network(ids, torch.ones_like(ids, dtype=torch.bool))
    assert said.is_meta and said.shape == shape


@pytest.mark.parametrize("layers", [[0, 3], [1, 2, 3], [3, 0]])
def test_kept_layers_are_those_of_a_network_that_was_made_with_so_many(layers):
    part, whole = decoder(KINDS, layers), decoder([KINDS[number] for number in layers])
    assert part.model.config.layer_types == whole.model.config.layer_types
    whole.load_state_dict(part.state_dict())
    with torch.no_grad():
        assert torch.equal(part(IDS), whole(IDS))
    answers = [model.generate(IDS, torch.ones_like(IDS).bool(), 8, eos=[]) for model in (part, whole)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("theirs", "ours"), [(None, [0, 2]), ([0, 2, 3], [3, 0]), ([0, 2], [0, 2])])
def test_weights_of_more_layers_give_their_layers(theirs, ours, tmp_path):
    teacher, student, whole = encoder(theirs), encoder(ours), encoder()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1.0)
    file = save_weights(teacher, tmp_path / "teacher.safetensors", node={"from_layers": theirs})
    load_weights(student, file)
    for place, number in enumerate(ours):
        layer, before = student.model.bert.encoder.layer[place], whole.model.bert.encoder.layer[number]
        for mine, other in zip(layer.parameters(), before.parameters(), strict=True):
            assert torch.equal(mine, other + 1.0)
    for mine, other in zip(student.model.classifier.parameters(), teacher.model.classifier.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_layer_that_the_other_network_lacks_is_told():
    with pytest.raises(UserError, match=r"from_layers=\[0, 1\].*no layer 1, only \[0, 2\]"):
        encoder([0, 1]).adopt({"network": {"from_layers": [0, 2]}}, encoder([0, 2]).state_dict())
