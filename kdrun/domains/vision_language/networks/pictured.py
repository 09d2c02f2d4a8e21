"""A vision-language network as chats and texts of language models have it: a picture stands before each row.

Nothing here is imported before such a network is built: it needs transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import transformers
from torch import nn

from kdrun.domains.vision_language.networks.llava import LlavaNetwork
from kdrun.domains.vision_language.networks.llava_checkpoint import config_of, llava_checkpoint, tokens_of
from kdrun.networks.causal import Step, chooser, continued, mixed
from kdrun.problems import UserError

SEMANTICS = 1


class PicturedLanguageModel(nn.Module):
    """Vision encoder, projector and language model of transformers' LLaVA, for data whose rows have a picture each (data.screenshot).

    config: fields of LlavaConfig with vision_config and text_config: random weights, all of which train. Size of the vocabulary, special tokens,
        number of positions and size of images are the data's where it leaves them out.
    path; vision_tower, language_model; lora; dtype: as of llava_checkpoint; encoders that come with weights are frozen.
    vocabulary, pad, bos, eos, max_length, image_size: of the data.

    network(input_ids int64 [B, L], attention_mask bool [B, L], picture float [B, 3, H, W], -1 to 1) -> logits [B, L, vocabulary]. The features of
    a picture are in front of its row, and nothing is predicted there; rows may be padded on either side, and without pictures the row is read
    alone. Raises UserError for data without pictures.
    """

    def __init__(
        self,
        vocabulary: int,
        pad: int,
        bos: int,
        eos: int,
        max_length: int,
        image_size: int | None,
        config: Mapping[str, Any] | None = None,
        path: str | None = None,
        vision_tower: str | None = None,
        language_model: str | None = None,
        lora: Mapping[str, Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if not image_size:
            raise UserError("this network sees a picture before each text, and the data have none: data.screenshot=84")
        if path is not None:
            known = config_of(path)
            image_token, tokens = known.image_token_id, tokens_of(known, image_size)
        else:
            image_token, fields = vocabulary, _fields(config or {}, vocabulary, pad, bos, eos, image_size)
            tokens = tokens_of(transformers.LlavaConfig(**fields), image_size)
            fields["text_config"].setdefault("max_position_embeddings", max_length + tokens)
            config = fields
        self.network: LlavaNetwork = llava_checkpoint(
            vocabulary=vocabulary,
            pad=pad,
            eos=eos,
            image_token=image_token,
            image_tokens=tokens,
            image_size=image_size,
            max_length=max_length + tokens,
            path=path,
            config=config,
            vision_tower=vision_tower,
            language_model=language_model,
            lora=lora,
            dtype=dtype,
        )
        if path is None and vision_tower is None:
            _train(self.network, image_size)
        self.vocabulary, self.eos = vocabulary, eos

    @property
    def parts(self) -> Mapping[str, str | tuple[str, ...]]:
        """See LlavaNetwork."""
        return {
            name: f"network.{of}" if isinstance(of, str) else tuple(f"network.{one}" for one in of)
            for name, of in self.network.parts.items()
        }

    @property
    def notes(self) -> list[str]:
        return self.network.notes

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        picture: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden, weight, bias = self.hidden(input_ids, attention_mask, picture)
        return nn.functional.linear(hidden, weight, bias)

    def hidden(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        picture: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(hidden [B, L, D], weight [vocabulary, D], bias [vocabulary] or None): what forward multiplies."""
        ids, mask = self._before(input_ids, attention_mask, picture)
        states, weight, bias = self.network.hidden(ids, mask, None, picture)
        return states[:, ids.shape[1] - input_ids.shape[1] :], weight, bias

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
        beside: tuple[PicturedLanguageModel, float] | None = None,
        picture: torch.Tensor | None = None,
    ) -> list[list[int]]:
        """See HuggingFaceCausalLM.generate; picture: of each prompt."""
        ends = [self.eos] if eos is None else [eos] if isinstance(eos, int) else eos
        ids, mask = self._before(input_ids, attention_mask, picture)
        step = self._step(picture)
        if beside is not None:
            other, share = beside
            if not isinstance(other, PicturedLanguageModel) or other.network.image_tokens != self.network.image_tokens:
                raise UserError("strategy.teacher_mix: the teacher sees pictures in another number of tokens, or none")
            step = mixed(step, other._step(picture), share)
        return continued(step, ids, mask, max_new, ends, chooser(temperature, generator), keep_end)

    def _step(self, picture: torch.Tensor | None) -> Step:
        return self.network.step(None, picture)

    def _before(
        self, ids: torch.Tensor, mask: torch.Tensor | None, picture: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and mask with the places of pictures in front."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if picture is None:
            return ids, mask
        shape = len(ids), self.network.image_tokens
        return (
            torch.cat([ids.new_full(shape, self.network.image_token), ids], 1),
            torch.cat([mask.new_ones(shape), mask], 1),
        )


def _train(network: LlavaNetwork, image_size: int) -> None:
    """Lets those parameters of the encoder train that its features depend on: there may be layers behind those that are read."""
    parameters = list(network.tower.requires_grad_(True).parameters())
    blank = torch.zeros(1, 3, image_size, image_size)
    with torch.enable_grad():
        gradients = torch.autograd.grad(network.image_features(blank).sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _fields(
    config: Mapping[str, Any], vocabulary: int, pad: int, bos: int, eos: int, image_size: int
) -> dict[str, Any]:
    """A LlavaConfig with what the data know. The embedding has a row more, for the places of pictures."""
    of_text = {"vocab_size": vocabulary + 1, "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    return {
        **config,
        "vision_config": {"image_size": image_size, **config.get("vision_config", {})},
        "text_config": {**of_text, **config.get("text_config", {})},
    }
