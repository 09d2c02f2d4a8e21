"""Packaged towers as vision models of transformers. Not imported before such a network is built: it needs transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

import kdrun.networks.quiet  # noqa: F401
from kdrun.domains.vision_language.networks.towers import Tower, build_tower
from kdrun.problems import UserError


class TowerConfig(transformers.PretrainedConfig):
    """A tower of kdrun.domains.vision_language.networks.towers as a vision_config of transformers."""

    model_type = "kdrun_tower"

    def __init__(self, tower: str = "efficientnet_lite0", hidden_size: int = 1280, image_size: int = 96, **others: Any):
        self.tower, self.hidden_size, self.image_size = tower, hidden_size, image_size
        super().__init__(**others)


class TowerModel(transformers.PreTrainedModel):
    """A tower of kdrun.domains.vision_language.networks.towers as a vision model of transformers: its features are the one hidden state."""

    config_class = TowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.tower: Tower = build_tower(config.tower)
        for module in self.tower.modules():
            module._is_hf_initialized = True  # or transformers draws its weights anew
        self.post_init()

    def tokens(self, size: int) -> int:
        """Features per image of size x size."""
        return self.tower.tokens(size)

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """pixel_values: float [n, 3, H, W], normalised by the tower."""
        features = self.tower(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features, hidden_states=(features,))


# The one way in which transformers finds a model that is not its own; the name is used by nobody else.
transformers.AutoConfig.register(TowerConfig.model_type, TowerConfig, exist_ok=True)
transformers.AutoModel.register(TowerConfig, TowerModel, exist_ok=True)


def from_packaged_tower(tower: str, image_size: int, text: Mapping[str, Any], image_token: int) -> nn.Module:
    """A LlavaForConditionalGeneration with random weights around a packaged, frozen tower.

    text: fields of the language model's configuration, with model_type and tie_word_embeddings.
    """
    found = build_tower(tower)
    config = transformers.LlavaConfig(
        vision_config=TowerConfig(tower=found.name, hidden_size=found.width, image_size=image_size),
        text_config=dict(text),
        image_token_index=image_token,
        image_seq_length=found.tokens(image_size),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return transformers.LlavaForConditionalGeneration(config)


def check_tokens(network: Any, own: int) -> None:
    """Raises UserError where the tower gives another number of features than prompts have places."""
    if own != network.image_tokens:
        raise UserError(
            f"the network's tower gives {own} features for an image of {network.image_size} pixels, "
            f"the data's prompts have {network.image_tokens} places",
            "the network's tower and data.vision.tower (or data.vision.image_tokens) must agree",
        )
