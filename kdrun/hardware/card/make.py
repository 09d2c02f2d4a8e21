"""Make the cards of a run: export, judge and measure its teacher, its student alone and its student, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdrun.config.allowed import agreed
from kdrun.hardware.card import figures, gates, robustness, safety
from kdrun.hardware.card.cards import Card, keep_cards, order
from kdrun.hardware.card.judge import CHUNK, Judged, judge, predictor
from kdrun.hardware.card.request import CardRequest, Place
from kdrun.hardware.exports import measure
from kdrun.hardware.exports.export import export
from kdrun.hardware.exports.formats import POSSIBLE, format_for, installed_runtimes
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.hardware.exports.subjects import subjects
from kdrun.ledger.figures import DeviceFigures, energy_figures
from kdrun.ledger.machine import machine_words
from kdrun.networks.spiking import spikes
from kdrun.parts import parts_of
from kdrun.problems import UserError, closest, listed
from kdrun.slots import allowing
from kdrun.tracking.registry import RunInfo, slugify

EXPORTS = "exports"
REFERENCES = ("teacher", "alone")
"""Arms that others are held against, looked at whether they are asked for or not."""

Tell = Callable[[str], None]


def make_cards(run: RunInfo, request: CardRequest, tell: Tell = lambda line: None) -> list[Card]:
    """The new cards, which are also in RUN/card/cards.json now.

    tell: told in a line what is left out, and why. A network that cannot be exported costs its own card only; UserError
    where there is no card at all.
    """
    cards: list[Card] = []
    with allowing(*agreed(run.dir.resolve().parent.parent)):
        maker = _Maker(run, request, tell)
        for place in request.places:
            cards += maker.cards(place)
    if not cards:
        raise UserError(*(maker.problems or [f"nothing of {run.id} can be measured"]))
    keep_cards(run.dir, cards)
    return cards


class _Maker:
    """Keeps what several tables share: artifacts with their sessions' answers, and what this machine reaches."""

    def __init__(self, run: RunInfo, request: CardRequest, tell: Tell) -> None:
        self.run, self.request, self.tell = run, request, tell
        self.problems: list[str] = []
        self.all = chosen_subjects(run, request, tell)
        _check_critical(self.all, request.critical)
        self.wanted = [one for one in self.all if one.arm in (request.arms or [each.arm for each in self.all])]
        self.spiking = any(spikes(one.network) for one in self.all)
        self.threads = int(((run.record or {}).get("config") or {}).get("hardware", {}).get("threads") or 1)
        self.judged: dict[tuple[Any, ...], Judged | UserError] = {}
        self._here: DeviceFigures | None = None
        self._counters: figures.Counters | None = None
        self._opened = False

    def cards(self, place: Place) -> list[Card]:
        """The cards of one table. Students are held against the teacher's own artifact in the same format."""
        device, place = _device(place)
        slow = self.all[0].spec.per_position  # exporting a network of sequences takes many seconds
        if self.request.quick and slow and place.runtime == "auto" and place.precision in POSSIBLE["safetensors"]:
            place = replace(place, runtime="torch")
        format = format_for(place.runtime, place.precision, installed_runtimes())
        found = []
        times = self._in_turns(place, format, device) if place.target.here else {}
        for subject in self.wanted:
            self.tell(f"{subject.label}: {place.target.name}, {place.precision}")
            try:
                found.append(self._card(subject, place, format, device, times.get(subject.label)))
            except UserError as error:
                self.problems += error.lines
                self.tell(f"no card of {subject.label}: {error.lines[0]}")
        for card in found:
            card["gates"] = gates.gates_of(card, place.deploy)
            card["passed"] = gates.passed(card["gates"])
        return sorted(found, key=order)

    def _in_turns(self, place: Place, format: str, device: str) -> dict[str, dict[str, Any]]:
        """Label -> latency of every network of the table that can be exported; of the others `_card` tells why not."""
        labels, parts = [], []
        with contextlib.ExitStack() as stack:
            for subject in self.wanted:
                with contextlib.suppress(UserError):
                    artifact = self._judged(subject, format, place.precision, device).artifact
                    session = stack.enter_context(contextlib.closing(artifact.session(self.threads, device)))
                    arrays = figures.arrays_of(subject, place.batch)
                    calls = figures.affordable(session, arrays, self.request.calls, self.request.seconds)
                    labels.append(subject.label)
                    parts.append((session, arrays, calls))
            warm_up = min([figures.WARM_UP, *(calls for _, _, calls in parts)])
            return dict(zip(labels, measure.latencies(parts, warm_up), strict=True))

    def _card(
        self, subject: TrainedNetwork, place: Place, format: str, device: str, latency: dict[str, Any] | None
    ) -> Card:
        own = self._judged(subject, format, place.precision, device)
        teacher = self._reference(subject, "teacher", format, place.precision, device)
        alone = self._reference(subject, "alone", format, place.precision, device)
        here = place.target.here
        flops = subject.task.flops(subject.network)
        with contextlib.closing(own.artifact.session(self.threads, device)) as session:
            if here:
                part = figures.measured(
                    subject, own.artifact, session, place, self.request, self.threads, self._reader(), latency
                )
                if part["energy"] is None:
                    constants = (
                        energy_figures({"device": device}) if place.target.figures is None else place.target.figures
                    )
                    part["energy"] = figures.model_energy(flops, constants, place.precision, place.batch)
            else:
                part = figures.estimated(subject, own.artifact, session, place, self._reached())
            version = getattr(session, "version", None)
        notes = {**own.notes, **part.pop("notes")}
        generation = None
        if here and subject.spec.per_position:
            generation = measure.generation(subject, 4 if self.request.quick else 16, self.threads, self._reader())
            if generation is not None and generation["joules_per_token"] is None:
                generation |= figures.token_energy(part["energy"], subject.task.TYPICAL_TOKENS, place.batch)
        safe = None
        if own.outputs is not None and subject.spec.labels and subject.spec.distribution:
            safe = self._safety(own, teacher, alone, device)
        elif own.outputs is not None:
            notes["safety"] = "no class is the one of a sample" if subject.spec.labels else "there are no classes"
        return {
            "arm": subject.arm,
            "label": self._label(subject),
            "part": subject.part,
            "seed": subject.seed,
            "unit": subject.spec.unit,
            "target": place.target.name,
            "precision": place.precision,
            "runtime": own.artifact.runtime,
            "runtime_version": version,
            "device": device,
            "batch": place.batch,
            "kind": "measured" if here else "estimate",
            "why": place.target.why,
            "quick": self.request.quick,
            "machine": next(iter(machine_words()), None),
            **part,
            "compute": {
                "macs": None if flops is None else flops // 2,
                "parameters": sum(one.numel() for one in subject.network.parameters()),
            },
            "arithmetic": figures.arithmetic(subject, place.target.figures) if self.spiking else None,
            "quality": _quality(own, teacher),
            "robustness": _robust(own, teacher),
            "safety": safe,
            "generation": generation,
            "seen": self._seen(subject.arm),
            "export": {
                "format": own.artifact.format,
                "files": [path.name for path in own.artifact.files],
                "sha256": own.artifact.sha256,
                "bytes": own.artifact.bytes,
                "max_difference": own.artifact.max_difference,
                "tolerance": own.artifact.tolerance,
                "labels_agree": own.artifact.labels_agree,
            },
            "notes": notes,
        }

    def _seen(self, arm: str) -> dict[str, Any] | None:
        """What the network was trained on, where that is not the same for teacher and student."""
        seen = ((self.run.record or {}).get("summary") or {}).get("seen") or {}
        return seen.get("teacher" if arm == "teacher" else "student")

    def _label(self, subject: TrainedNetwork) -> str:
        """`teacher resnet8`, `student alone`, `student resnet8_w4`, with a view or client."""
        stages = (self.run.record or {}).get("stages") or ()
        stage = next((one for one in stages if one["fingerprint"] == subject.source.get("fingerprint")), {})
        learner = None if len(parts_of(stage)) > 1 else stage.get("learner")  # which there names the method
        name = "student alone" if subject.arm == "alone" else subject.arm.replace("_", " ")
        if subject.arm in ("teacher", "student") and learner not in (None, subject.arm):
            name = f"{name} {learner}"
        return f"{name}, {subject.part}" if subject.part else name

    def _judged(self, subject: TrainedNetwork, format: str, precision: str, device: str) -> Judged:
        """The artifact of a subject with its answers, made once; a failure is remembered too."""
        key = (subject.arm, subject.part, subject.seed, format, precision, device)
        if key not in self.judged:
            try:
                folder = self.run.dir / EXPORTS / slugify(f"{subject.label}-seed-{subject.seed}")
                artifact = export(subject, folder, format, precision)
                with contextlib.closing(artifact.session(self.threads, device)) as session:
                    self.judged[key] = judge(subject, artifact, session, self.request.samples, self.request.quick)
            except UserError as error:
                self.judged[key] = error
        found = self.judged[key]
        if isinstance(found, UserError):
            raise found
        return found

    def _reference(self, subject: TrainedNetwork, arm: str, format: str, precision: str, device: str) -> Judged | None:
        """The teacher, or the student alone, of a subject: of the same view or client, or the only one; None for itself."""
        if subject.arm == arm or subject.arm == "teacher":
            return None
        there = [one for one in self.all if one.arm == arm]
        same = [one for one in there if one.part == subject.part] or (there if len(there) == 1 else [])
        if not same:
            return None
        try:
            found = self._judged(same[0], format, precision, device)
        except UserError:
            return None
        own = self._judged(subject, format, precision, device)
        if (own.ids is None) != (found.ids is None) or (own.ids is not None and not (own.ids == found.ids).all()):
            return None
        return found

    def _safety(self, own: Judged, teacher: Judged | None, alone: Judged | None, device: str) -> dict[str, Any]:
        classes = [str(name) for name in own.subject.spec.classes]
        outputs = [None if one is None else one.outputs for one in (teacher, alone)]
        found = safety.of(own.outputs, own.targets, classes, *outputs, self.request.critical)
        if len(classes) == 2:
            val = self._validation(own, device) if "val" in own.subject.task.KEEPS else (None, None)
            found |= safety.two_classes(own.outputs, own.targets, *val)
        return found

    def _validation(self, own: Judged, device: str) -> tuple[Any, Any]:
        """(outputs, targets) of validation, on which a threshold is chosen."""
        import numpy as np

        with contextlib.closing(own.artifact.session(self.threads, device)) as session:
            predict = predictor(own.subject, session)
            rows = [
                (predict(batch["inputs"].numpy()), batch["targets"].numpy())
                for _, batch in own.subject.batches("val", CHUNK)
            ]
        outputs, targets = zip(*rows, strict=True)
        return np.concatenate(outputs), np.concatenate(targets)

    def _reader(self) -> figures.Counters | None:
        """This machine's counters of energy, opened once; None where it has none that can be read."""
        if not self._opened:
            self._counters, self._opened = figures.open_counters(), True
        return self._counters

    def _reached(self) -> DeviceFigures | None:
        """What this machine's CPU reaches, measured once: against it the model's error is told."""
        if self._here is None and not self.request.quick:
            from kdrun.ledger.roofline import measured_figures

            self._here = measured_figures(self.threads)
        return self._here


