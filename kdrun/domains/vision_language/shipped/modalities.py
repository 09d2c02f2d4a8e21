"""Questions about pictures, sounds and moving pictures, and descriptions of them: drawn and synthesised, nothing to fetch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdrun.data import randomness
from kdrun.data.source import text_hash
from kdrun.domains.vision_language.shipped import speech
from kdrun.domains.vision_language.shipped.scenes import Draw
from kdrun.domains.vision_language.shipped.signals import MODALITIES, Thing
from kdrun.domains.vision_language.source import Conversations, Sample, Turn
from kdrun.problems import UserError, closest, listed

TARGETS = ("modalities",)

FORMS = ("answer", "description")
SPLITS = ("train", "val", "test")
MOST = 1_000_000
"""Inputs of a type in a split."""
DRAWN = ("image", "audio", "video")
"""Modalities that need no further package; a tokenizer knows their words whether they are asked for or not."""
PROBED = 4
"""Inputs of each type and split whose content goes into the hash, beside all things that are drawn."""


def modalities(
    modalities: Sequence[str] = DRAWN,
    train: int = 400,
    val: int = 60,
    test: int = 150,
    seed: int = 0,
) -> Conversations:
    """For each modality two types of questions, `image_answer` and `image_description`, each about inputs of its own.

    modalities        image (a coloured shape), audio (a tone of one second), video (a shape that moves), speech (a spoken word, extra: speech)
    train, val, test  questions of each type in these splits
    seed              of everything that is drawn
    """
    if not modalities or (wrong := [name for name in modalities if name not in MODALITIES]):
        name = wrong[0] if modalities else modalities
        raise UserError(
            f"data.modalities: no modality {name!r}{closest(str(name), MODALITIES)}", f"there are: {listed(MODALITIES)}"
        )
    if len(set(modalities)) < len(modalities):
        raise UserError(f"data.modalities={list(modalities)}: each once")
    for name, size in (("train", train), ("val", val), ("test", test)):
        if not isinstance(size, int) or not 1 <= size <= MOST:
            raise UserError(f"data.{name}={size}: how many questions of each type, 1 to {MOST:,}")
    sizes, things = {"train": train, "val": val, "test": test}, []
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    known = [name for name in MODALITIES if name in modalities]
    for name in known:
        for form in FORMS:
            for split in SPLITS:
                first = (list(MODALITIES).index(name) * len(FORMS) + FORMS.index(form)) * len(SPLITS)
                base = (first + SPLITS.index(split)) * MOST
                for number, (thing, turn) in enumerate(_drawn(name, form, split, sizes[split], seed)):
                    kind, described = f"{name}_{form}", form == "description"
                    samples[split].append(Sample(base + number, (len(things),), (turn,), kind, described=described))
                    things.append(Signal(name, thing, randomness.key("signal", seed, base + number)))
    signals = Signals(things, known)
    lines = [repr((s.id, s.images, s.turns, s.type)) for split in SPLITS for s in samples[split]]
    return Conversations(
        "modalities",
        samples,
        signals,
        list(_corpus(known)),
        text_hash([signals.source_hash, *lines]),
        determined=True,
        instructions={f"{name}_{form}": _prompts(name, form) for name in known for form in FORMS},
    )


class Signal(NamedTuple):
    """One input: what it shows, and the seed of all that the thing leaves open."""

    modality: str
    thing: Thing
    seed: int


class Signals:
    """Inputs of several modalities, drawn when they are asked for (see source.InputStore)."""

    def __init__(self, signals: Sequence[Signal], modalities: Sequence[str]):
        self.signals, self.modalities = list(signals), tuple(modalities)
        digest = hashlib.sha256()
        for place, signal in enumerate(self.signals):
            digest.update(repr((signal.modality, sorted(signal.thing.items()), signal.seed)).encode())
            if place % MOST < PROBED:
                digest.update(self.raw(place).tobytes())
        self.source_hash = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.signals)

    def modality(self, number: int) -> str:
        return self.signals[number].modality

    def raw(self, number: int) -> np.ndarray:
        signal = self.signals[number]
        return MODALITIES[signal.modality].draw(signal.thing, np.random.Generator(np.random.PCG64(signal.seed)))


def _needs(data: Mapping[str, Any]) -> None:
    if "speech" in data.get("modalities", DRAWN):
        speech.here()


modalities.needs = _needs


def _drawn(name: str, form: str, split: str, count: int, seed: int) -> Iterator[tuple[Thing, Turn]]:
    """Things with a question about each and its answer; the first are the same for every count."""
    draw, modality = Draw(randomness.key("modalities", name, form, split, seed)), MODALITIES[name]
    for _ in range(count):
        thing = {attribute: draw.one(words) for attribute, words in modality.attributes.items()}
        if form == "description":
            yield thing, Turn(draw.one(modality.prompts), modality.describe.format(**thing))
        else:
            attribute = draw.one(list(modality.questions))
            yield thing, Turn(draw.one(modality.questions[attribute]), thing[attribute])


def _prompts(name: str, form: str) -> tuple[str, ...]:
    """What is asked in questions of a type."""
    modality = MODALITIES[name]
    if form == "description":
        return modality.prompts
    return tuple(wording for wordings in modality.questions.values() for wording in wordings)


def _corpus(known: Sequence[str]) -> Iterator[str]:
    """Every word that a question or an answer may hold, of these modalities and of DRAWN: a task changes no tokenizer."""
    for name, modality in MODALITIES.items():
        if name not in (*DRAWN, *known):
            continue
        yield from (prompt for form in FORMS for prompt in _prompts(name, form))
        yield modality.describe.replace("{", "").replace("}", "")
        yield " ".join(word for words in modality.attributes.values() for word in words)
