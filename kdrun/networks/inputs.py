"""How a network sees samples: what its weights file says of normalisation, tokenizer, size and labels, held against data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.problems import UserError, listed

TOLERANCE = 1e-4
"""Largest difference of two means or deviations that are taken for the same."""
Moments = dict[str, list[float]]
"""{"mean", "std"}: one number for each channel, or each feature of a table."""

ALWAYS = {
    "parallel_text": ("tokenizer", "languages", "pad", "bos", "eos", "unk"),
    "vision_language": ("tokenizer", "tower"),
    "images": (),
    "table": (),
}
"""What has to be as it was trained, by kind of data, also where a network is trained further."""
UNCHANGED = {
    "vision_language": ("template", "image_size", "image_tokens"),
    "images": ("shape",),
}
"""What further training may change, and a network that is used as it is needs."""

SAID = {
    "tower": ("vision tower", "choose it: data.vision.tower=NAME"),
    "template": ("chat template", "choose it: data.vision.template=NAME"),
    "image_size": ("image size", "choose it: data.vision.size=PIXELS, and data.size where the data have it"),
    "image_tokens": ("number of image slots", "choose it: data.vision.image_tokens=NUMBER"),
    "shape": ("image shape", "choose it: data.size=PIXELS, where the data have such a key"),
    "languages": ("direction", "choose the languages of the data"),
}
"""What these are for people, and how they are chosen."""


def moments_of(source: Any) -> Moments | None:
    """Mean and deviation that inputs are normalised with: of a spec, of the metadata of a weights file, or of `normalize` in a
    config; None where there are none."""
    if source is None:
        return None
    get = source.get if isinstance(source, Mapping) else lambda name: getattr(source, name, None)
    mean, std = get("mean"), get("std")
    return None if mean is None or std is None else {"mean": list(map(float, mean)), "std": list(map(float, std))}


def same(one: Moments, other: Moments) -> bool:
    """Whether inputs are normalised alike."""
    pairs = [(one[name], other[name]) for name in ("mean", "std")]
    return all(len(a) == len(b) and all(abs(x - y) <= TOLERANCE for x, y in zip(a, b, strict=True)) for a, b in pairs)


def shown(moments: Moments) -> str:
    """`{mean: [0.5], std: [0.25]}`, as it is typed."""
    return f"{{mean: {_numbers(moments['mean'])}, std: {_numbers(moments['std'])}}}"


def typed(key: str, moments: Moments) -> str:
    """The word of a command line that sets the normalisation at `key`."""
    return f"'{key}={shown(moments)}'"


def check_data(
    metadata: Mapping[str, Any], spec: Any, path: Path, *, any_normalisation: bool = False, as_trained: bool = False
) -> None:
    """Raises UserError where a weights file's metadata are not of such data (see weights.load_weights)."""
    if spec.kind == "table":
        _check_columns(metadata, spec, path)
    elif spec.kind == "images":
        _check_classes(metadata, spec, path)
    compared = (*ALWAYS[spec.kind], *(UNCHANGED.get(spec.kind, ()) if as_trained else ()))
    for name in compared:
        _check_same(name, metadata, spec, path)
    theirs, ours = moments_of(metadata), moments_of(spec)
    if any_normalisation or theirs is None or ours is None or same(theirs, ours):
        return
    raise UserError(
        f"{path} was trained on inputs with mean {_numbers(theirs['mean'])} and std {_numbers(theirs['std'])}, "
        f"{spec.name} has {_numbers(ours['mean'])} and {_numbers(ours['std'])}; to train on as before:",
        typed("data.normalize", theirs),
    )


def _check_same(name: str, metadata: Mapping[str, Any], spec: Any, path: Path) -> None:
    theirs, ours = (_plain(value) for value in (metadata.get(name), spec.metadata().get(name)))
    if name == "tower":  # without the size of its images, which is compared by itself
        theirs, ours = (value and value.partition("/")[0] for value in (theirs, ours))
    if name not in metadata or theirs == ours:
        return
    if name != "tokenizer":
        what, hint = SAID.get(name, (f"{name} token" if spec.kind == "parallel_text" else name, ""))
        raise UserError(
            f"{path} was trained with another {what}: {_value(theirs)}, {spec.name} has {_value(ours)}",
            *([hint] if hint else []),
        )
    group = "text" if spec.kind == "parallel_text" else "vision"
    alike = f", both of {spec.vocabulary:,} tokens" if metadata.get("vocabulary") == spec.vocabulary else ""
    raise UserError(
        f"{path} was trained with another tokenizer: "
        f"sha256 {str(theirs)[:12]}, {spec.name} has {str(ours)[:12]}{alike}",
        "a tokenizer is trained on the training split: other data keys give another one",
        f"give the data keys of that training, or its tokenizer: data.{group}.tokenizer=FILE",
    )


def _check_columns(metadata: Mapping[str, Any], spec: Any, path: Path) -> None:
    """Features and target, and the moments of the target: outputs are in its deviations."""
    own = spec.metadata()
    for key in ("features", "target", "target_mean", "target_std"):
        theirs, ours = metadata.get(key), own[key]
        equal = theirs == ours or (isinstance(ours, float) and theirs is not None and abs(theirs - ours) <= TOLERANCE)
        if not equal:
            raise UserError(f"{path} was trained on another table: {key} {theirs}, {spec.name} has {ours}")


def _check_classes(metadata: Mapping[str, Any], spec: Any, path: Path) -> None:
    theirs, ours = metadata.get("classes"), list(spec.classes)
    if theirs is None or list(theirs) == ours:
        return
    if len(theirs) != len(ours):
        what = f"{len(theirs)} classes, {spec.name} has {len(ours)}"
    else:
        index = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        order = ", the same names in another order" if sorted(theirs) == sorted(ours) else ""
        what = f"class {index} = {theirs[index]!r}, {spec.name} has {ours[index]!r} there{order}"
    raise UserError(f"{path} was trained on other classes: {what}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _value(value: Any) -> str:
    return listed(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _numbers(values: Any) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
