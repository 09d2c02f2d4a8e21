"""LLaVA networks of transformers: around a packaged tower, from a checkpoint, or put together from two checkpoints.

Nothing here is imported before such a network is built: it needs transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn

import kdrun.networks.quiet  # noqa: F401
from kdrun.domains.vision_language.networks.llava import LlavaNetwork
from kdrun.domains.vision_language.networks.tower_model import check_tokens
from kdrun.networks.folders import check_fields, check_folder, pretrained
from kdrun.problems import UserError, closest

SEMANTICS = 1

TARGETS = ("llava_checkpoint",)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def llava_checkpoint(
    vocabulary: int,
    pad: int,
    eos: int,
    image_token: int,
    image_tokens: int,
    image_size: int,
    max_length: int,
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    vision_tower: str | None = None,
    language_model: str | None = None,
    lora: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> LlavaNetwork:
    """A LLaVA of any size. The vision tower is frozen.

    path: a folder or hub name of a whole LLaVA (LlavaForConditionalGeneration).
    vision_tower, language_model: folders or hub names of its two halves, between which a new projector is put; needs config.
    config: fields of LlavaConfig. Alone, or on the meta device, it gives the network with random weights, or none.
    lora: {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": [names of linear maps]}: the language model is frozen, low-rank
        additions to these maps train (needs peft). None: all of it trains.
    dtype: of the weights: float32, bfloat16 or float16.
    vocabulary .. max_length: of the data.
    A name is looked for in the Hugging Face cache, and downloaded from the hub unless HF_HUB_OFFLINE is set; no code that
    comes with it is run. Raises UserError for what is not there, is no LLaVA, or does not fit the data.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype}: one of {', '.join(DTYPES)}{closest(dtype, DTYPES)}")
    on_meta = torch.empty(0).is_meta
    if path is not None and not on_meta:
        model = pretrained(transformers.LlavaForConditionalGeneration, path, dtype=DTYPES[dtype])
    elif config is not None:
        model = _from_parts(config, *((None, None) if on_meta else (vision_tower, language_model)), DTYPES[dtype])
    elif path is not None:
        model = transformers.LlavaForConditionalGeneration(config_of(path)).to(DTYPES[dtype])
    else:
        raise UserError(
            "llava_checkpoint needs path, the folder or hub name of a LLaVA, or config",
            "for example student.network.path=llava-hf/llava-1.5-7b-hf",
        )
    model.config.image_token_id = image_token
    model.model.vision_tower.requires_grad_(False)
    most = getattr(model.config.text_config, "max_position_embeddings", None)
    if most is not None and max_length > most:
        raise UserError(
            f"{path or language_model or 'the language model'} reads at most {most} tokens, the data {max_length}"
        )
    network = LlavaNetwork(model, vocabulary, pad, eos, image_token, image_tokens, image_size, max_length)
    check_tokens(network, tokens_of(model.config, image_size))
    if lora is not None:
        from kdrun.networks.lora import add_lora

        network.notes.append(add_lora(model.model.language_model, **lora))
    return network


def tokens_of(config: Any, image_size: int) -> int:
    """Features that a vision transformer gives for an image. Raises UserError for another size than it was made for."""
    vision = config.vision_config
    if vision.image_size != image_size:
        raise UserError(
            f"the vision tower reads images of {vision.image_size} pixels, the data have {image_size}",
            f"data.vision.size={vision.image_size}",
        )
    # CLIP has a token for the whole image, which "default" leaves out; SigLIP has none, and "default" would lose a patch.
    whole = 1 if "clip" in vision.model_type and "siglip" not in vision.model_type else 0
    return (image_size // vision.patch_size) ** 2 + whole - (config.vision_feature_select_strategy == "default")


def _from_parts(
    fields: Mapping[str, Any], tower: str | None, language_model: str | None, dtype: torch.dtype
) -> nn.Module:
    """The network of a configuration: with random weights, or with two pretrained halves and a new projector."""
    check_fields("LlavaConfig", fields, transformers.LlavaConfig().to_dict())
    config = transformers.LlavaConfig(**fields)
    if tower is None and language_model is None:
        return transformers.LlavaForConditionalGeneration(config).to(dtype)
    if tower is None or language_model is None:
        raise UserError("llava_checkpoint puts two halves together: it needs both vision_tower and language_model")
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        model = transformers.LlavaForConditionalGeneration(config)
    inner = model.model
    vision = pretrained(type(inner.vision_tower), tower, dtype=dtype)
    text = pretrained(transformers.AutoModelForCausalLM, language_model, dtype=dtype)
    for part, loaded, meant in ((tower, vision, config.vision_config), (language_model, text, config.text_config)):
        for key in ("hidden_size", "num_hidden_layers", "vocab_size", "image_size"):
            if getattr(loaded.config, key, None) != getattr(meant, key, None):
                raise UserError(
                    f"{part} has {key}={getattr(loaded.config, key, None)}, config says {getattr(meant, key, None)}"
                )
    inner.vision_tower, inner.language_model, model.lm_head = vision, text.get_decoder(), text.get_output_embeddings()
    inner.multi_modal_projector = type(inner.multi_modal_projector)(config).to(dtype)
    return model


def config_of(name: str) -> Any:
    check_folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {(str(error).splitlines() or [''])[0]}") from error
    if config.model_type != "llava":
        raise UserError(f"{name} is a {config.model_type} model, expected llava")
    return config
