"""Language models: packed rows, padding, generation, and what is refused."""

import numpy as np
import pytest
import torch

from kdrun.domains.language.networks.causal_lm import HuggingFaceCausalLM
from kdrun.domains.language.rows import packed, pieces, separate
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.source import documents
from kdrun.domains.language.tokens import trained
from kdrun.networks.causal import chooser
from kdrun.problems import UserError

LLAMA = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained(made_corpus(60).documents, 300, tmp_path_factory.mktemp("cache"))


def network(tokenizer, **options):
    torch.manual_seed(0)
    config = {**LLAMA, "intermediate_size": 32, "initializer_range": 0.3}
    made = HuggingFaceCausalLM(None, config, None, tokenizer.size, tokenizer.pad, tokenizer.eos, 256, **options)
    return made.eval()


def losses(model, samples):
    batch = samples.batch(np.arange(len(samples)))
    mask = batch["mask"]
    assert int(mask.sum()) == batch["size"]
    with torch.no_grad():
        logits = model(**batch["inputs"])
    found = torch.nn.functional.cross_entropy(logits[mask], batch["targets"][mask], reduction="none")
    return sorted(found.tolist()), int(batch["bytes"][mask].sum())


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([-30.0, 0.0, 1.0, -30.0, 2.0, -30.0])
    draw = chooser(0.5, torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(logits.repeat(100_000, 1)), minlength=6)
    assert (counts[[0, 3, 5]] == 0).all()
    torch.testing.assert_close(counts / 100_000, torch.softmax(logits / 0.5, -1), atol=0.005, rtol=0)


def test_packed_rows_give_the_losses_of_single_ones(tokenizer):
    texts = made_corpus(40).documents
    made = list(pieces(range(40), texts, tokenizer, 64)[0])
    alone, together = separate(made, tokenizer.pad), packed(made, 128, tokenizer.pad)
    assert len(together) < len(alone) and together.lengths.max() <= 128
    (first, bytes_of_first), (second, bytes_of_second) = (
        losses(network(tokenizer), samples) for samples in (alone, together)
    )
    assert first == pytest.approx(second, abs=2e-5)
    assert bytes_of_first == bytes_of_second == sum(len(text.encode()) for text in texts)


def test_every_token_of_a_long_text_is_predicted_once_and_every_byte_counted(tokenizer):
    text = "Größe und Maß: 😀 " * 20
    found, counts = pieces([7], [text], tokenizer, 16)
    made = list(found)
    assert counts == {"texts in several pieces": 1} and max(len(piece.ids) for piece in made) <= 16
    predicted = [token for piece in made for token, size in zip(piece.ids, piece.bytes, strict=True) if size >= 0]
    assert predicted == [*tokenizer.encode([text])[0][0], tokenizer.eos]
    assert sum(size for piece in made for size in piece.bytes if size > 0) == len(text.encode())


def test_padding_on_either_side_changes_nothing(tokenizer):
    left = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]]), torch.tensor([[1] * 4, [0, 0, 1, 1]]).bool()
    right = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1] * 4, [1, 1, 0, 0]]).bool()
    with torch.no_grad():
        a, b = (network(tokenizer)(*inputs) for inputs in (left, right))
    assert torch.allclose(a[0], b[0], atol=1e-5) and torch.allclose(a[1, 2:], b[1, :2], atol=1e-5)


@pytest.mark.parametrize("layers", [None, [1]])
def test_generation_with_a_cache_is_that_of_whole_passes(tokenizer, layers):
    model = network(tokenizer)
    if layers:
        torch.manual_seed(0)
        model = HuggingFaceCausalLM(None, {**LLAMA, "intermediate_size": 32}, layers, tokenizer.size, 0, 1, 256).eval()
    ids, mask = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]]), torch.tensor([[1] * 4, [0, 0, 1, 1]]).bool()
    found = model.generate(ids, mask, 6, eos=[])
    for prompt, answer in zip(([5, 6, 7, 8], [9, 10]), found, strict=True):
        row = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
        assert row[len(prompt) :] == answer
    again = model.generate(ids, mask, 6, eos=[found[0][0]])
    assert again[0] == []
    drawn = [model.generate(ids, mask, 6, [], 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(ids, mask.flip(1), 1)


def test_checkpointing_changes_no_gradient(tokenizer):
    found = []
    for checkpointing in (False, True):
        model = network(tokenizer, checkpointing=checkpointing).train()
        model(torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4).bool()).square().mean().backward()
        found.append(model.model.base_model.layers[0].mlp.up_proj.weight.grad)
    assert torch.equal(*found) and found[0].abs().sum() > 0


def test_a_network_that_changes_its_logits_is_refused(tokenizer):
    config = {
        "model_type": "gemma2",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    config |= {"num_key_value_heads": 1, "intermediate_size": 32}
    with pytest.raises(UserError, match="final_logit_softcapping"):
        HuggingFaceCausalLM(None, config, None, tokenizer.size, tokenizer.pad, tokenizer.eos, 64)


CHAT = (
    ("system", "Be short."),
    ("user", "Who?"),
    ("assistant", "Ada."),
    ("user", "Where?"),
    ("assistant", "By the river."),
)


def test_of_a_chat_what_the_assistant_says_is_learned_with_its_end(tokenizer):
    ids, sizes, said = tokenizer.chat(CHAT)
    spoken = tokenizer.made.decode([number for number, learned in zip(ids, said, strict=True) if learned])
    assert spoken == "Ada.<|im_end|>By the river.<|im_end|>"
    assert sum(sizes) == len(spoken)
    assert tokenizer.prompt(CHAT[:-1]) == ids[: len(tokenizer.prompt(CHAT[:-1]))]


def test_a_chat_that_is_too_long_is_cut_and_one_without_its_answer_left_out_and_both_counted(tokenizer):
    first = tokenizer.chat(CHAT)[2].index(True)
    found, counts = pieces([0], [CHAT], tokenizer, first + 2)
    assert len(list(found)) == 1 and +counts == {"chats cut": 1}
    found, counts = pieces([0], documents([CHAT], "x").documents, tokenizer, first)
    assert list(found) == [] and +counts == {"chats cut": 1, "chats without an answer": 1}
