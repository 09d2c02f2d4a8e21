"""Pictures, sounds and moving pictures of things that have a few attributes, drawn by numpy. No torch.

A thing is {attribute: word}; what the attributes leave open (place, phase, loudness, noise) is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kdrun.domains.vision_language.shipped import speech

Thing = Mapping[str, str]
SIDE = 32
"""Pixels of a side of a picture."""
RATE, LENGTH = 4000, 4000
"""Samples a second of a sound, and of a whole one."""
FRAMES, FRAME = 16, 12
"""Pictures of a moving picture, and pixels of a side of each."""
NOISE = 0.04
"""Deviation of what is added to every number, of a range of 1."""

COLOURS = {"red": (0.9, 0.15, 0.15), "green": (0.15, 0.7, 0.2), "blue": (0.2, 0.3, 0.95), "yellow": (0.95, 0.85, 0.1)}
SHAPES = ("circle", "square", "triangle", "cross")
SIDES = {"left": -1, "right": 1}
PITCHES = {"low": 220.0, "middle": 500.0, "high": 1100.0}
TONES = ("pure", "buzzing", "pulsing")
CHANGES = {"rising": 1.0, "steady": 0.0, "falling": -1.0}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Modality(NamedTuple):
    """attributes: name -> words; draw(thing, random) -> array; describe: a sentence with attributes in braces; prompts: what asks for
    such a sentence; questions: attribute -> wordings of the question for it."""

    attributes: Mapping[str, tuple[str, ...]]
    draw: Callable[[Thing, np.random.Generator], np.ndarray]
    describe: str
    prompts: tuple[str, ...]
    questions: Mapping[str, tuple[str, ...]]


def picture(thing: Thing, random: np.random.Generator) -> np.ndarray:
    """uint8 [3, SIDE, SIDE]: a coloured shape in the left or the right half."""
    x = SIDE / 2 + SIDES[thing["side"]] * random.uniform(6, 9)
    y, radius = random.uniform(11, SIDE - 11), random.uniform(5, 7)
    return _bytes(_drawn(thing, x, y, radius, SIDE, random.uniform(0.0, 0.25)), random)


def sound(thing: Thing, random: np.random.Generator) -> np.ndarray:
    """int16 [LENGTH]: a second of a tone, whose pitch may change by half an octave."""
    time = np.arange(LENGTH) / RATE
    start = PITCHES[thing["pitch"]] * 2 ** random.uniform(-0.12, 0.12)
    octaves = CHANGES[thing["change"]] * random.uniform(0.45, 0.6) * (time - 0.5)
    phase = 2 * np.pi * np.cumsum(start * 2**octaves) / RATE + random.uniform(0, 2 * np.pi)
    wave = np.sin(phase)
    if thing["tone"] == "buzzing":  # odd overtones below half the rate
        wave = sum(np.sin(n * phase) / n for n in (1, 3, 5, 7) if 1.4 * n * start < RATE / 2 or n == 1)
        wave = np.where(np.abs(wave) > 0, np.sign(wave) * np.abs(wave) ** 0.5, 0)
    elif thing["tone"] == "pulsing":
        wave = wave * (np.sin(2 * np.pi * 6 * time + random.uniform(0, 2 * np.pi)) > 0)
    wave = random.uniform(0.3, 0.6) * wave + NOISE * random.standard_normal(LENGTH)
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def spoken_word(thing: Thing, random: np.random.Generator) -> np.ndarray:
    """int16 [LENGTH]: a word somewhere within a second, a little faster or slower than its pace."""
    rate, said = speech.spoken()
    word = speech.at_rate(said[thing["word"], thing["voice"], thing["pace"]], RATE / rate * random.uniform(0.94, 1.06))
    word, wave = word[:LENGTH], np.zeros(LENGTH)
    start = random.integers(LENGTH - len(word) + 1)
    wave[start : start + len(word)] = random.uniform(0.3, 0.6) * word
    wave += NOISE / 4 * random.standard_normal(LENGTH)
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def video(thing: Thing, random: np.random.Generator) -> np.ndarray:
    """uint8 [FRAMES, 3, FRAME, FRAME]: a coloured shape that moves across."""
    dx, dy = DIRECTIONS[thing["direction"]]
    across, shade = random.uniform(4, FRAME - 4), random.uniform(0.0, 0.25)
    frames = []
    for along in np.linspace(1.5, FRAME - 1.5, FRAMES):
        place = along if dx + dy > 0 else FRAME - along
        x, y = (place, across) if dx else (across, place)
        frames.append(_bytes(_drawn(thing, x, y, 3.0, FRAME, shade), random))
    return np.stack(frames)


def _drawn(thing: Thing, x: float, y: float, radius: float, side: int, shade: float) -> np.ndarray:
    """float [3, side, side] in 0..1."""
    rows, columns = np.mgrid[0:side, 0:side] + 0.5
    across, down = np.abs(columns - x), rows - y
    inside = {
        "circle": across**2 + down**2 <= radius**2,
        "square": (across <= 0.85 * radius) & (np.abs(down) <= 0.85 * radius),
        "triangle": (np.abs(down) <= radius) & (across <= (down + radius) / 2),
        "cross": ((across <= 0.35 * radius) & (np.abs(down) <= radius))
        | ((np.abs(down) <= 0.35 * radius) & (across <= radius)),
    }[thing["shape"]]
    colour = np.array(COLOURS[thing["colour"]])[:, None, None]
    return np.where(inside, colour, shade)


def _bytes(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    noisy = values + NOISE * random.standard_normal(values.shape)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


MODALITIES = {
    "image": Modality(
        {"shape": SHAPES, "colour": tuple(COLOURS), "side": tuple(SIDES)},
        picture,
        "a {colour} {shape} on the {side}",
        (
            "describe the picture.",
            "what does the picture show?",
            "what do you see?",
            "give a description of the picture.",
        ),
        {
            "shape": ("what shape is it?", "which shape do you see?", "name the shape in the picture."),
            "colour": ("what colour is the shape?", "which colour do you see?", "name the colour in the picture."),
            "side": (
                "on which side is the shape?",
                "where is it, left or right?",
                "which side of the picture is it on?",
            ),
        },
    ),
    "audio": Modality(
        {"pitch": tuple(PITCHES), "tone": TONES, "change": tuple(CHANGES)},
        sound,
        "a {change} {tone} tone at a {pitch} pitch",
        ("describe the sound.", "what does the sound tell?", "what do you hear?", "give a description of the sound."),
        {
            "pitch": ("how high is the tone?", "which pitch do you hear?", "name the pitch of the sound."),
            "tone": ("what kind of tone is it?", "which kind of tone do you hear?", "name the kind of sound."),
            "change": ("how does the pitch change?", "does the tone rise or fall?", "name the change of the pitch."),
        },
    ),
    "video": Modality(
        {"shape": SHAPES[:2], "colour": tuple(COLOURS), "direction": tuple(DIRECTIONS)},
        video,
        "a {colour} {shape} moves {direction}",
        ("describe the video.", "what happens in the video?", "what does it do?", "give a description of the video."),
        {
            "shape": ("what moves?", "which shape moves?", "name the shape in the video."),
            "colour": ("what colour is the thing that moves?", "which colour moves?", "name the colour in the video."),
            "direction": (
                "where does it move?",
                "in which direction does it move?",
                "name the direction of the video.",
            ),
        },
    ),
    "speech": Modality(
        {"word": speech.WORDS, "voice": tuple(speech.VOICES), "pace": tuple(speech.PACES)},
        spoken_word,
        "a {voice} voice says {word} {pace}",
        (
            "describe the speech.",
            "what is said, and how?",
            "what does the voice do?",
            "give a description of the speech.",
        ),
        {
            "word": ("what is said?", "which word do you hear?", "name the word."),
            "voice": ("what voice is it?", "is the voice deep or bright?", "name the kind of voice."),
            "pace": ("how fast is it said?", "is it said slowly or quickly?", "name the pace."),
        },
    ),
}
