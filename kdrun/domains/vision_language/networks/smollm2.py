"""SmolLM2-135M-Instruct, Q4_1 dequantised: a language model that comes as one GGUF file of a package.

The weights were rounded to 4 bits by whoever made the file: what is read here is exactly what the file says, and not the
published model. Every result with it is labelled LABEL.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from kdrun.networks import quiet
from kdrun.optional import needed
from kdrun.problems import UserError

SEMANTICS = 1

TARGETS = ("llava_smollm2",)

LABEL = "SmolLM2-135M-Instruct, Q4_1 dequantised"
FETCH = "smollm2"
LAYERS = 30

# GGUF's names of tensors, and those of transformers' Llama.
_OUTSIDE = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _BY_USER = 3, 4  # kinds of tokens in GGUF


def smollm2_file(cache: str | Path | None = None) -> Path:
    """The fetched GGUF file. Raises UserError saying what to type where it is not there."""
    from kdrun.data import fetch

    folder = Path(cache) if cache else fetch.default_cache()
    entry = fetch.find(FETCH)
    if not entry.present(folder):
        raise UserError(f"SmolLM2 is not here yet ({entry.bytes / 1e6:.0f} MB): kdrun fetch {FETCH}")
    return entry.folder(folder) / entry.files[0]["name"]


def llava_smollm2(
    vocabulary: int,
    pad: int,
    eos: int,
    image_token: int,
    image_tokens: int,
    image_size: int,
    max_length: int,
    layers: int = LAYERS,
    tower: str = "efficientnet_lite0@16x2",
    file: str | None = None,
) -> Any:
    """A LLaVA of a packaged frozen tower, a new projector and SmolLM2, of whose layers `layers` are kept, evenly spaced.

    file: the GGUF file; the fetched one where left out.
    Raises UserError where the file is not there, the data were not made with its tokenizer, or samples are too long.
    """
    from kdrun.domains.vision_language.networks.llava import LlavaNetwork

    quiet.transformers("LLaVA")
    from kdrun.domains.vision_language.networks.tower_model import check_tokens, from_packaged_tower

    path = Path(file) if file else smollm2_file()
    gguf = read_gguf(path)
    config = gguf.config(layers)
    if vocabulary != config["vocab_size"]:
        raise UserError(
            f"the data's tokenizer has {vocabulary} tokens, SmolLM2 has {config['vocab_size']}",
            f"its own tokenizer is in {tokenizer_folder(file=path)}",
            "type data.vision.tokenizer= with that folder",
        )
    if max_length > config["max_position_embeddings"]:
        raise UserError(f"SmolLM2 reads at most {config['max_position_embeddings']} tokens, the data have {max_length}")
    model = from_packaged_tower(tower, image_size, config, image_token)
    if not model.get_input_embeddings().weight.is_meta:
        weights = {name: torch.from_numpy(value) for name, value in gguf.tensors(kept_layers(layers))}
        model.model.language_model.load_state_dict(weights, strict=True)
    network = LlavaNetwork(
        model, vocabulary, pad, eos, image_token, image_tokens, image_size, max_length, packaged=True
    )
    check_tokens(network, network.tower.tokens(image_size))
    network.notes.append(LABEL if layers == LAYERS else f"{LABEL}, {layers} of {LAYERS} layers")
    return network


def kept_layers(layers: int, of: int = LAYERS) -> list[int]:
    """Which of `of` layers a pruned model keeps: the first, the last, and as evenly as it goes those between.

    Raises UserError for a number that cannot be.
    """
    if not 1 <= layers <= of:
        raise UserError(f"layers={layers}: SmolLM2 has {of}, so 1 to {of} can be kept")
    if layers == 1:
        return [0]
    return [(place * (of - 1) + (layers - 1) // 2) // (layers - 1) for place in range(layers)]


class Gguf:
    """A GGUF file of a Llama-type model. Raises UserError where the package gguf is absent or the file is none."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._library = Path(path), needed("gguf", "reading SmolLM2 needs gguf")
        if not self.path.is_file():
            raise UserError(f"there is no file {self.path}")
        try:
            self._reader = self._library.GGUFReader(self.path)
        except ValueError as error:
            raise UserError(f"{self.path} is no GGUF file: {str(error).splitlines()[0]}") from error
        if self.value("general.architecture") != "llama":
            raise UserError(f"{self.path} holds a {self.value('general.architecture')} model, expected llama")

    def value(self, key: str, default: Any = None) -> Any:
        """One entry of the file's metadata."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def config(self, layers: int | None = None) -> dict[str, Any]:
        """Fields of a LlamaConfig; `layers` in place of all."""
        heads = self.value("llama.attention.head_count")
        return {
            "model_type": "llama",
            "vocab_size": len(self.value("tokenizer.ggml.tokens")),
            "hidden_size": self.value("llama.embedding_length"),
            "intermediate_size": self.value("llama.feed_forward_length"),
            "num_hidden_layers": layers or self.value("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.value("llama.attention.head_count_kv", heads),
            "max_position_embeddings": self.value("llama.context_length"),
            "rope_theta": self.value("llama.rope.freq_base"),
            "rms_norm_eps": self.value("llama.attention.layer_norm_rms_epsilon"),
            "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in self._reader.tensors),
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self.value("tokenizer.ggml.padding_token_id"),
        }

    def tensors(self, layers: list[int] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(name in transformers' LlamaModel, float32 array), of the layers given, which are numbered anew."""
        places = {old: new for new, old in enumerate(layers or range(self.value("llama.block_count")))}
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        for tensor in self._reader.tensors:
            if tensor.name in _OUTSIDE:
                yield _OUTSIDE[tensor.name], self._values(tensor)
                continue
            _, layer, kind, leaf = tensor.name.split(".")
            if int(layer) not in places:
                continue
            values = self._values(tensor)
            if kind in heads:
                values = _unpermuted(values, self.value(heads[kind]))
            yield f"layers.{places[int(layer)]}.{_INSIDE[kind]}.{leaf}", values

    def _values(self, tensor: Any) -> np.ndarray:
        values = self._library.dequantize(tensor.data, tensor.tensor_type)
        # An F32 tensor is a view of the mapped file, which nobody may write to.
        return np.array(values, dtype=np.float32)

    def tokenizer(self) -> dict[str, str]:
        """File name -> content of a Hugging Face tokenizer folder."""
        return _tokenizer_files(self)


