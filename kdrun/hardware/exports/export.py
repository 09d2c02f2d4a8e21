"""Export one network in one format and precision, and hold what was written against the network before anybody uses it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from kdrun.environment import variables_in
from kdrun.files import plain, sha256_file, write_json
from kdrun.hardware.exports import graphs
from kdrun.hardware.exports.artifact import RECORD, Artifact
from kdrun.hardware.exports.compare import BATCH, Mismatch, compare, require
from kdrun.hardware.exports.formats import CONFIG, DESCRIPTION, check_pair
from kdrun.hardware.exports.load import WEIGHTS, load_export
from kdrun.hardware.exports.sessions import import_executorch, import_onnxruntime, note_made
from kdrun.hardware.exports.subject import Inputs, TrainedNetwork
from kdrun.problems import UserError
from kdrun.slots import allowing
from kdrun.version import __version__

__all__ = ["Mismatch", "export", "load_export"]

CALIBRATION = 256
NAMES = {
    **dict.fromkeys(("safetensors", "transformers"), WEIGHTS),
    **{"onnx": "model.onnx", "torch_export": "model.pt2", "executorch": "model.pte"},
}
PACKAGES = {
    "safetensors": ("torch",),
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "torch_export": ("torch",),
    "executorch": ("torch", "executorch", "torchao"),
    "transformers": ("torch", "transformers"),
}
"""What an artifact's content depends on beside the network: with another version it is made anew."""


def export(
    subject: TrainedNetwork, folder: str | Path, format: str, precision: str = "fp32", calibration: int = CALIBRATION
) -> Artifact:
    """The artifact in `folder/FORMAT-PRECISION/`, made anew unless an equal one is there.

    calibration  training samples that the ranges of int8 are taken from (no other split is looked at)

    Its outputs on real validation samples, one at a time and as a batch, are compared with the network's. Mismatch (a UserError)
    names the figures where they differ by more than the tolerance; then nothing is left in the folder. UserError, with the
    reason, where the network, its task or this machine cannot be exported for.
    """
    check_pair(format, precision)
    if precision == "int8" and calibration < 1:
        raise UserError(f"calibration={calibration}: int8 takes its ranges from at least one training sample")
    _needs(format)
    target, what = Path(folder) / f"{format}-{precision}", f"{subject.label} as {format} {precision}"
    settings = _settings(subject, format, precision, calibration)
    source = {**subject.source, "which": subject.which, "weights": sha256_file(subject.weights)}
    found = Artifact.read(target)
    if found is not None and found.source["weights"] == source["weights"] and found.settings == plain(settings):
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{token_hex(4)}")
    work.mkdir()
    try:
        with allowing(subject.targets, variables_in(subject.node)):  # as it was built, so both are allowed
            record = _made(subject, work, format, precision, calibration, settings, source, what)
        write_json(work / RECORD, record)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Artifact.of(target, record)


def _made(
    subject: TrainedNetwork,
    work: Path,
    format: str,
    precision: str,
    calibration: int,
    settings: dict[str, Any],
    source: dict[str, Any],
    what: str,
) -> dict[str, Any]:
    """Write the files into `work`, by whichever way first gives what the network gives; the record of the artifact."""
    write_json(work / (DESCRIPTION if format == "transformers" else CONFIG), describe(subject, precision, source))
    for name, content in subject.module.files_beside().items():
        (work / name).write_bytes(content)
    failures: list[tuple[str, Exception]] = []
    path, inputs = work / NAMES[format], inputs_of(subject)
    for way, write in _ways(subject, work.parent, format, precision, calibration).items():
        try:
            write(path)
            if format == "torch_export":
                note_made(path)
            draft = Artifact(work, format, precision, [path], {}, 0, 0.0, None, None, {}, inputs, source, settings)
            with contextlib.closing(draft.session()) as session:
                compared = compare(subject, session)
            require(compared, precision, what)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:  # exporters and runtimes raise whatever they like for what they do not know
            failures.append((way, error))
            path.unlink(missing_ok=True)
            continue
        said = {"samples": compared.samples, "batches": list(compared.batches), "range": compared.range, "way": way}
        made = replace(
            draft,
            sha256={path.name: sha256_file(path)},
            bytes=path.stat().st_size,
            max_difference=compared.max_difference,
            tolerance=compared.tolerance(precision),
            labels_agree=compared.labels_agree,
            compared=said,
        )
        return made.record()
    raise _failed(what, failures)


