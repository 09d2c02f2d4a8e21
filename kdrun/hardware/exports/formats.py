"""Formats and number formats of exported networks: which go together, and what runs them. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from kdrun.problems import UserError, closest, listed

CONFIG = "config.json"
"""File beside an exported network: what its inputs are; in format=transformers, which has a file of this name, it is DESCRIPTION."""
DESCRIPTION = "kdrun.json"

FORMATS = ("safetensors", "onnx", "torch_export", "executorch", "transformers")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

POSSIBLE = {
    "safetensors": ("fp32", "fp16", "bf16"),
    "onnx": ("fp32", "fp16", "int8"),
    "torch_export": ("fp32", "fp16", "bf16"),
    "executorch": ("fp32", "int8"),
    "transformers": ("fp32", "fp16", "bf16"),
}
"""Format -> number formats that it is written in here."""

RUNTIMES = {
    "safetensors": "torch",
    "torch_export": "torch",
    "transformers": "torch",
    "onnx": "onnxruntime",
    "executorch": "executorch",
}
"""Format -> what runs it, by the names of `hardware.deploy.runtime`."""

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": None}
"""Largest difference of an output that is taken for rounding, as a share of the range of the network's outputs (of fp32: absolute
too, where the range is below 1). None: whole numbers of 8 bits move outputs by more than rounding, so labels are compared."""

AGREEMENT = {"int8": 0.90}
"""Least share of samples (of tokens, of sequences) whose label is the network's own. Of tables, where there are no labels, int8 has
a tolerance in its place: see compare.INT8_OF_NUMBERS."""


def known(key: str, word: str, words: Sequence[str]) -> str:
    """The word, which is one of those that `key` (format, precision, runtime) may have. UserError with the nearest otherwise."""
    if word not in words:
        raise UserError(f"{key}={word}: no such {key}{closest(word, words)}", f"{key}s: {listed(words)}")
    return word


def check_pair(format: str, precision: str) -> None:
    """UserError where this format is not written in this number format, with what can be had instead."""
    known("format", format, FORMATS), known("precision", precision, PRECISIONS)
    if precision not in POSSIBLE[format]:
        others = [name for name in FORMATS if precision in POSSIBLE[name]]
        raise UserError(
            f"format={format} precision={precision}: not together; {format} is written in {listed(POSSIBLE[format])}",
            f"{precision} can be had as: {listed(others)}",
        )


def format_for(runtime: str, precision: str, installed: Sequence[str] = ("torch",)) -> str:
    """The format that a runtime of `hardware.deploy.runtime` loads a network of this precision from.

    auto: ONNX Runtime where it is among `installed` (see `installed_runtimes`) and has the precision, else torch.
    UserError where the runtime does not have the precision.
    """
    if runtime == "auto":
        runtime = "onnxruntime" if "onnxruntime" in installed and precision in POSSIBLE["onnx"] else "torch"
    format = {"torch": "safetensors", "onnxruntime": "onnx", "executorch": "executorch"}[runtime]
    check_pair(format, precision)
    return format


def installed_runtimes() -> tuple[str, ...]:
    """Those of "torch", "onnxruntime", "executorch" that are installed here; nothing is imported."""
    from importlib.util import find_spec

    return tuple(name for name in ("torch", "onnxruntime", "executorch") if find_spec(name) is not None)
