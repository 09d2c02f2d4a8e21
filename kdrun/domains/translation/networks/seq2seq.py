"""Any sequence-to-sequence network of transformers (Marian, T5, mBART ...) as a teacher or a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.causal import past_of
from kdrun.networks.folders import pretrained
from kdrun.networks.huggingface import MOST_UNUSED, check_length, check_vocabulary, of_fields, other_tokenizer
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

SEMANTICS = 1

TOKENIZER = "data.text.tokenizer"


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
        library = quiet.transformers("this network")
        if model is not None:
            self.model = pretrained(library.AutoModelForSeq2SeqLM, model).float()
        else:
            known = library.models.auto.modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
            what, data = (
                "sequence-to-sequence network",
                {key: value for key, value in data.items() if value is not None},
            )
            self.model = of_fields("AutoModelForSeq2SeqLM", known, what, config, {}, **data)
        settings = self.model.config
        name = model or config["model_type"]
        own = getattr(settings, "decoder_vocab_size", None) or settings.vocab_size
        self.vocabulary = vocabulary or own
        check_vocabulary(name, own, self.vocabulary, MOST_UNUSED, TOKENIZER)
        for field, token, what in (("decoder_start_token_id", bos, "start"), ("eos_token_id", eos, "end")):
            theirs = getattr(settings, field, None)
            if None not in (theirs, token) and theirs != token:
                raise UserError(
                    f"{name}: the {what} of a sentence is token {theirs}, the data's tokenizer has {token}",
                    other_tokenizer(TOKENIZER),
                )
        self.max_length: int | None = getattr(settings, "max_position_embeddings", None)
        check_length(name, settings, max_length, "data.text.max_length")
        self._past = past_of(self.model)

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
