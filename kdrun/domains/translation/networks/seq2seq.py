"""Any sequence-to-sequence network of transformers (Marian, T5, mBART ...) as a teacher or a student."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.folders import check_fields, pretrained
from kdrun.networks.output import logits_of
from kdrun.problems import UserError, closest

SEMANTICS = 1


# Embeddings are often padded to a round number of rows; more than this much larger means another tokenizer.
MOST_UNUSED = 128


@dataclass
class EncoderStates:
    """Encoder states [b, S, width] and their mask, bool [b, S]."""

    states: torch.Tensor
    mask: torch.Tensor


@dataclass
class KeyValueCache:
    """Keys and values of transformers, with the memory repeated for each hypothesis; rows: source of each, [n]."""

    past: Any
    memory: EncoderStates
    rows: torch.Tensor


class HuggingFaceSeq2Seq(nn.Module):
    """A network of transformers' AutoModelForSeq2SeqLM under kdrun's protocol for sequences.

    model: a folder with config.json and weights, or a name on the Hugging Face hub (found in its cache, or
        downloaded unless HF_HUB_OFFLINE is set); no code that comes with it is run.
    config: in place of model, {"model_type": "marian", ...} with fields of its configuration: random weights. The
        vocabulary's size and special tokens are the data's where it leaves them out.
    vocabulary, pad, bos, eos, max_length: of the data. bos is the token that the decoder starts from.

    network(source int64 [b, S], source_mask bool [b, S], target int64 [b, T]) -> logits [b, T, vocabulary].
    Raises UserError where transformers is absent, there is no such network, or it was made for another vocabulary,
    other special tokens or shorter sequences.
    """

    def __init__(
        self,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        vocabulary: int | None = None,
        pad: int | None = None,
        bos: int | None = None,
        eos: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        if (model is None) == (config is None):
            raise UserError(
                "a sequence-to-sequence network of transformers needs either model (name or folder) or config",
                "for example network.model=Helsinki-NLP/opus-mt-de-en, or 'network.config={model_type: marian}'",
            )
        data = {"vocab_size": vocabulary, "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
        data["decoder_start_token_id"] = bos
        self.model = _random(config, data) if model is None else _pretrained(model)
        settings = self.model.config
        name = model or config["model_type"]
        own = getattr(settings, "decoder_vocab_size", None) or settings.vocab_size
        self.vocabulary = vocabulary or own
        if not 0 <= own - self.vocabulary <= MOST_UNUSED:
            raise UserError(
                f"{name} has a vocabulary of {own}, the data's tokenizer has {vocabulary}",
                "a network made for another tokenizer cannot be used: prepare the data with its own",
            )
        for field, token, what in (("decoder_start_token_id", bos, "start"), ("eos_token_id", eos, "end")):
            theirs = getattr(settings, field, None)
            if None not in (theirs, token) and theirs != token:
                raise UserError(
                    f"{name}: the {what} of a sentence is token {theirs}, the data's tokenizer has {token}",
                    "a network made for another tokenizer cannot be used: prepare the data with its own",
                )
        self.max_length: int | None = getattr(settings, "max_position_embeddings", None)
        if self.max_length is not None and (max_length or 0) > self.max_length:
            raise UserError(
                f"{name} reads at most {self.max_length} tokens, the data's longest sequence has {max_length}"
            )
        # transformers 5 renamed past_key_values to cache.
        self._past = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    def forward(self, source: torch.Tensor, source_mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits [b, T, vocabulary] for the token after each position of target [b, T], given the ones before."""
        output = self.model(
            input_ids=source, attention_mask=_some(source_mask).long(), decoder_input_ids=target, use_cache=False
        )
        return logits_of(output)[..., : self.vocabulary]

    def encode(self, source: torch.Tensor, source_mask: torch.Tensor) -> EncoderStates:
        """Reads source [b, S]."""
        mask = _some(source_mask)
        encoder = self.model.get_encoder()
        return EncoderStates(encoder(input_ids=source, attention_mask=mask.long()).last_hidden_state, mask)

    def decode_step(
        self, last_tokens: torch.Tensor, memory: EncoderStates, cache: KeyValueCache | None = None
    ) -> tuple[torch.Tensor, KeyValueCache]:
        """Logits [n, vocabulary] after last_tokens int64 [n], and the next cache (see Transformer.decode_step)."""
        if cache is None:
            sources = torch.arange(len(memory.mask), device=last_tokens.device)
            rows = sources.repeat_interleave(len(last_tokens) // len(sources))
            cache = KeyValueCache(None, self.reorder(memory, rows), rows)
        output = self.model(
            encoder_outputs=(cache.memory.states,),
            attention_mask=cache.memory.mask.long(),
            decoder_input_ids=last_tokens[:, None],
            use_cache=True,
            **{self._past: cache.past},
        )
        return logits_of(output)[:, -1, : self.vocabulary], KeyValueCache(output[self._past], cache.memory, cache.rows)

    def reorder(self, state: EncoderStates | KeyValueCache, index: torch.Tensor) -> EncoderStates | KeyValueCache:
        """The rows `index` int64 of a memory, or of a cache, which must not be used again under its old order."""
        if isinstance(state, EncoderStates):
            return EncoderStates(state.states.index_select(0, index), state.mask.index_select(0, index))
        rows = state.rows[index]
        if torch.equal(rows, state.rows):
            # The same sources in the same places: only what was produced differs.
            state.past.self_attention_cache.reorder_cache(index)
            return state
        state.past.reorder_cache(index)
        return KeyValueCache(state.past, self.reorder(state.memory, index), rows)


def _some(mask: torch.Tensor) -> torch.Tensor:
    """The mask, with all of a row visible where nothing is: attention to nothing is not a number."""
    return mask | ~mask.any(1, keepdim=True)


def _random(config: Mapping[str, Any], data: Mapping[str, Any]) -> nn.Module:
    library = quiet.transformers("this network")
    fields = dict(config)
    kind = fields.pop("model_type", None)
    known = library.models.auto.modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        raise UserError(f"transformers has no sequence-to-sequence model_type={kind}{closest(str(kind), known)}")
    check_fields(kind, fields, library.AutoConfig.for_model(kind).to_dict())
    from_data = {name: value for name, value in data.items() if value is not None}
    return library.AutoModelForSeq2SeqLM.from_config(library.AutoConfig.for_model(kind, **{**from_data, **fields}))


def _pretrained(model: str) -> nn.Module:
    return pretrained(quiet.transformers("this network").AutoModelForSeq2SeqLM, model).float()
