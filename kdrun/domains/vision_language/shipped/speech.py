"""Spoken words, by the text-to-speech program eSpeak NG (package espeakng-loader, extra: speech). No torch."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from kdrun.optional import needed

WORDS = ("yes", "no", "stop", "go", "one", "two", "six", "seven")
VOICES: Mapping[str, int] = MappingProxyType({"deep": 15, "bright": 85})
"""What the program calls pitch, 0 to 99."""
PACES: Mapping[str, int] = MappingProxyType({"slowly": 120, "quickly": 220})
"""Words a minute."""
LANGUAGE = b"en-us"
SYNCHRONOUS, CHARACTERS, RATE, PITCH, UTF8 = 2, 1, 1, 3, 1
"""Numbers of its interface (speak_lib.h): of an output, a unit of places, two parameters, and an encoding."""


def here() -> None:
    """Raises UserError where the program is not installed."""
    needed("espeakng_loader", "data.modalities: speech is spoken by eSpeak NG", "espeakng-loader")


@cache
def spoken() -> tuple[int, Mapping[tuple[str, str, str], np.ndarray]]:
    """(samples a second, (word, voice, pace) -> float32 [n] with a peak of 1).

    All are spoken at once, always in this order: the program has random numbers of its own, which go on from one word to the next.
    Raises UserError where it is not installed, RuntimeError where it speaks nothing.
    """
    here()
    import espeakng_loader

    library, pieces = ctypes.CDLL(espeakng_loader.get_library_path()), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(wave, count, events):  # type: ignore[no-untyped-def]
        if wave and count > 0:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    rate, said = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0), {}
    library.espeak_SetSynthCallback(take)
    library.espeak_SetVoiceByName(LANGUAGE)
    for voice, pitch in VOICES.items():
        for pace, speed in PACES.items():
            library.espeak_SetParameter(RATE, speed, 0)
            library.espeak_SetParameter(PITCH, pitch, 0)
            for word in WORDS:
                pieces.clear()
                library.espeak_Synth(word.encode(), len(word) + 1, 0, CHARACTERS, 0, UTF8, None, None)
                if not pieces:
                    raise RuntimeError(f"eSpeak NG says nothing for {word!r}: its data in {espeakng_loader.__file__}?")
                wave = np.concatenate(pieces).astype(np.float32)
                said[word, voice, pace] = wave / np.abs(wave).max()
    library.espeak_Terminate()
    return rate, said


def at_rate(wave: np.ndarray, factor: float) -> np.ndarray:
    """`wave` [n] with `factor` times as many samples, without what is above half their rate."""
    count = max(2, round(len(wave) * factor))
    spectrum = np.fft.rfft(wave)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / len(wave))
