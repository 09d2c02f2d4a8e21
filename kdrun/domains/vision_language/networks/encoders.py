"""Frozen encoders of pictures, sounds and moving pictures: fixed random features of their pieces, nothing to fetch.

No package ships a small pretrained encoder of sounds or of moving pictures, so each modality has what random networks give: a piece of the
input (a patch, a stretch of a spectrogram, a frame) times a fixed random matrix, rectified (Rahimi and Recht 2007 have cosines).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.data import randomness
from kdrun.problems import UserError, closest, listed

SEMANTICS = 1
TOKENS, WIDTH = 16, 128
"""Features of an input, and numbers of each: the same for all modalities."""
BANDS = 32


def patches(raw: Tensor) -> Tensor:
    """uint8 [n, 3, 32, 32] -> float32 [n, 16, 192]: squares of 8 x 8 pixels, row by row."""
    return functional.unfold(raw.float() / 255 - 0.5, kernel_size=8, stride=8).transpose(1, 2)


def spectrum(raw: Tensor) -> Tensor:
    """int16 [n, 4000] -> float32 [n, 16, 32]: log energy in BANDS whose widths grow with the pitch, of windows of 512 samples."""
    wave = raw.float() / 32768
    frames = torch.stack([functional.pad(wave, (0, 512))[:, start : start + 512] for start in range(0, 4000, 250)], 1)
    power = torch.fft.rfft(frames * torch.hann_window(512)).abs().square()[..., 1:]  # [n, 16, 256]
    edges = (256 ** (torch.arange(BANDS + 1) / BANDS)).round().long()
    bands = [power[..., low - 1 : max(high, low + 1) - 1].mean(-1) for low, high in pairwise(edges.tolist())]
    return (torch.stack(bands, -1) + 1e-3).log() / 4


def frames(raw: Tensor) -> Tensor:
    """uint8 [n, 16, 3, 12, 12] -> float32 [n, 16, 432]: one piece for each picture."""
    return raw.flatten(2).float() / 255 - 0.5


PIECES: Mapping[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "image": (patches, 192),
    "audio": (spectrum, BANDS),
    "video": (frames, 432),
    "speech": (spectrum, BANDS),
}
"""Modality -> (pieces of inputs, numbers of each)."""


class RandomFeatures(nn.Module):
    """A frozen encoder. name, identity, width: as of towers.Tower.

    encoder(modality, raw [n, ...]) -> float32 [n, TOKENS, WIDTH].
    """

    name, identity, tokens, width = "random_features", f"random_features@{SEMANTICS}", TOKENS, WIDTH

    def __init__(self) -> None:
        super().__init__()
        for modality, (_, size) in PIECES.items():
            drawn = randomness.normals(np.arange(size), WIDTH, randomness.key("encoder", modality) >> 1)
            self.register_buffer(modality, torch.from_numpy(drawn) * (2 / size) ** 0.5)

    def forward(self, modality: str, raw: Tensor) -> Tensor:
        return functional.relu(PIECES[modality][0](raw) @ getattr(self, modality))


ENCODERS = {RandomFeatures.name: RandomFeatures}


def build_encoder(name: str | None) -> RandomFeatures:
    """The encoder of a name of ENCODERS. UserError for another."""
    if name not in ENCODERS:
        raise UserError(
            f"data.vision.tower={name}: no encoder of several modalities{closest(str(name), ENCODERS)}",
            f"there are: {listed(ENCODERS)}",
        )
    return ENCODERS[name]()
