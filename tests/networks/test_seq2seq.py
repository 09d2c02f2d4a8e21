"""Networks of transformers under the protocol for sequences. What needs the library is skipped without it."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from kdrun.decoding.beam import BeamSearch, decode
from kdrun.domains.translation.networks.seq2seq import HuggingFaceSeq2Seq
from kdrun.problems import UserError

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
VOCABULARY, PAD, BOS, EOS = 40, 0, 1, 2
DATA = {"vocabulary": VOCABULARY, "pad": PAD, "bos": BOS, "eos": EOS}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "init_std": 0.2, "max_position_embeddings": 64}
CONFIGS = {
    "marian": {"model_type": "marian", **BART, **LAYERS},
    "mbart": {"model_type": "mbart", **BART, **LAYERS},
    "t5": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
}


def made(kind: str, **options) -> HuggingFaceSeq2Seq:
    torch.manual_seed(0)
    return HuggingFaceSeq2Seq(config=CONFIGS[kind], **{**DATA, **options}).eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3, VOCABULARY, (4, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 1, 4, 3])[:, None]
    return source, mask, torch.randint(VOCABULARY, (4, 5), generator=generator)


def test_without_the_library_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install transformers"):
        HuggingFaceSeq2Seq(config=CONFIGS["t5"], **DATA)


@pytest.mark.parametrize("options", [{}, {"model": "a", "config": CONFIGS["t5"]}])
def test_either_a_model_or_a_config_is_needed(options):
    with pytest.raises(UserError, match="either model"):
        HuggingFaceSeq2Seq(**options, **DATA)


@needs_transformers
@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_changes_nothing_and_steps_equal_teacher_forcing(kind):
    network = made(kind)
    source, mask, target = batch()
    logits = network(source=source, source_mask=mask, target=target)
    assert logits.shape == (4, 5, VOCABULARY)
    for row in range(4):
        real = source[row][mask[row]][None]
        alone = network(real, torch.ones_like(real, dtype=torch.bool), target[row : row + 1])
        torch.testing.assert_close(alone[0], logits[row], rtol=0, atol=2e-5)
    memory, cache = network.encode(source, mask), None
    for position in range(5):
        step, cache = network.decode_step(target[:, position], memory, cache)
        torch.testing.assert_close(step, logits[:, position], rtol=0, atol=2e-5)


@needs_transformers
@pytest.mark.parametrize("kind", CONFIGS)
def test_hypotheses_move_with_their_cache_and_leave_with_their_source(kind):
    network = made(kind)
    source, mask, target = batch()
    _, cache = network.decode_step(target[:, 0], memory := network.encode(source, mask))
    cache = network.reorder(cache, torch.arange(4).repeat_interleave(2))  # two hypotheses of each source
    hypotheses = torch.stack([target, target.roll(1, 1)], 1)
    hypotheses[:, :, 0] = target[:, :1]
    _, cache = network.decode_step(hypotheses[:, :, 1].flatten(), memory, cache)
    cache = network.reorder(cache, torch.tensor([1, 0, 2, 2, 5, 5, 6, 7]))  # within their sources
    hypotheses = hypotheses.flatten(0, 1)[[1, 0, 2, 2, 5, 5, 6, 7]].view(4, 2, 5)
    kept = torch.tensor([3, 0])
    cache = network.reorder(cache, torch.tensor([6, 7, 0, 1]))
    memory = network.reorder(memory, kept)
    step, _ = network.decode_step(hypotheses[kept, :, 2].flatten(), memory, cache)
    for row, index in enumerate(kept.tolist()):
        rows = [index, index]
        expected = network(source[rows], mask[rows], hypotheses[index])[:, 2]
        torch.testing.assert_close(step[row * 2 : row * 2 + 2], expected, rtol=0, atol=2e-5)


@needs_transformers
@pytest.mark.parametrize("kind", CONFIGS)
def test_beam_search_finds_what_generate_finds(kind):
    network = made(kind)
    # Random weights seldom end a sentence. At the largest length generate takes the end for certain, so that only
    # what ends before can be compared.
    more_end = torch.nn.functional.one_hot(torch.tensor(EOS), VOCABULARY) * 4.0
    network.model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output + more_end)
    search = BeamSearch(beam=4, max_factor=0, max_extra=25)
    source = torch.randint(3, VOCABULARY, (12, 7), generator=torch.Generator().manual_seed(1))
    found = decode(network, source.tolist(), bos=BOS, eos=EOS, pad=PAD, search=search)
    output = network.model.generate(
        source, num_beams=4, early_stopping=True, do_sample=False, max_new_tokens=26, min_new_tokens=1,
        suppress_tokens=[PAD, BOS], forced_eos_token_id=EOS, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    compared = 0
    for [best], tokens, score in zip(found, output.sequences[:, 1:].tolist(), output.sequences_scores, strict=True):
        if len(best.tokens) < 25 and len(end := tokens[: tokens.index(EOS)]) < 25:
            assert best.tokens == end and best.score == pytest.approx(score.item(), abs=1e-4)
            compared += 1
    assert compared >= 4


@needs_transformers
def test_a_source_of_padding_only_is_finite():
    source, mask, target = batch()
    mask[2] = False
    for kind in CONFIGS:
        assert made(kind)(source, mask, target).isfinite().all()


@needs_transformers
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_network_is_read_without_a_hub(kind, tmp_path):
    network = made(kind)
    network.model.save_pretrained(tmp_path)
    again = HuggingFaceSeq2Seq(model=str(tmp_path), **DATA).eval()
    assert torch.equal(again(*batch()), network(*batch()))
    with pytest.raises(UserError, match="vocabulary of 40, the data's tokenizer has 8000"):
        HuggingFaceSeq2Seq(model=str(tmp_path), **{**DATA, "vocabulary": 8000})
    with pytest.raises(UserError, match="end of a sentence is token 2, the data's tokenizer has 3"):
        HuggingFaceSeq2Seq(model=str(tmp_path), **{**DATA, "eos": 3})
    with pytest.raises(UserError, match="start of a sentence is token 1, the data's tokenizer has 5"):
        HuggingFaceSeq2Seq(model=str(tmp_path), **{**DATA, "bos": 5})


@needs_transformers
def test_unused_rows_of_the_embedding_are_cut_off():
    network = HuggingFaceSeq2Seq(config={**CONFIGS["t5"], "vocab_size": 64}, **DATA).eval()
    assert network(*batch()).shape == (4, 5, VOCABULARY)


@needs_transformers
def test_pad_may_equal_eos():
    network = made("marian", pad=EOS)
    source, mask, target = batch()
    network(torch.where(mask, source, EOS), mask, target).sum().backward()
    assert decode(network, [[5, EOS]], bos=BOS, eos=EOS, pad=EOS)[0][0].score < 0


@needs_transformers
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "./nowhere"}, "no folder ./nowhere"),
        ({"model": "nobody/nothing-de-en"}, "cannot load nobody/nothing-de-en"),
        ({"config": {"model_type": "marain"}}, "model_type=marain; closest: marian"),
        ({"config": {"model_type": "t5", "d_modle": 8}}, "t5 has no field 'd_modle'; closest: d_model"),
        ({"config": CONFIGS["marian"], "max_length": 65}, "reads at most 64 tokens"),
    ],
)
def test_what_cannot_be_built_is_said(options, said):
    with pytest.raises(UserError, match=said):
        HuggingFaceSeq2Seq(**options, **DATA)


@needs_transformers
def test_a_folder_without_a_config_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no config.json"):
        HuggingFaceSeq2Seq(model=str(tmp_path), **DATA)


class Opened:
    """What runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@needs_transformers
def test_a_folder_whose_weights_hold_python_objects_is_refused_and_runs_nothing(tmp_path):
    folder = tmp_path / "network"
    network = made("t5").model
    network.config.save_pretrained(folder)
    torch.save({**network.state_dict(), "more": Opened(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds Python objects, which kdrun does not unpickle") as caught:
        HuggingFaceSeq2Seq(model=str(folder), **DATA)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()
