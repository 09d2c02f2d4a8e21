"""From a network's config node to a network that fits the data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import nn

from kdrun import targets
from kdrun.domains.images.spec import SINGLE, DataSpec
from kdrun.domains.tabular.spec import TableSpec
from kdrun.networks.modes import evaluating
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

CLASS_NAMES = ("num_classes", "num_labels")
CHANNEL_NAMES = ("in_channels", "in_chans")
SIZE_NAMES = ("image_size", "img_size")
VOCABULARY_NAMES = ("vocabulary", "vocab_size")


def build_network(node: Mapping[str, Any], spec: DataSpec | TableSpec, seed: int) -> nn.Module:
    """The network of a target node, on CPU and in training mode; its weights are a function of (node, seed) alone.

    Two classes may have one logit, for the second. The number of classes and of channels and the image size are taken from the data wherever the target has a
    parameter for them (CLASS_NAMES, CHANNEL_NAMES, SIZE_NAMES) that the config leaves out. The random states of torch,
    numpy and Python are as before afterwards.

    Raises UserError where the config contradicts the data, the target cannot be built with these arguments, or one
    forward pass on two blank images of the real shape fails or does not give one logit per class.
    """
    target = node["_target_"]
    known = data_arguments(node, spec)
    own = {key: value for key, value in node.items() if key not in known}
    with seeded(seed):
        try:
            network = targets.build(own, "network", **known)
        except (TypeError, ValueError) as error:
            given = ", ".join(f"{key}={value}" for key, value in own.items() if key != "_target_")
            raise UserError(f"cannot build {target}: {error}", f"its arguments: {given or 'none'}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{target} gave a {type(network).__name__}, expected a torch.nn.Module")
        check_forward(network, target, spec)
    return network.train()


def data_arguments(node: Mapping[str, Any], spec: DataSpec | TableSpec) -> dict[str, Any]:
    """What a network may ask for and only the data know, without what the node sets itself.

    Raises UserError where the node sets a number of classes that is not the data's.
    """
    if spec.kind not in SINGLE:
        known = {**dict.fromkeys(VOCABULARY_NAMES, spec.vocabulary), "pad": spec.pad, "bos": spec.bos, "eos": spec.eos}
        known["max_length"] = spec.max_length
        if spec.kind == "vision_language":
            known |= {"image_token": spec.image_token, "image_tokens": spec.image_tokens, "image_size": spec.image_size}
            known |= {} if spec.tower is None else {"tower": spec.tower}
        return {name: value for name, value in known.items() if node.get(name) is None}
    classes = spec.outputs
    # Each feature of a table is a channel of 1 x 1.
    channels, *sides = spec.shape if spec.kind == "images" else (*spec.shape, 1, 1)
    for name in CLASS_NAMES:
        if node.get(name) not in (None, classes) and not (classes == 2 and node[name] == 1):
            raise UserError(
                f"{node['_target_']}: {name}={node[name]}, but {spec.name} has {classes} {_said(spec)}",
                f"leave {name} out: it is taken from the data",
            )
    known = {
        **dict.fromkeys(CLASS_NAMES, classes),
        **dict.fromkeys(CHANNEL_NAMES, channels),
        **dict.fromkeys(SIZE_NAMES, sides[0] if len(sides) == 2 and len(set(sides)) == 1 else tuple(sides)),
    }
    return {name: value for name, value in known.items() if node.get(name) is None}


def spec_of(metadata: Mapping[str, Any]) -> Any:
    """The spec of the data that a weights file (networks.weights.read_metadata) was made for."""
    if metadata.get("kind", "images") == "images":
        return DataSpec.of(metadata)
    if metadata["kind"] == "table":
        return TableSpec.of(metadata)
    if metadata["kind"] == "vision_language":
        from kdrun.domains.vision_language.spec import VisionSpec

        return VisionSpec.of(metadata)
    from kdrun.domains.translation.spec import TextSpec

    return TextSpec.of(metadata)


def check_forward(network: nn.Module, target: str, spec: DataSpec | TableSpec) -> None:
    """One forward pass in eval mode, so that batch-norm statistics stay as they are; modes are put back.

    Raises UserError with what went wrong.
    """
    inputs, expected, what = _blank(spec)
    try:
        with torch.no_grad(), evaluating(network):
            logits = logits_of(network(**inputs) if isinstance(inputs, dict) else network(inputs))
    except Exception as error:  # whatever a network raises on a shape it was not made for
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{target} does not run on {what} ({spec.name})",
            f"{type(error).__name__}: {first}",
        ) from error
    single = spec.kind == "images" and expected[1] == 2 and logits.shape == (2, 1)  # one logit for two classes
    if logits.shape != expected and not single:
        names = CLASS_NAMES if spec.kind in SINGLE else VOCABULARY_NAMES
        raise UserError(
            f"{target} gives {tuple(logits.shape)} for 2 {what.split()[0]}, expected {expected}: "
            f"{spec.name} has {expected[-1]} {_said(spec)}",
            f"give it a parameter named {' or '.join(names)} and kdrun sets it from the data",
        )


def _said(spec) -> str:
    """What the last dimension of an output is."""
    return {"images": "classes", "table": "target"}.get(spec.kind, "tokens")


def blank_inputs(spec) -> Any:
    """Inputs of two samples as networks take them, with nothing on them."""
    return _blank(spec)[0]


def _blank(spec) -> tuple[Any, tuple[int, ...], str]:
    """(inputs of two samples, the shape their logits must have, what to call them)."""
    if spec.kind == "images":
        shape = tuple(spec.shape)
        return torch.zeros(2, *shape), (2, len(spec.classes)), f"images of shape {shape}"
    if spec.kind == "table":
        return torch.zeros(2, *spec.shape), (2, spec.outputs), f"rows of {len(spec.features)} features"
    if spec.kind == "vision_language":
        tokens = torch.tensor([[spec.bos, *spec.image_tokens * [spec.image_token], spec.eos]] * 2)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if spec.feature_width is None:
            inputs["pixel_values"] = torch.zeros(2, 3, spec.image_size, spec.image_size)
        else:
            inputs["image_features"] = torch.zeros(2, spec.image_tokens, spec.feature_width)
        return inputs, (*tokens.shape, spec.vocabulary), f"prompts with an image of {spec.image_tokens} tokens"
    tokens = torch.full((2, 5), spec.eos)
    inputs = {"source": tokens, "source_mask": torch.ones_like(tokens, dtype=torch.bool), "target": tokens[:, :4]}
    return inputs, (2, 4, spec.vocabulary), "sentences of 5 tokens"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random states of torch (CPU), numpy and Python set to `seed` inside, as they were outside."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, whose state is not put back here.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
