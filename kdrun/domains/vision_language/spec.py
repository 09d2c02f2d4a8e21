"""What a vision-language network and its task have to know about a set of questions on images. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.domains.spec import Blank
from kdrun.domains.translation.spec import TokenSpec


@dataclass(frozen=True)
class VisionSpec(TokenSpec):
    """Questions on images as a network and a task see them: the fields of TokenSpec (sequences with their image slots), and

    image_token    id whose place a feature of an image takes
    image_tokens   how many of these an image has
    image_size     height and width of an image in pixels
    feature_width  width of the tower's features that the data bring ready-made; None: they bring pixels
    tower          identity of the tower that the features are of, and the size of its images
                   ("efficientnet_lite0@<hash>/96"); None where the network brings its own
    template       name of the chat template
    types          types of questions, sorted
    mean, std      per channel, what pixels in 0..1 are normalised with for a network's own tower; None where the data bring
                   a tower, which does it by itself
    modalities     of inputs, in the order of their numbers, where inputs are of several; None: they are pictures
    """

    image_token: int
    image_tokens: int
    image_size: int
    feature_width: int | None
    tower: str | None
    template: str
    types: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    modalities: tuple[str, ...] | None = None

    kind: ClassVar[str] = "vision_language"
    settings: ClassVar[str] = "vision"
    unit: ClassVar[str] = "question"
    compared: ClassVar[tuple[str, ...]] = ("tokenizer", "tower")
    unchanged: ClassVar[tuple[str, ...]] = ("modalities", "template", "image_size", "image_tokens")
    chosen = MappingProxyType(
        {
            "tower": ("vision tower", "choose it: data.vision.tower=NAME"),
            "modalities": ("modalities", "choose them: data.modalities=[NAME, ...]"),
            "template": ("chat template", "choose it: data.vision.template=NAME"),
            "image_size": ("image size", "choose it: data.vision.size=PIXELS, and data.size where the data have it"),
            "image_tokens": ("number of image slots", "choose it: data.vision.image_tokens=NUMBER"),
        }
    )

    @property
    def about(self) -> str:
        if self.modalities:
            kinds = ", ".join(self.modalities)
            return f"inputs ({kinds}) in {self.image_tokens} slots, {self.vocabulary:,} tokens, {len(self.types)} types of questions"
        return (
            f"images of {self.image_size} pixels in {self.image_tokens} slots, {self.vocabulary:,} tokens, "
            f"{len(self.types)} types of questions"
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        pictures = "pixel_values" if self.feature_width is None else "image_features"
        more = ("modality",) if self.modalities else ()
        return ("input_ids", "attention_mask", *((pictures,) if self.image_tokens else ()), *more)

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        text = {0: "batch", 1: "length"}
        return {name: text if name in ("input_ids", "attention_mask") else {0: "pictures"} for name in self.input_names}

    def arguments(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("image_token", "image_tokens", "image_size")}
        known |= {} if self.tower is None else {"tower": self.tower}
        known |= {"modalities": self.modalities, "feature_width": self.feature_width} if self.modalities else {}
        return {**super().arguments(), **known}

    def comparable(self, name: str, value: Any) -> Any:
        """A tower without the size of its images, which is compared by itself."""
        value = super().comparable(name, value)
        return value.partition("/")[0] if name == "tower" and value else value

    def blank(self) -> Blank:
        import torch

        tokens = torch.tensor([[self.bos, *self.image_tokens * [self.image_token], self.eos]] * 2)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if self.feature_width is None:
            inputs["pixel_values"] = torch.zeros(2, 3, self.image_size, self.image_size)
        else:
            inputs["image_features"] = torch.zeros(2, self.image_tokens, self.feature_width)
        if self.modalities:
            inputs["modality"] = torch.zeros(2, dtype=torch.int64)
        what = f"prompts with an image of {self.image_tokens} tokens"
        return Blank(inputs, (*tokens.shape, self.vocabulary), what)
