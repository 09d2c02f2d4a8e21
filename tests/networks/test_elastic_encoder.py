"""Nested encoders of images and texts: the whole is its parent, what is cut out is what was masked."""

from itertools import pairwise

import pytest
import torch

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.text.spec import ClassifiedTextSpec
from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network
from kdrun.networks.elastic_encoder import AXES, FFN, HEADS
from kdrun.networks.weights import load_weights, read_metadata, save_weights
from kdrun.problems import UserError

IMAGES = DataSpec("images", tuple("abcde"), (1, 8, 8), {}, (0.0,), (1.0,))
TEXTS = ClassifiedTextSpec("texts", tuple("abc"), 50, 0, {"train": 8, "val": 2, "test": 2}, 12, "x")
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
ENCODER = "kdrun.domains.text.networks.encoder.HuggingFaceEncoder"
VIT = {"_target_": "kdrun.networks.vit.VisionTransformer", "width": 24, "depth": 2, "heads": 4}
NETWORKS = {
    "vit": VIT,
    "deit": {**VIT, "distilled": True},
    "bert": {"_target_": ENCODER, "config": BERT},
    "roberta": {"_target_": ENCODER, "config": {**BERT, "model_type": "roberta"}},
    "distilbert": {
        "_target_": ENCODER,
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    },
}
RANDOM = torch.Generator().manual_seed(0)
IDS = torch.randint(3, 50, (4, 9), generator=RANDOM)
MASK = torch.ones_like(IDS, dtype=torch.bool)
MASK[0, 6:] = False
BUDGETS = [1.0, 0.8]
"""Embeddings and the width of tokens stay."""


def spec_of(name):
    return IMAGES if name in ("vit", "deit") else TEXTS


def inputs_of(name):
    return (
        (torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)
        if spec_of(name) is IMAGES
        else (IDS, MASK)
    )


def node(target, name, **settings):
    return {
        "_target_": f"kdrun.networks.elastic.{target}",
        "base": {**NETWORKS[name], "_partial_": True},
        **{"cost": "macs", **settings},
    }


def logits(network, name):
    found = network(*inputs_of(name))
    return found["logits"] if isinstance(found, dict) else found


def built(tmp_path, name, **settings):
    """(the parent, a nested network that started from it, ranked, and its file)."""
    parent = build_network(NETWORKS[name], spec_of(name), seed=1)
    with torch.no_grad():
        for parameter in parent.parameters():  # norms and biases that are no ones and zeros
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=RANDOM))
    file = save_weights(parent, tmp_path / "parent.safetensors", spec_of(name), NETWORKS[name])
    made = node("Elastic", name, **{"budgets": BUDGETS, **settings})
    nested = build_network(made, spec_of(name), seed=2)
    load_weights(nested, file, spec_of(name))
    nested.calibrate(lambda batch: nested(*batch), [inputs_of(name)])
    return parent.eval(), nested.eval(), save_weights(nested, tmp_path / "nested.safetensors", spec_of(name), made)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("router", [True, False])
def test_what_is_cut_out_gives_what_was_masked(name, router, tmp_path):
    parent, nested, file = built(tmp_path, name, router=router)
    assert torch.equal(logits(nested, name), logits(parent, name)) and set(nested.groups) == set(AXES)
    spec, sizes = spec_of(name), []
    for share in (*BUDGETS, 0.9):
        student = build_network(node("Slice", name, budget=share, routed=router), spec, seed=5)
        if share in BUDGETS:
            nested.evaluated = share
            load_weights(student, file, spec)
            assert torch.allclose(logits(student.eval(), name), logits(nested, name), atol=1e-5), share
            again_file = save_weights(
                student, tmp_path / f"{share}.safetensors", spec, node("Slice", name, budget=share)
            )
            again = build_network(read_metadata(again_file)["network"], spec, seed=6)
            load_weights(again, again_file, spec)
            assert torch.equal(logits(again.eval(), name), logits(student, name))
        assert nested.body.cost(student.kept, "parameters") == parameters(student)
        sizes.append(nested.body.cost(student.kept, "macs") / nested.body.cost({}, "macs"))
        assert sizes[-1] <= 1.051 * share
    for larger, smaller in pairwise([nested.cut(share)[1] for share in (1.0, 0.9, 0.8)]):
        assert all(smaller[axis] <= larger[axis] for axis in larger) and smaller != larger


def test_multiply_adds_are_those_of_the_counted_operations(tmp_path):
    _, nested, _ = built(tmp_path, "vit")
    for share in BUDGETS:
        student, widths = nested.cut(share)
        assert 2 * nested.body.cost(widths, "macs") == pytest.approx(Classification(IMAGES).flops(student))


def test_heads_and_neurons_that_say_nothing_are_ranked_last(tmp_path):
    _, nested, _ = built(tmp_path, "bert")
    layer = nested.network.model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.attention.self.value.weight[8:16] = 0
        layer.attention.self.value.bias[8:16] = 0
        layer.intermediate.dense.weight[[3, 7]] = 0
        layer.intermediate.dense.bias[[3, 7]] = 0
    nested.ranked.fill_(False)
    nested.calibrate(lambda batch: nested(*batch), [inputs_of("bert")])
    ranks = nested._ranks()
    assert ranks[HEADS][1, 1] == 3 and set(ranks[FFN][1, [3, 7]].tolist()) == {38, 39}


def test_axes_are_those_that_there_are():
    with pytest.raises(UserError, match="no axis 'layers'"):
        build_network(node("Elastic", "vit", budgets=BUDGETS, axes=["layers"]), IMAGES, seed=0)
    narrowed = build_network(node("Elastic", "vit", budgets=BUDGETS, axes=["ffn"]), IMAGES, seed=0)
    assert set(narrowed.groups) == {FFN}
