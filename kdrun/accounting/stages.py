"""Stages of run records with what they took, what they are made from, and who else used it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdrun.accounting.formulas import NOTHING, UNKNOWN, Amount, amount, total
from kdrun.parts import trained_nothing

PHASES = ("prepare", "teacher", "train", "evaluate")
ALONE, STUDENT = "alone", "student"


@dataclass(frozen=True)
class CacheCost:
    """Outputs of a teacher on disk: what building them took. built: by this very stage, so that it is in the stage's joules."""

    key: str
    energy: Amount
    built: bool


@dataclass(frozen=True)
class StageCost:
    """One stage.

    phases     phase -> joules; total: of all phases
    online     estimated part of `train` that an online teacher's forward passes took
    needs      fingerprints of the stages that it is made from: teachers, the one whose weights it starts with, members
    teachers   of these, those that teach
    caches     outputs of teachers that it read
    waste      joules of lost work, in none of the phases
    """

    fingerprint: str
    role: str
    seed: int
    source: str
    learner: str
    phases: dict[str, Amount]
    total: Amount
    seconds: dict[str, float]
    online: Amount
    needs: tuple[str, ...]
    teachers: tuple[str, ...]
    caches: tuple[CacheCost, ...]
    waste: Amount
    energy: dict[str, Any] | None
    entry: dict[str, Any] = field(repr=False)

    @property
    def together(self) -> bool:
        """Finished stages looked at together: nothing is trained."""
        return trained_nothing(self.entry)

    @property
    def units(self) -> tuple[float | None, str]:
        """What training went through: tokens where there are some, else samples."""
        cost = self.entry.get("cost") or {}
        return (cost["tokens"], "token") if cost.get("tokens") else (cost.get("samples"), "sample")


def item_of(entry: Mapping[str, Any]) -> StageCost:
    """From an entry of `stages` in a run record."""
    cost, teaching = entry.get("cost") or {}, entry.get("teacher") or {}
    energy = cost.get("energy")
    members = entry.get("members") or {}
    found = (energy or {}).get("phases") or {}
    estimate = (energy or {}).get("estimate")
    # A phase that the model does not count has no joules and is left out; the record's total does not hold it either.
    phases = {
        phase: amount(found[phase]["joules"], estimate)
        for phase in PHASES
        if (found.get(phase) or {}).get("joules") is not None
    }
    notes = [teaching, *(teaching.get("also") or ())] if teaching and not members else []
    teachers = tuple(note["fingerprint"] for note in notes if note.get("fingerprint"))
    start = (entry["start"],) if entry.get("start") else ()
    caches = tuple(
        CacheCost(
            note["cache"]["key"], amount(note["cache"]["joules"], note["cache"]["estimate"]), not note.get("found")
        )
        for note in notes
        if note.get("cache")
    )
    whole = amount((energy or {}).get("joules"), estimate)
    if members and energy is None:
        whole = NOTHING  # a look at files of finished stages, which no model counts
    return StageCost(
        fingerprint=entry["fingerprint"],
        role=entry["role"],
        seed=entry["seed"],
        source=entry.get("source") or "",
        learner=entry.get("learner") or "",
        phases=phases,
        total=whole,
        seconds={phase: found[phase]["seconds"] for phase in PHASES if phase in found},
        online=_online(cost, notes, phases.get("train", UNKNOWN)),
        needs=tuple(dict.fromkeys((*teachers, *start, *members.values()))),
        teachers=teachers,
        caches=caches,
        waste=amount((energy or {}).get("waste_joules"), estimate),
        energy=energy,
        entry=dict(entry),
    )


def _online(cost: Mapping[str, Any], notes: list[Mapping[str, Any]], train: Amount) -> Amount:
    """The teacher's part of training by its part of the FLOPs there; an estimate whatever the training is."""
    flops = cost.get("flops")
    if not notes or not isinstance(flops, Mapping) or None in (flops.get("teacher"), flops.get("student")):
        return NOTHING
    before = 0
    for note in notes:
        asked = (note.get("samples") or 0) + (note.get("verified") or 0)
        asked += note["cache"]["samples"] if note.get("cache") and not note.get("found") else 0
        before += asked * (note.get("flops") or 0)
    during = flops["teacher"] - before
    if during <= 0:
        return NOTHING
    share = train.times(during / (during + flops["student"]))
    return amount(share.joules, True)


class Library:
    """All stages of some runs, each once, and who uses whom."""

    def __init__(self, records: Iterable[Mapping[str, Any]]):
        self.items: dict[str, StageCost] = {}
        self.readers: dict[str, set[str]] = {}
        self.users: dict[str, set[str]] = {}
        for record in records:
            for entry in record.get("stages") or []:
                item = item_of(entry)
                self.items.setdefault(item.fingerprint, item)
                for needed in item.needs:
                    self.users.setdefault(needed, set()).add(item.fingerprint)
                for cache in item.caches:
                    self.readers.setdefault(cache.key, set()).add(item.fingerprint)

    def of(self, record: Mapping[str, Any]) -> list[StageCost]:
        """The distinct stages of a run, as its own record tells them."""
        found = {}
        for entry in record.get("stages") or []:
            found.setdefault(entry["fingerprint"], item_of(entry))
        return list(found.values())

    def alone(self, items: Iterable[StageCost]) -> Amount:
        """What these stages cost from nothing: each of them and of those that they need once, and every cache once."""
        needed: dict[str, StageCost | None] = {}
        queue = list(items)
        while queue:
            item = queue.pop()
            if item.fingerprint in needed:
                continue
            needed[item.fingerprint] = item
            for name in item.needs:
                if name in self.items:
                    queue.append(self.items[name])
                else:
                    needed.setdefault(name, None)
        found = [item for item in needed.values() if item is not None]
        caches = {cache.key: cache for item in found for cache in item.caches}
        built = {cache.key for item in found for cache in item.caches if cache.built}
        missing = [UNKNOWN for item in needed.values() if item is None]
        return total(
            [*(item.total for item in found), *(c.energy for k, c in caches.items() if k not in built), *missing]
        )

    def shared(self, item: StageCost) -> Amount:
        """One stage, where what it needs is divided by the number of stages of all runs that use the same.

        E_own + sum of E(needed) / N(needed) + E(cache) / N(cache), and so on for what those need.
        """
        own = item.total
        for cache in item.caches:
            own = own - cache.energy if cache.built else own
            own = own + cache.energy.times(1 / max(1, len(self.readers.get(cache.key, ()))))
        for name in item.needs:
            one = self.shared(self.items[name]) if name in self.items else UNKNOWN
            own = own + one.times(1 / max(1, len(self.users.get(name, ()))))
        return own
