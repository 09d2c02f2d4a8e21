"""Nested language models: the whole is its parent, what is cut out is what was masked and an ordinary checkpoint of transformers."""

from itertools import pairwise

import pytest
import torch

from kdrun.domains.language.spec import LanguageSpec
from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network
from kdrun.networks.elastic_decoder import AXES, EMBEDDING, EXPERTS, FFN, HEADS, LAYERS, Decoder
from kdrun.networks.weights import load_weights, read_metadata, save_weights
from kdrun.problems import UserError

SPEC = LanguageSpec("texts", 50, 0, 1, 2, {"train": 8, "val": 2, "test": 2}, 12, "x")
CAUSAL = "kdrun.domains.language.networks.causal_lm.HuggingFaceCausalLM"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 40,
}
CONFIGS = {
    "llama": {**LLAMA, "tie_word_embeddings": True},
    "llama_untied": {**LLAMA, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "qwen2": {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 3, "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 6, "num_hidden_layers": 4, "tie_word_embeddings": False},
    "mixtral": {**LLAMA, "model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {
        **LLAMA,
        "model_type": "qwen3_moe",
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
    },
    "mistral": {**LLAMA, "model_type": "mistral", "num_hidden_layers": 5},
}
BUDGETS = [1.0, 0.7, 0.4]
IDS = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS, dtype=torch.bool)
MASK[0, 6:] = False


def base(name):
    return {"_target_": CAUSAL, "config": CONFIGS[name]}


def node(target, name, **settings):
    return {"_target_": f"kdrun.networks.elastic.{target}", "base": {**base(name), "_partial_": True}, **settings}


def built(tmp_path, name, **settings):
    """(the parent, a nested network that started from it, ranked, and its file)."""
    parent = build_network(base(name), SPEC, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parent.parameters():  # norms and biases that are no ones and zeros
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    file = save_weights(parent, tmp_path / "parent.safetensors", SPEC, base(name))
    made = node("Elastic", name, **{"budgets": BUDGETS, **settings})
    nested = build_network(made, SPEC, seed=2)
    load_weights(nested, file, SPEC)
    nested.calibrate(lambda batch: nested(*batch), [(IDS, MASK), (IDS.flip(0), MASK.flip(0))])
    return parent.eval(), nested.eval(), save_weights(nested, tmp_path / "nested.safetensors", SPEC, made)


DENSE = [name for name in CONFIGS if name not in ("mixtral", "qwen3_moe")]
"""Products of experts by groups do not run on the meta device as float32: these are built with memory."""


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("kind, settings", [("Elastic", {"budgets": BUDGETS}), ("Slice", {"budget": BUDGETS[-1]})])
def test_what_a_plan_asks_of_it_needs_no_memory_for_weights(name, kind, settings):
    real = build_network(node(kind, name, **settings), SPEC, seed=0)
    with torch.device("meta"):
        told = build_network(node(kind, name, **settings), SPEC, seed=0)
    shapes = {key: value.shape for key, value in real.state_dict().items()}
    assert {key: value.shape for key, value in told.state_dict().items()} == shapes
    assert all(value.is_meta for value in told.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_whole_budget_is_its_parent_to_the_bit(name, tmp_path):
    parent, nested, _ = built(tmp_path, name)
    assert nested.ranked and torch.equal(nested(IDS, MASK), parent(IDS, MASK))
    assert nested.generate(IDS, torch.ones_like(MASK), 4) == parent.generate(IDS, torch.ones_like(MASK), 4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("router", [True, False])
def test_what_is_cut_out_is_what_was_masked_and_a_checkpoint_of_transformers(name, router, tmp_path):
    from transformers import AutoModelForCausalLM

    _, nested, file = built(tmp_path, name, router=router)
    sizes = []
    for share in BUDGETS:
        nested.evaluated = share
        student = build_network(node("Slice", name, budget=share, routed=router), SPEC, seed=5)
        load_weights(student, file, SPEC)
        logits = student.eval()(IDS, MASK)
        assert torch.allclose(logits, nested(IDS, MASK), atol=1e-5), share
        assert student.generate(IDS, torch.ones_like(MASK), 4) == nested.generate(IDS, torch.ones_like(MASK), 4)
        kept = save_weights(student, tmp_path / f"{share}.safetensors", SPEC, node("Slice", name, budget=share))
        again = build_network(read_metadata(kept)["network"], SPEC, seed=6)
        load_weights(again, kept, SPEC)
        assert torch.equal(again.eval()(IDS, MASK), logits)
        student.save_transformers(tmp_path / f"{share}", torch.float32, [2], 0)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"{share}")
        assert torch.allclose(model(IDS, attention_mask=MASK.long()).logits[MASK], logits[MASK], atol=1e-5)
        assert nested.body.cost(student.kept, "parameters") == parameters(student) == parameters(model)
        sizes.append(parameters(student))
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(("axis", "name"), [*((axis, "qwen3") for axis in AXES), (EXPERTS, "qwen3_moe")])
def test_each_axis_by_itself_is_cut_as_it_is_masked(axis, name, tmp_path):
    _, nested, _ = built(tmp_path, name, axes=[axis], router=False, choices=[1.0, 0.5], budgets=[1.0, 0.9])
    (units,) = (group.units for group in nested.groups.values())
    masks = {axis: (nested._ranks()[axis] < units // 2 + units % 2).float()}
    with nested.body.masked(nested.network, masks):
        masked = nested.network(IDS, MASK)
    nested._chosen = lambda budget, routed: [1]
    student, widths = nested.cut(0.9)
    assert widths == {axis: units // 2 + units % 2}
    assert torch.allclose(student.eval()(IDS, MASK), masked, atol=1e-5)
    assert not torch.allclose(masked, nested.network(IDS, MASK), atol=1e-3)


def test_without_a_router_students_have_the_size_of_their_budget_as_well(tmp_path):
    _, nested, _ = built(tmp_path, "qwen3", router=False)
    whole = parameters(nested.cut(1.0)[0])
    shares = {budget: parameters(nested.cut(budget)[0]) / whole for budget in (0.7, 0.4)}
    assert all(abs(share - budget) <= 0.05 * budget for budget, share in shares.items()), shares


def test_a_smaller_student_lies_within_a_larger_one(tmp_path):
    _, nested, _ = built(tmp_path, "qwen3")
    widths = [nested.cut(share)[1] for share in (1.0, 0.7, 0.55, 0.4)]
    for larger, smaller in pairwise(widths):
        assert all(smaller[axis] <= larger[axis] for axis in AXES)
    assert widths[0] == {EMBEDDING: 48, FFN: 40, HEADS: 3, LAYERS: 4}


def test_what_says_nothing_is_ranked_last(tmp_path):
    _, nested, _ = built(tmp_path, "qwen3")
    model = nested.network.model
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[[3, 17]] = 0
        model.model.layers[2].self_attn.v_proj.weight[6:12] = 0  # the second of three heads
        model.model.layers[3].self_attn.o_proj.weight.zero_()
        model.model.layers[3].mlp.down_proj.weight.zero_()
    nested.ranked.fill_(False)
    nested.calibrate(lambda batch: nested(*batch), [(IDS, MASK)])
    ranks = nested._ranks()
    assert set(ranks[FFN][1][[3, 17]].tolist()) == {38, 39} and ranks[FFN].shape == (4, 40)
    assert ranks[HEADS][2].tolist()[1] == 2 and ranks[LAYERS][3] == 3
    assert all(sorted(row.tolist()) == list(range(40)) for row in ranks[FFN])


def test_experts_are_ranked_by_what_they_give_the_tokens_that_are_sent_to_them(tmp_path):
    parent, nested, _ = built(tmp_path, "mixtral")
    seen = []
    block = parent.model.model.layers[1].mlp
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, 1)))
    with torch.no_grad():
        parent(IDS, MASK)
        (states,), wanted = seen, []
        chances = torch.softmax(states @ block.gate.weight.T, -1)
        kept = chances >= chances.topk(2, -1).values[:, -1:]
        weights = chances * kept / (chances * kept).sum(-1, keepdim=True)
        for number, (up, down) in enumerate(zip(block.experts.gate_up_proj, block.experts.down_proj, strict=True)):
            gate, value = (states @ up.T).chunk(2, -1)
            given = weights[:, number] * ((torch.nn.functional.silu(gate) * value) @ down.T).norm(dim=-1)
            wanted.append(float(given[kept[:, number]].mean()) if kept[:, number].any() else 0.0)
    scores = nested.body.rank(nested.network, lambda batch: nested.network(*batch), [(IDS, MASK)])
    assert set(scores) == {EMBEDDING, EXPERTS, HEADS, LAYERS}
    assert scores[EXPERTS][1].tolist() == pytest.approx(wanted, rel=1e-4)
    assert min(nested.cut(share)[1][EXPERTS] for share in BUDGETS) >= 2  # a token is sent to two
    with pytest.raises(UserError, match="no axis 'expert'; closest: experts"):
        built(tmp_path, "mixtral", axes=["expert"])


def test_layers_are_ranked_by_what_leaving_them_out_changes(tmp_path):
    parent, nested, _ = built(tmp_path, "qwen2")
    whole, changed = parent(IDS, MASK), []
    for number in range(3):
        less = build_network({**base("qwen2"), "from_layers": [n for n in range(3) if n != number]}, SPEC, seed=0)
        load_weights(less, tmp_path / "parent.safetensors", SPEC)
        changed.append(float(((less.eval()(IDS, MASK) - whole) ** 2).sum() / (whole**2).sum()))
    scores = nested.body.rank(nested.network, lambda batch: nested.network(*batch), [(IDS, MASK)])
    assert scores[LAYERS].tolist() == pytest.approx(changed, rel=1e-3)


def test_soft_masks_reach_router_and_weights(tmp_path):
    _, nested, _ = built(tmp_path, "llama")
    nested.train().pace(0, 0.0)
    number = next(step for step in range(20) if (nested.pace(step, 0.0), nested._drawn())[1] == 2)
    nested.pace(number, 0.0)
    nested(IDS, MASK).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in nested.named_parameters()}
    assert all(value is not None and bool(value.abs().sum() > 0) for value in gradients.values()), gradients
    assert {name.split(".")[1] for name in gradients if name.startswith("router.")} == set(AXES)


def test_multiply_adds_and_memory_are_counted():
    network = build_network(base("llama_untied"), SPEC, 0)
    body = Decoder(network, max_length=12)
    narrow = {EMBEDDING: 24, FFN: 20, HEADS: 2, LAYERS: 1}
    projections = 2 * 24 * 32 + 2 * 24 * 16  # q and o: 4 heads of 8; k and v: 2
    matrices = projections + 3 * 24 * 20 + 50 * 24
    assert body.cost(narrow, "macs") == pytest.approx(64 * matrices + 2 * 64**2 * 32)
    weights = body.cost(narrow, "parameters")
    assert body.cost(narrow, "memory") == pytest.approx(4 * (weights + 2 * 8 * 12 * 16))


@pytest.mark.parametrize(
    ("changed", "settings", "said"),
    [
        ({"config": {"model_type": "gpt2", "n_embd": 48, "n_head": 2, "n_layer": 2}}, {}, "model_type llama"),
        ({"checkpointing": True}, {}, "checkpointing=false"),
        ({}, {"axes": ["heads", "head"]}, "no axis 'head'; closest: heads"),
        ({}, {"cost": "flops"}, "one of parameters"),
        ({}, {"budgets": [1.0, 0.01]}, "cannot be reached"),
    ],
)
def test_what_cannot_be_taken_apart_is_told(changed, settings, said):
    made = node("Elastic", "llama", **settings)
    with pytest.raises(UserError, match=said):
        build_network({**made, "base": {**made["base"], **changed}}, SPEC, 0)


def test_latency_is_a_sum_that_is_fitted_to_what_was_measured(tmp_path, monkeypatch):
    from kdrun.networks import elastic_timing

    wanted = [0.004, 0.002, 0.01, 0.02, 0.003]

    whole = Decoder(build_network(base("qwen3"), SPEC, 0))

    def clock(networks, inputs, device):
        features = [whole.features(Decoder(network).sizes) for network in networks]
        return [sum(one * value for one, value in zip(wanted, row, strict=True)) for row in features]

    monkeypatch.setattr(elastic_timing, "measured", clock)
    _, nested, file = built(tmp_path, "qwen3", cost="latency")
    assert nested.timing.tolist() == pytest.approx(wanted, rel=1e-3)
    halved = {EMBEDDING: 24, FFN: 20, HEADS: 3, LAYERS: 2}
    assert float(nested._cost(halved)) == pytest.approx(0.004 + 0.001 + 0.01 / 4 + 0.02 / 8 + 0.0015, rel=1e-3)
    assert nested._cost({}) == pytest.approx(sum(wanted), rel=1e-3)
    student = build_network(node("Slice", "qwen3", budget=0.7, routed=True, cost="latency"), SPEC, seed=5)
    load_weights(student, file, SPEC)
    assert float(nested._cost(student.kept)) <= 1.06 * 0.7 * sum(wanted)


def test_times_are_measured_in_turns():
    from kdrun.networks.elastic_timing import measured

    class Slow(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(size, size))

        def forward(self, inputs):
            order.append(len(self.weight))
            return self.weight @ self.weight

    order = []
    fast, slow = measured([Slow(4), Slow(1200)], torch.zeros(1), torch.device("cpu"))
    assert order == [4, 1200] * 10 and 0 < fast < slow
