"""What tests of questions on images share: a tiny store and source, a tiny tower, and the config of a module."""

import hashlib

import numpy as np
import torch
from torch import nn

from kdrun.domains.load import COMMON as SHARED
from kdrun.domains.vision_language.build import vision_module
from kdrun.domains.vision_language.domain import Vision
from kdrun.domains.vision_language.source import Conversations, Sample, Turn
from kdrun.schema import defaults

COMMON = {**SHARED, **defaults(Vision), "tower": "tiny", "size": 32, "max_length": 64}


class Store:
    """Images of random pixels; counts how many were asked for."""

    size = 32

    def __init__(self, count, seed=0):
        self.count, self.seed, self.asked = count, seed, []

    @property
    def source_hash(self):
        return hashlib.sha256(f"{self.count} {self.seed}".encode()).hexdigest()

    def __len__(self):
        return self.count

    def pixels(self, indices):
        indices = np.asarray(indices)
        self.asked += indices.tolist()
        draws = [np.random.default_rng([self.seed, int(i)]).integers(0, 256, (3, 32, 32)) for i in indices]
        return np.stack(draws).astype(np.uint8)


class Tower(nn.Module):
    """Means of the four quarters of an image, three channels each: 4 features of width 3."""

    identity, width = "tiny@0123456789ab", 3

    def __init__(self):
        super().__init__()
        self.calls = []

    def tokens(self, size):
        return 4

    def normalise(self, pixels):
        return (pixels.float() - 127) / 128

    def forward(self, pixels):
        self.calls.append(len(pixels))
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)


def tiny_tower(monkeypatch):
    """The tower that "tiny" stands for from now on."""
    from kdrun.domains.vision_language.networks import towers

    tower = Tower()
    monkeypatch.setattr(towers, "build_tower", lambda name: tower)
    return tower


COLOURS = ("red", "green", "blue", "pale blue")


def question(number, images=1, turns=1, extra=""):
    """A sample with answers of one or two words. One without images has a text of its own: the same one would be in two splits."""
    end = "" if images else f" {number}"
    said = tuple(
        Turn(f"what colour is thing {turn}, please{extra}{end}?", COLOURS[(number + turn) % 4]) for turn in range(turns)
    )
    kind = "text" if not images else "several" if turns > 1 else "one"
    return Sample(number, tuple((number + k) % 200 for k in range(images)), said, kind)


def mixed(count, first=0):
    """Samples with no, one, two and three images, and of one to three turns."""
    return [
        question(first + n, images=(1, 0, 2, 1, 3)[n % 5], turns=1 + n % 3, extra=" now" * (n % 4))
        for n in range(count)
    ]


def conversations(train, val=(), test=(), store=None, further=None, name="toy", corpus=None):
    samples = {"train": train, "val": val, "test": test, **(further or {})}
    texts = [text for s in train for turn in s.turns for text in (turn.prompt, turn.answer)]
    return Conversations(name, samples, store or Store(200), texts if corpus is None else corpus, f"hash of {name}")


def module_of(tmp_path, source, **changed):
    like = changed.pop("like", None)
    return vision_module(source, {**COMMON, **changed}, tmp_path / "cache", like)