def chosen_subjects(run: RunInfo, request: CardRequest, tell: Tell) -> list[TrainedNetwork]:
    """Networks that are asked for, and those they are held against; of several parts the first, or `request.part`."""
    seeds = None if request.seed is None else [request.seed]
    there = {stage["role"] for stage in (run.record or {}).get("stages") or ()}
    arms = None
    if request.arms is not None:
        arms = list(dict.fromkeys([*(name for name in REFERENCES if name in there), *request.arms]))
    found = subjects(run, seeds, arms, tell=tell)
    parts = list(dict.fromkeys(one.part for one in found if one.part is not None))
    if request.part is None and len(parts) > 1:
        first = next((one.part for one in found if one.arm in ("student", "alone") and one.part), parts[0])
        tell(f"of {len(parts)} networks the first: {first}; part=NAME or part=all for others: {listed(parts)}")
        return [one for one in found if one.part in (None, first)]
    if request.part not in (None, "all"):
        if request.part not in parts:
            what = f"it has: {listed(parts)}" if parts else "it is one network"
            raise UserError(f"part={request.part}: no such part of {run.id}{closest(request.part, parts)}", what)
        return [one for one in found if one.part in (None, request.part)]
    return found


def _check_critical(all: list[TrainedNetwork], critical: tuple[str, ...]) -> None:
    classes = [str(name) for name in all[0].spec.labels] if all else []
    for name in critical:
        if name not in classes:
            has = f"classes: {listed(classes)}" if classes else "these data have no classes"
            raise UserError(f"critical={name}: no such class{closest(name, classes)}", has)


def _device(place: Place) -> tuple[str, Place]:
    """Where the session runs: CUDA for a target that computes there, and then with torch; else the CPU."""
    import torch

    if not place.target.here or place.target.device == "cpu" or place.runtime not in ("auto", "torch"):
        return "cpu", place
    if torch.cuda.is_available():
        return "cuda", replace(place, runtime="torch")
    return "cpu", place


def _quality(own: Judged, teacher: Judged | None) -> dict[str, Any]:
    known = own.value is not None and teacher is not None and teacher.value
    return {
        "metric": own.subject.task.MAIN,
        "value": own.value,
        "torch_value": own.torch_value,
        "retention": own.value / teacher.value if known else None,
    }


def _robust(own: Judged, teacher: Judged | None) -> dict[str, Any] | None:
    if own.scores is None:
        return None
    reference = None
    if teacher is not None and teacher.scores is not None and teacher.samples == own.samples:
        reference = robustness.summary(teacher.clean, teacher.scores, None)
    return {**robustness.summary(own.clean, own.scores, reference), "samples": own.samples}
