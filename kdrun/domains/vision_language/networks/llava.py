"""LLaVA: images through a vision tower and a projector into the places of image tokens of a language model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.causal import Step, attention, chooser, continued, past_of, positions
from kdrun.networks.huggingface import check_vocabulary

SEMANTICS = 1


# Where the parts lie in transformers' LlavaForConditionalGeneration.
TOWER, PROJECTOR = "model.model.vision_tower", "model.model.multi_modal_projector"
LANGUAGE_MODEL, HEAD = "model.model.language_model", "model.lm_head"

# Output layers are padded to round numbers (Qwen2.5: 271 rows, 399 in the 7B); more than this means another tokenizer.
MOST_UNUSED = 1024


class LlavaNetwork(nn.Module):
    """kdrun's protocol for vision-language networks around a LlavaForConditionalGeneration of transformers.

    model: the network; its class is left as it is, so that `network.model.save_pretrained` writes what others read.
    vocabulary: tokens of the data; rows of the output beyond it are cut off, and `notes` says so.
    image_tokens, image_size: of the data: places per image, pixels.
    packaged: the tower's weights come from a package: they stay out of state_dict(), and loading does not miss them.

    network(input_ids int64 [b, L], attention_mask bool [b, L], image_features [n, T, C] or pixel_values [n, 3, H, W])
    -> logits [b, L, vocabulary] for the token after each position. The n images are in the order of their places.
    Raises ValueError where images and places do not agree.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: int,
        pad: int,
        eos: int,
        image_token: int,
        image_tokens: int | None = None,
        image_size: int | None = None,
        max_length: int | None = None,
        packaged: bool = False,
    ) -> None:
        super().__init__()
        self.hold(model, vocabulary, pad, eos, image_token, image_tokens, image_size, max_length)
        self.packaged = packaged
        rows = model.get_output_embeddings().weight.shape[0]
        check_vocabulary("the language model", rows, vocabulary, MOST_UNUSED, "data.vision.tokenizer")
        if rows > vocabulary:
            self.notes.append(
                f"the output has {rows} rows, the tokenizer {vocabulary} tokens: the last {rows - vocabulary} are cut off"
            )
        self.register_state_dict_post_hook(_without_tower)
        self.register_load_state_dict_pre_hook(_with_tower)

    def hold(
        self,
        model: nn.Module,
        vocabulary: int,
        pad: int,
        eos: int,
        image_token: int,
        image_tokens: int | None,
        image_size: int | None,
        max_length: int | None,
    ) -> None:
        """Keeps the model and what it has to know of the data, as of the class."""
        self.model, self._past = model, past_of(model)
        self.vocabulary, self.pad, self.eos, self.max_length = vocabulary, pad, eos, max_length
        self.image_token, self.image_tokens, self.image_size = image_token, image_tokens, image_size
        self.notes: list[str] = []
        self._exported = False

    @property
    def parts(self) -> Mapping[str, str | tuple[str, ...]]:
        """Part -> the module, or modules, that its parameters are in. A tied output layer is the embedding's."""
        tied = self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight
        return {
            "vision_tower": TOWER,
            "projector": PROJECTOR,
            "language_model": LANGUAGE_MODEL if tied else (LANGUAGE_MODEL, HEAD),
        }

    @property
    def language_model(self) -> nn.Module:
        """What reads embeddings and gives hidden states."""
        return self.model.model.language_model

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        return self.model.model.vision_tower

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden, weight, bias = self.hidden(input_ids, attention_mask, image_features, pixel_values)
        return nn.functional.linear(hidden, weight, bias)

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *pictures: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(hidden [b, L, D], weight [vocabulary, D], bias [vocabulary] or None): what forward multiplies. Further inputs: as its."""
        embeddings = self.embed(input_ids, *pictures, **named)
        mask = attention_mask.bool()
        mask, places = (mask, positions(mask)) if self._exported else attention(mask)
        output = self.language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=places, use_cache=False
        )
        return output.last_hidden_state, *self._head()

    def embed(
        self,
        input_ids: torch.Tensor,
        image_features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[b, L, D]: embeddings of the tokens, with projected features in the places of image tokens."""
        if image_features is not None and pixel_values is not None:
            raise ValueError("image_features and pixel_values are both given: images are either cached or read anew")
        embeddings = self.model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            image_features = self.image_features(pixel_values)
        places = input_ids == self.image_token
        self._check_places(places, image_features)
        projector = self.model.model.multi_modal_projector
        weight = projector.linear_1.weight
        if image_features is None or not image_features.shape[0]:
            if not (torch.is_grad_enabled() and weight.requires_grad):
                return embeddings
            # The projector has a gradient of zero: ranks, and the first look at all parameters, wait for one of each.
            return embeddings + 0.0 * projector(weight.new_zeros(1, weight.shape[1])).sum().to(embeddings.dtype)
        if image_features.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"image features have {image_features.shape[-1]} numbers each, the projector of this network reads "
                f"{weight.shape[1]}: the network's tower and data.vision.tower must be the same"
            )
        projected = projector(image_features.to(weight.dtype))
        # The embeddings of places are nobody's: masked_scatter gives them no gradient.
        return embeddings.masked_scatter(places[..., None], projected.to(embeddings.dtype))

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[n, T, C]: what the projector reads, from normalised pixels [n, 3, H, W]; no gradient where the tower is frozen."""
        settings = self.model.config
        frozen = not any(parameter.requires_grad for parameter in self.tower.parameters())
        layers = settings.vision_feature_layer
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            states = self.tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
            chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
            if settings.vision_feature_select_strategy == "default":
                chosen = [state[:, 1:] for state in chosen]  # without the token that stands for the whole image
            return torch.cat(chosen, -1)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor | None = None,
        *pictures: Any,
        max_new: int = 32,
        eos: int | Collection[int] | None = None,
        **named: Any,
    ) -> list[list[int]]:
        """For each prompt the likeliest next tokens, one after another, up to `max_new`, without the end token.

        input_ids, attention_mask: prompts padded on the left, so that all of them go on at the same column.
        image_features and further inputs: as of `embed`. eos: what ends an answer, one token or several; the data's where left out.
        Raises ValueError for a prompt padded on the right or an empty one.
        """
        step = self.step(image_features, *pictures, **named)
        ends = [self.eos] if eos is None else [eos] if isinstance(eos, int) else eos
        return continued(step, input_ids, attention_mask, max_new, ends, chooser())

    def step(self, *pictures: Any, **named: Any) -> Step:
        """What `continued` goes on with, of prompts with these inputs of `embed`."""
        language_model, head = self.language_model, self._head()

        def step(ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
            words = self.model.get_input_embeddings()
            inputs = words(ids) if past is not None else self.embed(ids, *pictures, **named)
            cache = {"use_cache": True, self._past: past}
            output = language_model(inputs_embeds=inputs, attention_mask=mask, position_ids=places, **cache)
            return nn.functional.linear(output.last_hidden_state[:, -1], *head), output[self._past]

        return step

    def _head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        head = self.model.get_output_embeddings()
        return head.weight[: self.vocabulary], None if head.bias is None else head.bias[: self.vocabulary]

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """For a graph that takes any padding, and whose caller answers for the places of images: these are not counted, and the
        mask is never left out."""
        self._exported = True
        try:
            yield
        finally:
            self._exported = False

    def _check_places(self, places: torch.Tensor, features: torch.Tensor | None) -> None:
        if places.is_meta or self._exported:
            return  # no values to look at
        images, tokens = (0, 0) if features is None else features.shape[:2]
        if places.device.type != "cpu":  # looked at on the device, which then need not be waited for
            torch._assert_async(places.sum() == images * tokens, f"image tokens of a batch are not {images} * {tokens}")
            return
        count = int(places.sum())
        if count == images * tokens:
            return
        lines = [
            f"the batch has {count} image tokens, and {images} images of {tokens} features each: {images * tokens}"
        ]
        if images == 0:
            lines.append("there are image tokens, but neither image_features nor pixel_values")
        elif count % images == 0:
            lines.append(
                f"the processor made {count // images} places per image, the tower gives {tokens}: image size "
                f"({self.image_size} in the data) and tower must be those that the prompts were made for"
            )
        else:
            lines.append("some image's places were cut off or doubled: the processor must keep all places of an image")
        raise ValueError("; ".join(lines))


class Llava(LlavaNetwork):
    """A small LLaVA that can be trained on two cores: a packaged frozen tower, a projector and a Llama-type language model.

    width, layers, heads, kv_heads (heads where left out), feedforward (8/3 width, rounded to 8): of the language model.
    tower: a name of kdrun.domains.vision_language.networks.towers.TOWERS, or the data's identity of one.
    tie: input and output embeddings are one table.
    vocabulary, pad, bos, eos, image_token, image_tokens, image_size, max_length: of the data.
    Raises UserError for an unknown tower, or one that gives another number of features than the data have places for.
    """

    def __init__(
        self,
        vocabulary: int,
        pad: int,
        bos: int,
        eos: int,
        image_token: int,
        image_tokens: int,
        image_size: int,
        max_length: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        kv_heads: int | None = None,
        feedforward: int | None = None,
        tower: str = "efficientnet_lite0@16x2",
        tie: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if width % heads or width // heads % 2:
            raise ValueError(f"width must be an even multiple of heads={heads}, got {width}")
        if heads % (kv_heads or heads):
            raise ValueError(f"heads={heads} must be a multiple of kv_heads={kv_heads}")
        quiet.transformers("LLaVA")
        from kdrun.domains.vision_language.networks.tower_model import check_tokens, from_packaged_tower

        model = from_packaged_tower(
            tower,
            image_size,
            {
                "model_type": "llama",
                "vocab_size": vocabulary,
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads or heads,
                "intermediate_size": feedforward or -(-width * 8 // 3 // 8) * 8,
                "max_position_embeddings": max_length,
                "tie_word_embeddings": tie,
                # The usual 0.02 is for widths of thousands: a language model of width 64 learns nothing from it.
                "initializer_range": width**-0.5,
                "attention_dropout": dropout,
                "pad_token_id": pad,
                "bos_token_id": bos,
                "eos_token_id": eos,
            },
            image_token,
        )
        super().__init__(model, vocabulary, pad, eos, image_token, image_tokens, image_size, max_length, packaged=True)
        check_tokens(self, self.tower.tokens(image_size))


def _without_tower(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    if module.packaged:
        for name in [name for name in state if name.startswith(f"{prefix}{TOWER}.")]:
            del state[name]


def _with_tower(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any, strict: Any, missing: Any, *rest: Any
) -> None:
    """The network's own tower stands in where a state has none."""
    if module.packaged:
        for name, tensor in module.tower.state_dict().items():
            state.setdefault(f"{prefix}{TOWER}.{name}", tensor)
