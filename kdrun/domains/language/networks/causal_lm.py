"""Any causal language model of transformers (Llama, Qwen, SmolLM2, GPT-2 ...), as a teacher or a student."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.domains.language.tokens import SMOLLM2
from kdrun.networks import quiet
from kdrun.networks.causal import Step, chooser, continued, mixed, past_of
from kdrun.networks.folders import pretrained
from kdrun.networks.huggingface import (
    MOST_UNUSED,
    HuggingFaceNetwork,
    check_length,
    check_vocabulary,
    checkpoint_activations,
    of_fields,
)
from kdrun.networks.lora import add_lora, merged
from kdrun.problems import UserError

SEMANTICS = 2

TARGETS = ("HuggingFaceCausalLM",)

TOKENIZER, LENGTH = "data.language.tokenizer", "data.language.max_length"

SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of configurations whose networks change the product of hidden states and output layer before it is a logit."""


class HuggingFaceCausalLM(HuggingFaceNetwork):
    """A network of transformers' AutoModelForCausalLM that reads the tokens of the data.

    model: a folder with config.json and weights, a name on the Hugging Face hub (found in its cache, or downloaded unless
        HF_HUB_OFFLINE is set), or smollm2 (kdrun fetch smollm2); no code that comes with it is run.
    config: in place of model, {"model_type": "llama", ...} with fields of its configuration: random weights. Size of the vocabulary,
        special tokens and number of positions are the data's where it leaves them out.
    from_layers: numbers of the layers that are kept, from 0, in this order; null: all.
    lora: {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": [names of linear maps]}: the network is frozen, low-rank additions to these maps
        train (extra: lora).
    checkpointing: what layers compute inside is computed again in the backward pass instead of kept, for memory.
    vocabulary, pad, eos, max_length: of the data.

    network(input_ids int64 [B, L], attention_mask) -> logits [B, L, vocabulary]; rows of the output layer that the tokenizer has no
    tokens for are cut off. attention_mask: bool [B, L], where there is a token; int64 [B, L], which document of its row a token is of
    (0: padding): tokens see their own document alone, whose positions begin at 0. Rows may be padded on either side.
    Raises UserError where transformers is absent, there is no such network or layer, or it was made for another vocabulary or shorter rows.
    """

    def __init__(
        self,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        from_layers: list[int] | None = None,
        vocabulary: int | None = None,
        pad: int | None = None,
        eos: int | None = None,
        max_length: int | None = None,
        checkpointing: bool = False,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        example = "for example network.model=smollm2, or 'network.config={model_type: llama}'"
        super().__init__(model, config, "a language model", example)
        quiet.transformers("this network")
        if model == SMOLLM2:
            self.model, self.from_layers, from_layers = _smollm2(from_layers), from_layers, None
        elif model is not None:
            from transformers import AutoModelForCausalLM

            self.model = pretrained(AutoModelForCausalLM, model, ("missing_keys", "mismatched_keys"), new=_tied).float()
        else:
            self.model = _random(config, vocabulary, pad, eos, max_length)
        name = model or config["model_type"]
        rows = self.model.get_output_embeddings().weight.shape[0]
        self.vocabulary = rows if vocabulary is None else vocabulary
        check_vocabulary(name, rows, self.vocabulary, max(MOST_UNUSED, rows // 20), TOKENIZER)
        check_length(name, self.model.config, max_length, LENGTH)
        self.keep(from_layers)
        scaled = [name for name in SCALED if getattr(self.model.config, name, None) not in (None, 1.0)]
        if scaled:
            raise UserError(
                f"{name} changes its logits behind the output layer ({scaled[0]}), which losses by pieces of a vocabulary do not know",
                "such networks (Gemma 2, Cohere, Granite) cannot be used here",
            )
        self.eos, self._past = eos, past_of(self.model)
        if lora is not None:
            add_lora(self.model, **lora)
        if checkpointing:
            checkpoint_activations(self.model)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden, weight, bias = self.hidden(input_ids, attention_mask)
        return nn.functional.linear(hidden, weight, bias)

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(hidden [B, L, D], weight [vocabulary, D], bias [vocabulary] or None): what forward multiplies."""
        named: dict[str, Any] = {}
        if attention_mask is not None:
            named = attention(attention_mask)
        states = self.model.base_model(input_ids=input_ids, use_cache=False, **named).last_hidden_state
        head = self.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[: self.vocabulary]
        return states, head.weight[: self.vocabulary], bias

    def save_transformers(self, folder: Path, dtype: torch.dtype, ends: Collection[int], pad: int) -> None:
        """What AutoModelForCausalLM.from_pretrained loads: config.json, generation_config.json and model.safetensors, with adapters in the
        weights. ends, pad: ids that end a text or an answer, and fill rows."""
        from transformers import GenerationConfig

        model = merged(self.model).to(dtype)
        model.generation_config = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=pad)
        model.config.eos_token_id, model.config.pad_token_id = self.eos, pad
        model.save_pretrained(folder, max_shard_size="1000GB")

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        max_new: int = 64,
        eos: int | Collection[int] | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        keep_end: bool = False,
        beside: tuple[HuggingFaceCausalLM, float] | None = None,
    ) -> list[list[int]]:
        """For each prompt, padded on the left, the next tokens up to `max_new`, without what ends them (eos; the data's where left out)
        unless keep_end says so.

        temperature 0: the likeliest token; else one drawn, with `generator`. beside: another network, and its share in the mixture of
        both that tokens are drawn from.
        """
        ends = [self.eos] if eos is None else [eos] if isinstance(eos, int) else eos
        step = self._step() if beside is None else mixed(self._step(), beside[0]._step(), beside[1])
        return continued(step, input_ids, attention_mask, max_new, ends, chooser(temperature, generator), keep_end)

    def _step(self) -> Step:
        head = self.model.get_output_embeddings()

        def step(ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
            named = {"attention_mask": mask.long(), "position_ids": places, self._past: past}
            output = self.model.base_model(input_ids=ids, use_cache=True, **named)
            return head(output.last_hidden_state[:, -1])[:, : self.vocabulary], output[self._past]

        return step


def attention(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What transformers' decoders are given: attention_mask and position_ids of a mask (see HuggingFaceCausalLM)."""
    if mask.dtype == torch.bool and not mask.is_meta:  # there they would ask for its values
        return {"attention_mask": mask.long(), "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    columns = torch.arange(mask.shape[1], device=mask.device)
    same = (mask[:, :, None] == mask[:, None, :]) & (
        columns[:, None] >= columns
    )  # a padded token sees padding, and no row is empty
    first = torch.where(torch.nn.functional.pad(mask[:, 1:] != mask[:, :-1], (1, 0), value=True), columns, 0)
    return {"attention_mask": same[:, None], "position_ids": columns - first.cummax(1).values}


def _tied(model: nn.Module, name: str) -> bool:
    """Whether a parameter that a folder lacks is that of an output layer tied to the embedding."""
    return bool(model.config.tie_word_embeddings) and name.startswith("lm_head.")


def _random(
    config: Mapping[str, Any], vocabulary: int | None, pad: int | None, eos: int | None, max_length: int | None
) -> nn.Module:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    of_data = {
        "vocab_size": vocabulary,
        "pad_token_id": pad,
        "eos_token_id": eos,
        "max_position_embeddings": max_length,
    }
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return of_fields("AutoModelForCausalLM", known, "language model", config, of_data, bos_token_id=None)


def _smollm2(layers: list[int] | None) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    from kdrun.domains.vision_language.networks.smollm2 import LAYERS, read_gguf, smollm2_file

    gguf = read_gguf(smollm2_file())
    chosen = list(range(LAYERS)) if layers is None else layers
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= number < LAYERS for number in chosen):
        raise UserError(f"from_layers={layers}: SmolLM2 has the layers 0 to {LAYERS - 1}, each can be kept once")
    fields = gguf.config(len(chosen))
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    if not made.get_input_embeddings().weight.is_meta:
        weights = {name: torch.from_numpy(value) for name, value in gguf.tensors(chosen)}
        made.base_model.load_state_dict(weights, strict=True)
    return made
