"""A small language model that reads inputs of several modalities: a frozen encoder and a projector of its own for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdrun.domains.vision_language.networks.llava import LlavaNetwork
from kdrun.networks import quiet
from kdrun.networks.huggingface import of_fields
from kdrun.problems import UserError

SEMANTICS = 1


class Multimodal(LlavaNetwork):
    """The protocol of LlavaNetwork around any language model of transformers.

    Encoders are frozen and belong to the data, which bring what they give; a projector for each modality brings that to the width of the
    language model, as that of LLaVA-1.5 (two linear layers with a GELU between). A projector that a batch has no inputs for has no gradient, so
    that an optimizer leaves it as it is.

    language         {"model_type": "llama", ...}: fields of the configuration of the language model, as `config` of the networks of data.task=causal_lm
    modalities       names, in the order of their numbers
    feature_width    of what encoders give
    vocabulary, pad, eos, image_token, image_tokens, max_length: of the data

    network(input_ids, attention_mask, image_features float [n, T, feature_width], modality int64 [n]: place in `modalities`)
    -> logits [b, L, vocabulary].
    """

    def __init__(
        self,
        language: Mapping[str, Any],
        modalities: Sequence[str],
        feature_width: int,
        vocabulary: int,
        pad: int,
        eos: int,
        image_token: int,
        image_tokens: int,
        max_length: int,
    ) -> None:
        nn.Module.__init__(self)
        if not modalities:
            raise UserError("this network reads inputs of several modalities: data=modalities has them")
        quiet.transformers("this network")
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

        of_data = {
            "vocab_size": vocabulary,
            "pad_token_id": pad,
            "eos_token_id": eos,
            "max_position_embeddings": max_length,
        }
        model = of_fields("AutoModelForCausalLM", KNOWN, "language model", language, of_data, bos_token_id=None)
        self.hold(model, vocabulary, pad, eos, image_token, image_tokens, None, max_length)
        width = model.get_input_embeddings().weight.shape[1]
        self.projectors = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(feature_width, width), nn.GELU(), nn.Linear(width, width))
                for name in modalities
            }
        )
        for parameter in self.projectors.parameters():
            parameter.conditional = True  # a batch, or a task, may have no input of a modality
        self.modalities, self.feature_width, self.packaged = tuple(modalities), feature_width, False

    @property
    def parts(self) -> Mapping[str, str]:
        return {"projectors": "projectors", "language_model": "model"}

    @property
    def language_model(self) -> nn.Module:
        return self.model.base_model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor | None = None,
        modality: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return super().forward(input_ids, attention_mask, image_features, modality)

    def embed(
        self,
        input_ids: torch.Tensor,
        image_features: torch.Tensor | None = None,
        modality: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[b, L, D]: embeddings of the tokens, with projected features in the places of inputs."""
        embeddings = self.model.get_input_embeddings()(input_ids)
        places = input_ids == self.image_token
        self._check_places(places, image_features)
        if image_features is None or not image_features.shape[0]:
            return embeddings
        projected = self._projected(image_features, modality).to(embeddings.dtype)
        return embeddings.masked_scatter(places[..., None], projected)

    def _projected(self, features: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """[n, T, D]: each input through the projector of its modality."""
        features = features.to(self.projectors[self.modalities[0]][0].weight.dtype)
        numbered = enumerate(self.projectors.values())
        if self._exported or features.is_meta:  # the same operations whatever the modalities are
            return sum((modality == number)[:, None, None] * projector(features) for number, projector in numbered)
        projected = features.new_zeros(*features.shape[:2], self.model.get_input_embeddings().weight.shape[1])
        for number, projector in numbered:
            if bool((rows := modality == number).any()):
                projected = projected.masked_scatter(rows[:, None, None], projector(features[rows]))
        return projected
