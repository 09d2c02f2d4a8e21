"""The contact sheet of a run whose result is networks with a view each: which test samples, with which networks, under which titles.

Networks and what they said of test samples come from the store, images from the data. `windows` draws.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun import kinds
from kdrun.parts import groups_of, start_of
from kdrun.plots.windows import Maps, contact_sheet, sheet_data
from kdrun.problems import UserError, closest, listed
from kdrun.records import figure_of

if TYPE_CHECKING:
    from kdrun.tracking.registry import RunInfo

ROWS = 6
LETTERS = 20
"""Of a line of a row's title."""
NAME = "windows"
OWN = "student"


def write_sheet(run: RunInfo, *, method: str = "grad_cam", rows: int = ROWS, seed: int | None = None) -> Path:
    """Draw `plots/windows.png` of a run and return its path; other methods and seeds have a name of their own.

    rows: how many test samples, at most. seed: default, the first that has a result. Raises UserError for a run without
    views, a seed or method that does not exist, networks that are not in the store, and data that are other ones now.
    """
    from kdrun.hardware.exports.subjects import data_of
    from kdrun.networks.saliency import METHODS

    if method not in METHODS:
        raise UserError(f"method={method}: no such map{closest(method, METHODS)}", f"there is: {listed(METHODS)}")
    if rows < 1:
        raise UserError(f"rows={rows}: at least one test sample")
    record, (seed, pairs) = run.record or {}, _pairs(run, seed)
    said = {view: [_said(run, stage) for stage in pair] for view, pair in pairs.items()}
    chosen = differing(said, rows)
    images, before, after, titles = {}, Maps({}, {}), Maps({}, {}), []
    for view, (first, last) in pairs.items():
        module = data_of(run, first)
        positions, targets = _positions(module, next(iter(said.values()))[0], chosen, run.id)
        images[view] = _shown(module, positions)
        titles = titles or _titles(module, chosen, targets)
        for kind, stage in ((before, first), (after, last)):
            if kind is after and stage is first:
                continue
            maps, probabilities = _maps(run, stage, module, positions, targets, method)
            kind.maps[view], kind.probabilities[view] = maps, probabilities
    name = (
        NAME + ("" if method == "grad_cam" else f"-{method}") + ("" if seed == _seeds(record)[0] else f"-seed-{seed}")
    )
    path = run.dir / "plots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    domain = kinds.find(record["config"]["data"]["task"])
    captions = {view: _caption(domain.view_about(view), pair) for view, pair in pairs.items()}
    note = "Not typical samples, but those whose p changed most, in turn one of each class."
    heading = f"{record.get('name') or run.id}, seed {seed}, {_METHODS[method]}"
    return contact_sheet(
        list(pairs), images, before, after, titles, path, captions=captions, heading=heading, note=note
    )


_METHODS = {"grad_cam": "Grad-CAM", "occlusion": "occlusion"}


def _seeds(record: dict[str, Any]) -> list[int]:
    return list(groups_of(record).get(OWN, {}))


