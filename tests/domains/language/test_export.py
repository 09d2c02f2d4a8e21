"""Language models as folders that transformers loads, adapters merged, the tokenizer beside them."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from language_support import module_of

from kdrun.domains.language.networks.causal_lm import HuggingFaceCausalLM
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.task import CausalLanguage
from kdrun.hardware.exports.artifact import Artifact
from kdrun.hardware.exports.export import export
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.networks.lora import merged
from kdrun.networks.weights import load_weights, save_weights
from kdrun.problems import UserError

LLAMA = {
    **{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "initializer_range": 0.3},
}
KEPT = {"_target_": "kdrun.domains.language.networks.causal_lm.HuggingFaceCausalLM", "from_layers": [1]}
CHAT = (("user", "Where is the cat?"), ("assistant", "There."))


@pytest.fixture
def module(tmp_path):
    return module_of(tmp_path / "cache", made_corpus(60), max_length=32)


def network(module, **options):
    torch.manual_seed(0)
    spec = module.spec
    made = HuggingFaceCausalLM(None, LLAMA, [1], spec.vocabulary, spec.pad, spec.eos, spec.max_length, **options)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:  # they begin at 0, and merging nothing would be no test
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def subject(module, made, folder):
    weights = folder / "best.safetensors"
    weights.write_bytes(b"")
    node = {"_target_": "kdrun.domains.language.networks.causal_lm.HuggingFaceCausalLM"}
    known = {"network": made, "node": node, "spec": module.spec, "module": module, "task": CausalLanguage(module)}
    return TrainedNetwork("student", "student", 0, folder, weights, "best", **known)


@pytest.mark.parametrize("lora", [None, {"rank": 2, "targets": ["q_proj", "up_proj"]}])
def test_transformers_loads_the_folder_and_gives_the_same_logits(module, tmp_path, lora):
    if lora and find_spec("peft") is None:
        pytest.skip("needs the extra lora")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = network(module, lora=lora)
    artifact = export(subject(module, made, tmp_path), tmp_path / "out", "transformers")
    folder = tmp_path / "out" / "transformers-fp32"
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("The cat is next to the train.")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits[..., : module.spec.vocabulary], made(ids), atol=1e-5, rtol=1e-5)
    assert len(loaded.model.layers) == 1 and not any("lora" in name for name in loaded.state_dict())
    assert tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in CHAT], tokenize=False) == (
        module.tokenizer.render(CHAT)
    )
    assert set(loaded.generation_config.eos_token_id) == set(module.tokenizer.ends)
    assert Artifact.read(folder) == artifact and artifact.max_difference < 1e-4
    prompt = module.tokenizer.prompt(CHAT[:1])
    written = made.generate(torch.tensor([prompt]), torch.ones(1, len(prompt)), 6, module.tokenizer.ends)[0]
    theirs = loaded.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, len(prompt) :].tolist()
    assert theirs[: len(written)] == written


@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra lora")
def test_additions_alone_train_and_merge_into_what_they_give(module):
    made = network(module, lora={"rank": 2})
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    samples = module.samples("test").batch(np.arange(3))["inputs"]
    before = made(**samples)
    made.model = merged(made.model)
    torch.testing.assert_close(made(**samples), before, atol=1e-5, rtol=1e-5)


def test_another_network_is_refused_plainly(module, tmp_path):
    with pytest.raises(UserError, match="Linear is no language model of transformers"):
        export(subject(module, torch.nn.Linear(1, 1), tmp_path), tmp_path / "out", "transformers")


@pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra lora")
def test_a_network_with_adapters_begins_with_the_weights_of_one_without(module, tmp_path):
    plain, adapted = network(module), network(module, lora={"rank": 2, "targets": ["q_proj", "up_proj"]})
    save_weights(plain, tmp_path / "plain.safetensors", node=KEPT)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items() if "lora_" in name}
    load_weights(adapted, tmp_path / "plain.safetensors")
    own, given = adapted.state_dict(), plain.state_dict()
    assert before and all(own[name].equal(tensor) for name, tensor in before.items())
    assert all(own[name].equal(given[name.replace(".base_layer.", ".")]) for name in own if "lora_" not in name)
    save_weights(adapted, tmp_path / "adapted.safetensors", node=KEPT)
    load_weights(network(module, lora={"rank": 2, "targets": ["q_proj", "up_proj"]}), tmp_path / "adapted.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        load_weights(plain, tmp_path / "adapted.safetensors")