def _ways(subject: TrainedNetwork, folder: Path, format: str, precision: str, calibration: int) -> dict[str, Any]:
    """Name -> function that writes the file; they are tried in this order."""
    axes, sample = subject.spec.free_axes, _several(subject.inputs("val", 3))

    if format == "safetensors":
        return {"weights": lambda path: _save(subject, precision, path)}
    if format == "transformers":
        return {"saved": lambda path: _save_transformers(subject, precision, path.parent)}
    if format == "torch_export":
        return {"captured": lambda path: graphs.exported(subject.bare(precision), sample, axes, path)}
    if format == "executorch":
        from kdrun.hardware.exports.executorch_file import write_executorch

        batches = _calibration(subject, calibration) if precision == "int8" else None
        return {"lowered": lambda path: write_executorch(subject.bare(), sample, path, batches)}

    if precision == "int8":
        from kdrun.hardware.exports.quantise import fold, quantise
        from kdrun.networks.compressed import rounded_layers

        if rounded_layers(subject.network):  # trained in 8 bits: its own ranges are written, and none are looked for

            def written(path: Path) -> None:
                graphs.traced(subject.bare(), sample, axes, path)
                fold(path)

            return {"trained in 8 bits": written}
        # The file in fp32, which has been compared, is what is quantised: a wrong graph and coarse numbers are told apart.
        whole = export(subject, folder, "onnx", "fp32")
        arrays = (tuple(one.numpy() for one in batch) for batch in _calibration(subject, calibration))
        return {"quantised": lambda path: quantise(whole.path, path, tuple(axes), arrays, subject.sequences)}
    module = subject.bare(precision)
    writers = graphs.onnx_writers(subject.sequences)
    return {name: partial(write, module, sample, axes) for name, write in writers.items()}


def _several(inputs: Inputs) -> Inputs:
    """At least two rows: exporters take an axis of length 1 for one that always is."""
    return inputs if len(inputs[0]) > 1 else tuple(torch.cat([one, one]) for one in inputs)


def _calibration(subject: TrainedNetwork, count: int) -> Iterator[Inputs]:
    """Training samples in batches: ranges are learned from what the network was trained on, never from what judges it."""
    positions = subject.positions("train", count)
    for first in range(0, len(positions), BATCH):
        yield subject.batch("train", positions[first : first + BATCH])[0]


def _save(subject: TrainedNetwork, precision: str, path: Path) -> None:
    from kdrun.hardware.exports.load import DTYPES
    from kdrun.networks.weights import save_state

    state = {
        name: tensor.to(DTYPES[precision]) if tensor.is_floating_point() else tensor
        for name, tensor in subject.network.state_dict().items()
    }
    save_state(state, path, {**subject.spec.metadata(), "network": subject.node})


def _save_transformers(subject: TrainedNetwork, precision: str, folder: Path) -> None:
    from kdrun.hardware.exports.load import DTYPES

    if not hasattr(subject.network, "save_transformers"):
        raise UserError(
            f"format=transformers: {type(subject.network).__name__} is no language model of transformers",
            "format=safetensors is for any network",
        )
    ends, pad = subject.module.tokenizer.ends, subject.spec.pad
    subject.network.save_transformers(folder, DTYPES[precision], ends, pad)


def describe(subject: TrainedNetwork, precision: str, source: dict[str, Any]) -> dict[str, Any]:
    """config.json: what somebody without the run has to know to use the file."""
    spec = subject.spec.metadata()
    told = subject.spec.described()
    outputs = {"name": "output", "type": "float32", "meaning": told.pop("outputs")}
    return {
        "kdrun": __version__,
        "network": subject.node,
        "spec": spec,
        "precision": precision,
        "inputs": inputs_of(subject),
        "output": outputs,
        "source": source,
        **told,
    }


def inputs_of(subject: TrainedNetwork) -> list[dict[str, Any]]:
    """[{"name", "type", "shape"}] of what the network is called with; the name of an axis where its length is free."""
    sample, axes = subject.inputs("val", 1), subject.spec.free_axes
    return [
        {
            "name": name,
            "type": str(tensor.dtype).removeprefix("torch."),
            "shape": [free.get(axis, size) for axis, size in enumerate(tensor.shape)],
        }
        for (name, free), tensor in zip(axes.items(), sample, strict=True)
    ]


def _settings(subject: TrainedNetwork, format: str, precision: str, calibration: int) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    def found(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    beside = sorted(subject.module.files_beside())
    return {
        **({"beside": beside} if beside else {}),
        "calibration": {"split": "train", "samples": calibration} if precision == "int8" else None,
        "versions": {package: found(package) for package in PACKAGES[format]},
        "targets": list(subject.targets),
    }


def _needs(format: str) -> None:
    """UserError where a package that the format needs is absent, before any work."""
    if format == "onnx":
        graphs.needs_onnx()
        import_onnxruntime()
    if format == "executorch":
        import_executorch("exir")


def _failed(what: str, failures: list[tuple[str, Exception]]) -> UserError:
    """What to tell where no way led to an artifact."""
    mismatches = [error for _, error in failures if isinstance(error, Mismatch)]
    if mismatches:
        return mismatches[0]
    if len(failures) == 1 and isinstance(failures[0][1], UserError):
        return failures[0][1]
    lines = [f"{way}: {type(error).__name__}: {_first_line(error)}" for way, error in failures]
    return UserError(f"{what}: cannot be exported", *lines)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:200]