def _pairs(run: RunInfo, seed: int | None) -> tuple[int, dict[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """(seed, view -> (stage before, stage after)), in the order of training; the same stage twice for the view that teaches."""
    stages = (run.record or {}).get("stages") or []
    own = groups_of(run.record or {}).get(OWN)
    if not own:
        done = any(stage["role"] == OWN for stage in stages)
        why = "its result is one network" if done else f"it is {run.status} and has no result yet"
        hint = f"kdrun plot {run.id} (curves, cost, seeds)" if done else f"to continue it: kdrun rerun {run.id}"
        raise UserError(f"kind=windows compares networks with a view each before and after; {run.id}: {why}", hint)
    if seed is not None and seed not in own:
        raise UserError(f"{run.id} has no result of seed {seed}; it has: {listed(map(str, own))}")
    seed = next(iter(own)) if seed is None else seed
    starts = {view: start_of(part, stages) for view, part in own[seed].items()}
    if None in starts.values():
        missing = ", ".join(view for view, stage in starts.items() if stage is None)
        raise UserError(f"kind=windows: the record of {run.id} does not hold what was before: {missing}")
    pairs, trained = {}, [stage["fingerprint"] for stage in stages]
    for view, part in sorted(own[seed].items(), key=lambda item: trained.index(starts[item[0]]["fingerprint"])):
        same = part.stage["fingerprint"] == starts[view]["fingerprint"]
        pairs[view] = (starts[view], starts[view] if same else part.stage)
    return seed, pairs


def _said(run: RunInfo, stage: dict[str, Any]) -> dict[int, tuple[int, list[float]]]:
    """id -> (class, probabilities) of the test samples, as the stage kept them."""
    from kdrun.hardware.exports.subjects import stage_folder
    from kdrun.learning.resampling import read_samples

    rows = read_samples(stage_folder(run, stage))
    if not rows:
        raise UserError(
            f"{stage['label']} of {run.id} kept nothing of single samples", f"fit it again: kdrun rerun {run.id}"
        )
    return {row["id"]: (row["target"], row["probabilities"]) for row in rows}


def differing(said: dict[str, list[dict[int, tuple[int, list[float]]]]], rows: int) -> list[int]:
    """Ids of the samples to show: those of which the true class's probability changed most, in turn one of each class.

    said: view -> [before, after], each id -> (class, probabilities). A change is a mean of absolute differences over
    views. Of equal ones the smaller id; in the order of classes, then of changes.
    """
    changes: dict[int, float] = {}
    classes: dict[int, int] = {}
    for first, last in said.values():
        for number_, (target, probabilities) in first.items():
            change = abs(last[number_][1][target] - probabilities[target])
            changes[number_] = changes.get(number_, 0.0) + change / len(said)
            classes[number_] = target
    ranked = sorted(changes, key=lambda one: (-changes[one], one))
    turns: dict[int, list[int]] = {}
    for one in ranked:
        turns.setdefault(classes[one], []).append(one)
    longest = max(map(len, turns.values()), default=0)
    order = [of_class[turn] for turn in range(longest) for of_class in turns.values() if turn < len(of_class)]
    return sorted(order[:rows], key=lambda one: (classes[one], -changes[one], one))


def _positions(module: Any, said: dict[int, Any], chosen: list[int], name: str) -> tuple[Any, Any]:
    """(positions in the test set, targets), int64 [n] each, of these ids."""
    import torch

    samples = module.samples("test")
    places = {one: place for place, one in enumerate(samples.ids.tolist())}
    if set(places) != set(said):
        raise UserError(f"the test samples have changed since {name} was run")
    positions = torch.tensor([places[one] for one in chosen])
    targets = samples.targets[positions]
    if targets.tolist() != [said[one][0] for one in chosen]:
        raise UserError(f"the labels have changed since {name} was run")
    return positions, targets


def _shown(module: Any, positions: Any) -> np.ndarray:
    """[n, H, W], [n, H, W, 3] in colour, or [n, D, H, W]: the pixels in 0..1 or uint8. Of several windows the first."""
    pixels = np.stack([np.asarray(module.source.x[row]) for row in module.rows("test")[positions.numpy()]])
    return np.moveaxis(pixels, 1, -1) if pixels.ndim == 4 and pixels.shape[1] == 3 else pixels[:, 0]


def _titles(module: Any, chosen: list[int], targets: Any) -> list[str]:
    classes = module.spec.classes
    names = [fill(str(classes[target]).replace("_", " "), LETTERS) for target in targets.tolist()]
    return [f"{f'class {n}' if n.isdigit() else n}\nsample {one}" for n, one in zip(names, chosen, strict=True)]


def _maps(
    run: RunInfo, stage: dict[str, Any], module: Any, positions: Any, targets: Any, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Maps and probabilities of one network, a sample at a time: volumes are large."""
    from kdrun.config.allowed import agreed
    from kdrun.hardware.exports.subjects import load_network
    from kdrun.slots import allowing

    with allowing(*agreed(run.dir.resolve().parent.parent)):
        network = load_network(run, stage)
    scales = [(network.kdrun[name], getattr(module.spec, name)) for name in ("mean", "std")]
    if not all(np.allclose(one, other, atol=1e-4) for one, other in scales):
        raise UserError(f"the data have changed since {stage['label']} of {run.id} was trained")
    found = []
    for place, target in zip(positions.split(1), targets.split(1), strict=True):
        inputs = module.samples("test").inputs(place)
        found.append(sheet_data({"": network}, {}, {"": inputs}, target, method)[0])
    return np.concatenate([one.maps[""] for one in found]), np.concatenate([one.probabilities[""] for one in found])


def _caption(text: str, pair: tuple[dict[str, Any], dict[str, Any]]) -> str:
    """`L -600  W 1500 HU   test AUC 0.972 to 0.990`; text: what the kind of data says of the view."""
    values = [figure_of(stage, "auc") for stage in pair]
    if None not in values:
        teaches = pair[0] is pair[1]
        change = f"{values[0]:.3f}, teaches" if teaches else f"{values[0]:.3f} \N{RIGHTWARDS ARROW} {values[1]:.3f}"
        text = f"{text}   test AUC {change}".strip()
    return text.replace("L -", "L \N{MINUS SIGN}")