def read_gguf(path: str | Path) -> Gguf:
    """The file, whose entries (every token and merge) are gone through once in a process, and again once it has changed."""
    path = Path(path)
    try:
        stamp = path.stat()
    except OSError:
        return Gguf(path)
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1)
def _read(path: Path, *stamp: int) -> Gguf:
    return Gguf(path)


def tokenizer_folder(cache: str | Path | None = None, file: str | Path | None = None) -> Path:
    """The folder of SmolLM2's tokenizer, written below the cache from the GGUF file where it is not there yet."""
    from kdrun.data import fetch

    path = Path(file) if file else smollm2_file(cache)
    files = read_gguf(path).tokenizer()
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    folder = (Path(cache) if cache else fetch.default_cache()) / "text" / f"smollm2-{digest}"
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).write_text(content, encoding="utf-8")
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was faster, with the same content
            shutil.rmtree(temporary)
    return folder


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps the two halves of a head's rotary dimensions interleaved, transformers one after the other."""
    rows = values.shape[0]
    pairs = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))


def _tokenizer_files(gguf: Gguf) -> dict[str, str]:
    """Byte-level pairs whose digits stand alone: what llama.cpp means by "smollm"."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (gguf.value("tokenizer.ggml.model"), gguf.value("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(f"{gguf.path} has a tokenizer of kind {'/'.join(map(str, kind))}, expected gpt2/smollm")
    tokens = gguf.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in gguf.value("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = gguf.value("tokenizer.ggml.token_type")
    for wanted, special in ((_CONTROL, True), (_BY_USER, False)):
        found = [
            AddedToken(token, normalized=False, special=special)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == wanted
        ]
        (made.add_special_tokens if special else made.add_tokens)(found)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role, name in names.items():
        place = gguf.value(f"tokenizer.ggml.{name}_token_id")
        settings[f"{role}_token"] = None if place is None else tokens[place]
    settings["model_max_length"] = gguf.value("llama.context_length")
    if template := gguf.value("tokenizer.chat_template"):
        settings["chat_template"] = template
    return {"tokenizer.json": made.to_str(), "tokenizer_config.json": json.dumps(settings, indent=1, sort_keys=True)}
