"""A teacher's outputs for a stage from disk, computed first where they are not there: by one process, or by all ranks of the stage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdrun.checksums import MANIFEST
from kdrun.data.host import moved
from kdrun.data.module import SAMPLE
from kdrun.files import read_json
from kdrun.learning import cache, positions, rowcache, seeds, shards, topk
from kdrun.learning.fitness import check_guess
from kdrun.learning.report import Leaving, Report
from kdrun.learning.request import FitRequest
from kdrun.networks.weights import read_metadata
from kdrun.nodes import world_of

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOP_TOLERANCE = 0.02  # in a log-probability above -10, kept as float16
LARGE = 30.0  # of a number format with a relative error, the tolerance is that of logits of this size
VERIFY_TOLERANCE = 1e-3  # largest difference in a logit between a stored row and the live teacher

OF_LABELS = ("labelled", "labelled_share", "label_noise")
"""Keys of data that change no input, so that students of few and of many labels share what a teacher says."""

COMPUTES = "has been computing the outputs of this teacher"


@dataclass(frozen=True)
class Asking:
    """One teacher of a stage. live(measured): its network, frozen, looked at before if `measured`; workshop: a teaching.Workshop."""

    request: FitRequest
    module: Any
    live: Callable[..., Any]
    device: torch.device
    report: Report
    workshop: Any

    @property
    def first(self) -> bool:
        """Of several ranks."""
        return self.request.rank == 0

    def lock(self, key: str) -> Any:
        name = f"outputs-{key}"
        return self.workshop.lock(name, lambda: self.report.note(self.workshop.waiting(name, COMPUTES)))


def of_samples(asking: Asking, features: int, by_batches: Callable[[Any], Any]) -> cache.CachedTeacher:
    """What a teacher says of whole samples, with features of that width (0: without). by_batches: the teacher as a student asks it."""
    request, module = asking.request, asking.module
    teaching, fingerprint = request.teaching, request.teacher.fingerprint
    if module.random and not module.replayed:
        raise ValueError(
            "cached teacher outputs do not fit randomly augmented inputs; "
            "use teacher.source=online, or replay the augmentation: data.augment.seed=0 data.augment.views=4"
        )
    parts = _parts(request, module) | ({"features": features} if features else {})
    key = cache.cache_key(parts)

    def opened(folder: Path, lazy: bool = False) -> cache.OutputCache:
        kept_in = teaching.get("cache_format", "fp32")
        return cache.OutputCache(
            folder, module.train_ids, module.views, module.spec.outputs, parts, features, kept_in, lazy
        )

    def verify(stored: cache.OutputCache, network: Any) -> None:
        seed, count = seeds.derive(request.seed, "verify"), teaching["verify"]
        worst = stored.largest_error(network, module.inputs, asking.device, count, seed)
        _compare(asking, stored, "outputs", worst, VERIFY_TOLERANCE + LARGE * 2 * stored.rounding)

    if teaching["fill"] == "first_epoch":
        with asking.lock(key):
            stored, network = opened(asking.workshop.outputs / key), asking.live(True)
            check = partial(verify, stored, network) if teaching["verify"] else None
            if check is not None and stored.any():  # of an earlier try, or of another stage
                check()
            check = None if stored.complete else check
            return cache.CachedTeacher(stored, fingerprint, by_batches(network), verify=check)
    stored, network = _built(
        asking,
        key,
        module.views * len(module.train_ids),
        "sample",
        opened,
        asking.live,
        lambda stored, shard, network, told: stored.fill(shard, network, module.inputs, asking.device, told),
    )
    if teaching["verify"]:
        network = network or asking.live()
        verify(stored, network)
    return cache.CachedTeacher(stored, fingerprint, asked=0 if network is None else network.samples)


def of_positions(asking: Asking, k: int | None) -> positions.CachedPositions | topk.CachedTop:
    """What a teacher of sequences says: its k most likely tokens, or all its logits at the positions it teaches at (k is None)."""
    request, module = asking.request, asking.module
    teaching = request.teaching
    parts = {**_parts(replace(request, teaching={**teaching, "fill": "pass"}), module), "top": k}
    parts["order"] = f"blocks of {rowcache.BLOCK} sentences"

    def source(measured: bool = asking.first) -> Any:
        return asking.live(measured) if k is None else topk.TopTeacher(asking.live(measured), k)

    def opened(folder: Path, lazy: bool = False) -> rowcache.RowCache:
        if k is None:
            return positions.PositionCache(folder, module, parts, lazy)
        return topk.TopCache(folder, module, k, parts, lazy)

    stored, network = _built(
        asking,
        cache.cache_key(parts),
        len(module.train_ids),
        "sentence" if k else "sample",
        opened,
        source,
        lambda stored, shard, network, told: stored.fill(shard, network, asking.device, told, moved),
    )
    if teaching["verify"]:
        network = network or source()
        seed = seeds.derive(request.seed, "verify")
        worst = stored.largest_error(network, asking.device, teaching["verify"], seed, moved)
        frozen = getattr(network, "live", network)
        _compare(asking, stored, "log-probabilities", worst, TOP_TOLERANCE + getattr(frozen.network, "repeats", 0.0))
    if network is not None:
        network.close()
    read = positions.CachedPositions if k is None else topk.CachedTop
    return read(stored, request.teacher.fingerprint, asked=0 if network is None else network.samples)


def _built(
    asking: Asking,
    key: str,
    total: int,
    unit: str,
    opened: Callable[..., Any],
    live: Callable[..., Any],
    fill: Callable[..., None],
) -> tuple[Any, Any]:
    """(the cache of this key with all its rows; the network that was asked for them, None where none was). Ranks take shards of it in turn, and a
    cache that is one shard is computed by the first that comes. total: rows; opened(folder, lazy); fill(cache, shard, network, told)."""
    request, report, workshop = asking.request, asking.report, asking.workshop
    folder, world = workshop.outputs / key, world_of(request.hardware)
    stored = opened(folder, lazy=True)
    together = world > 1 and len(stored.shards) > 1
    network, before = None, None

    def lock(number: int, waiting: Callable[[], None] | None) -> Any:
        return workshop.lock(f"outputs-{key}-{number}", waiting)

    with nullcontext() if together and not asking.first else asking.lock(key):
        for shard in shards.turns(stored.shards, lock, request.rank, world if together else 1):
            if network is None:
                network = live(asking.first or not together)
                report.stage(f"outputs of {request.teacher.name}", total, 0, unit=unit)
                before = _moment(workshop, network)
            fill(stored, shard, network, Leaving(report).advance)
            if len(stored.shards) > 1:
                shard.finish()
        if together and not asking.first:
            return stored, network
        if network is None and (folder / MANIFEST).is_file():
            _note_found(request, workshop, folder)
            return stored, None
        if network is None:  # other ranks have computed all
            network = live()
            before = _moment(workshop, network)
        _note_cache(request, workshop, key, network, before, total, world if together else 1)
        network.close()
        stored.finish({"preflight": workshop.teaching_notes(request)})
    return stored, network


def _compare(asking: Asking, stored: shards.Sharded, what: str, worst: float, tolerance: float) -> None:
    """Raises DamagedCache where rows differ from the live teacher by more than `tolerance`, and what its number format adds."""
    request = asking.request
    asking.workshop.note_teaching(request, verified=request.teaching["verify"], largest_error=worst)
    tolerance += LARGE * _rounding(request.teaching)
    if not worst <= tolerance:
        raise stored.refused(what, worst, tolerance)


def _note_found(request: FitRequest, workshop: Any, folder: Path) -> None:
    """What was measured of a teacher when its outputs were stored. Raises UnfitTeacher as `preflight` would."""
    notes = read_json(folder / MANIFEST).get("preflight") or {}
    workshop.note_teaching(request, **notes, found=True)
    if not request.teaching.get("unchecked"):
        check_guess(request.teacher.name, notes)


def _moment(workshop: Any, network) -> tuple[Any, int]:
    """What `_note_cache` measures from."""
    return None if workshop.ledger is None else workshop.ledger.energy.moment(), network.samples


def _note_cache(request, workshop: Any, key: str, network, before: tuple[Any, int], samples: int, ranks: int) -> None:
    """What building these outputs took, for every stage that reads them: it goes into their manifest with the notes.

    Rows of an earlier try that was stopped are counted as if they had been computed now; the joules are then an estimate. ranks: that
    computed them, each as many.
    """
    computed, flops = ranks * (network.samples - before[1]), (workshop.teaching_notes(request) or {}).get("flops")
    taken = {"joules": None, "seconds": None, "estimate": None}
    if before[0] is not None:
        taken = workshop.ledger.energy.taken(before[0], None if flops is None else flops * computed)
    part = samples / computed if computed else None
    if part is None or part > 1:
        joules = None if None in (part, taken["joules"]) else taken["joules"] * part
        taken = {**taken, "joules": joules, "estimate": None if joules is None else True}
    workshop.note_teaching(request, cache={"key": key, "samples": samples, **taken})


def _rounding(teaching: dict[str, Any]) -> float:
    """Relative error of outputs that are computed in the number format that was asked for, from batch to batch."""
    precision = teaching.get("precision")
    return 0.0 if precision is None else 2 * torch.finfo(PRECISIONS[precision]).eps


def _parts(request: FitRequest, module) -> dict[str, Any]:
    teaching, trainer = request.teaching, request.trainer
    parts = {
        "teacher": request.teacher.fingerprint,
        "data": _inputs_of(request.seen_identity or request.data_identity, module),
        "device": request.hardware["device"],
        "torch": torch.__version__,
        "order": f"blocks of {cache.BLOCK}",
    }
    parts |= {
        name: teaching[name] for name in ("precision", "cache_format") if teaching.get(name) not in (None, "fp32")
    }
    if turn := module.spec.output_turn(read_metadata(request.teacher.weights)):
        parts["turn"] = list(turn)
    if teaching["fill"] == "first_epoch":  # rows are then computed in the batches of this stage's first epoch
        order = {"seed": request.seed, "batch_size": trainer["batch_size"], "accumulate": trainer["accumulate"]}
        parts["order"] = {**order, "devices": world_of(request.hardware)}
    return parts


def _inputs_of(data: Any, module: Any) -> Any:
    """What data are to a network that is asked for outputs: their identity without what says who has a label, where inputs have no
    label in them, as sequences of tokens do."""
    if module.cached_by != SAMPLE or not isinstance(data, dict) or "view" not in data:
        return data
    return {**data, "view": {key: value for key, value in data["view"].items() if key not in OF_LABELS}}
