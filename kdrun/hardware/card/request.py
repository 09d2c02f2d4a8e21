"""What is asked of a card: KEY=VALUE words checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.hardware.exports.formats import PRECISIONS, format_for, installed_runtimes, known
from kdrun.hardware.targets import HardwareTarget, chosen_targets
from kdrun.parts import is_group
from kdrun.problems import UserError, closest, listed
from kdrun.words import names_in, options_in, whole_number

OPTIONS = ("hardware", "precision", "runtime", "arms", "seed", "part", "batch", "calls", "samples", "critical")
RUNTIMES = ("auto", "torch", "onnxruntime", "executorch")
INSTALL = {"onnxruntime": "pip install onnx onnxscript onnxruntime", "executorch": "pip install executorch"}
CALLS, SAMPLES = 1000, 2000
FEWEST_CALLS = 20


@dataclass(frozen=True)
class Place:
    """A target with a number format: one table. deploy: its limits; runtime: "auto" or a name."""

    target: HardwareTarget
    precision: str
    runtime: str
    batch: int
    deploy: dict[str, Any]


@dataclass(frozen=True)
class CardRequest:
    """What to measure.

    arms     None: teacher, student alone and student, as far as the run has them
    seed     None: the run's first; part: a view or client, "all", or None: the first one
    calls    timed ones at most; seconds: for timed calls of one network at most, None: no limit
    samples  of test that are corrupted at most
    quick    what takes a process or an export of its own is left out where no gate asks for it: for the end of a run
    """

    places: list[Place]
    arms: list[str] | None = None
    seed: int | None = None
    part: str | None = None
    calls: int = CALLS
    seconds: float | None = None
    samples: int = SAMPLES
    critical: tuple[str, ...] = ()
    quick: bool = False


def read_request(words: Sequence[str], record: Mapping[str, Any], conf_dirs: Sequence[str] = ()) -> CardRequest:
    """The request of a command line about a run. UserError for all that cannot be had, before anything is computed."""
    options = options_in(words, OPTIONS)
    _check_result(record)
    own = own_target(record)
    names = names_in(options, "hardware") or [own]
    targets = chosen_targets(names, conf_dirs)
    precisions = names_in(options, "precision")
    for word in precisions:
        known("precision", word, PRECISIONS)
    runtime = options.get("runtime")
    if runtime is not None:
        known("runtime", runtime, RUNTIMES)
    batch = whole_number(options, "batch", 1)
    places = []
    for target in targets:
        deploy = limits(target, record)
        for precision in precisions or [deploy["precision"]]:
            place = Place(target, precision, runtime or deploy["runtime"], batch or deploy["batch"], deploy)
            _check_place(place)
            places.append(place)
    arms = names_in(options, "arms") or None
    _check_arms(arms or (), record)
    seed = whole_number(options, "seed")
    if seed is not None and seed not in record["seeds"]:
        raise UserError(f"seed={seed}: {record['id']} has no such seed; it has: {listed(map(str, record['seeds']))}")
    return CardRequest(
        places,
        arms,
        seed,
        options.get("part"),
        whole_number(options, "calls", FEWEST_CALLS, CALLS),
        None,
        whole_number(options, "samples", 1, SAMPLES),
        tuple(names_in(options, "critical")),
    )


def own_target(record: Mapping[str, Any]) -> str:
    """The option of `hardware` that a run was made with."""
    return (record.get("choices") or {}).get("hardware") or "local"


def limits(target: HardwareTarget, record: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `hardware.deploy`: those of the run's config where the target is its own, for they may have been typed; else the file's."""
    own = ((record.get("config") or {}).get("hardware") or {}).get("deploy")
    return dict(own) if own and target.name == own_target(record) else dict(target.deploy)


def _check_result(record: Mapping[str, Any]) -> None:
    if not any(not is_group(stage) for stage in record.get("stages") or ()):
        raise UserError(
            f"{record['id']} ({record['status']}) has no trained network to measure",
            "runs that have: kdrun runs status=done",
        )


def _check_arms(arms: Sequence[str], record: Mapping[str, Any]) -> None:
    known = list(
        dict.fromkeys(
            [stage["role"] for stage in record["stages"]] + list((record.get("summary") or {}).get("arms") or ())
        )
    )
    for arm in arms:
        if arm not in known:
            raise UserError(
                f"arms={arm}: {record['id']} has no such arm{closest(arm, known)}", f"it has: {listed(known)}"
            )


def _check_place(place: Place) -> None:
    """The runtime is here and has the number format, and an estimate has the figures it needs."""
    installed, target = installed_runtimes(), place.target
    if place.runtime != "auto" and place.runtime not in installed:
        raise UserError(
            f"runtime={place.runtime}: not installed: {INSTALL[place.runtime]}", f"here: {listed(installed)}"
        )
    format_for(place.runtime, place.precision, installed)
    if target.here:
        return
    peaks = target.figures.peak_tflops if target.figures is not None else {}
    if peaks.get(place.precision) is None:
        known = [name for name, peak in peaks.items() if peak is not None and name != "tf32"]
        raise UserError(
            f"hardware={target.name} precision={place.precision}: no peak is published for it, so nothing can be estimated",
            f"formats with one: {listed(known) or 'none'}; and {target.why}",
        )
