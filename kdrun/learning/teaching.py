"""Bring a teacher to a stage: load it strictly, prove that it is good, and choose where its outputs come from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdrun.data.host import moved
from kdrun.data.module import SAMPLE, BatchView
from kdrun.learning import seeds, stored, topk
from kdrun.learning.execution import execution_of
from kdrun.learning.fitness import UnfitTeacher
from kdrun.learning.preflight import preflight
from kdrun.learning.report import Report
from kdrun.learning.request import FitRequest, TaughtBy
from kdrun.learning.teacher import Elsewhere, FrozenTeacher, OtherView, SeveralTeachers, TeacherSource, renormalisation
from kdrun.learning.wiring import capture_of
from kdrun.ledger.flops import parameters
from kdrun.ledger.ledger import CostCounter, Ledger, clocks
from kdrun.ledger.reader import Metering, open_metering
from kdrun.networks.build import of_shapes, to_be_loaded
from kdrun.networks.inputs import moments_of, same
from kdrun.networks.weights import load_weights, read_metadata
from kdrun.nodes import world_of
from kdrun.objectives.terms import Objective, build_objective
from kdrun.problems import UserError

__all__ = ["UnfitTeacher", "Workshop", "live_teacher", "moved", "preflight", "prepare_teacher"]


class Workshop:
    """What the stages of one process share: loaded data, where caches lie, how to lock them.

    readers() gives the counters of a stage's ledger.
    lock(name, waiting) is a context manager that one process at a time can hold; by default nothing is locked.
    waiting(name, does) is what to tell who waits for it.
    """

    def __init__(
        self,
        load_data: Callable[[dict[str, Any]], Any],
        outputs: Path,
        lock: Callable[..., AbstractContextManager] = lambda name, waiting=None: nullcontext(),
        readers: Callable[[], list[CostCounter]] = clocks,
        waiting: Callable[[str, str], str] = lambda name, does: f"waiting for another process that {does}",
    ):
        self._load_data = load_data
        self._data: dict[str, Any] = {}
        self._beside: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self.outputs = outputs
        self.lock = lock
        self.readers = readers
        self.waiting = waiting
        self.metering: Metering | None = None
        self.ledger: Ledger | None = None
        self._notes: dict[str, dict[str, Any]] = {}
        self._compared: set[str] = set()

    def meter(self, settings: dict[str, Any] | None, hardware: dict[str, Any]) -> Metering:
        """What measures the energy of all stages from now on (see ledger.reader); opened once. Raises UserError for a sensor
        that is asked for by name and is not there."""
        if self.metering is None:
            self.metering = open_metering(settings, hardware)
        return self.metering

    def open_ledger(self, work: Path, hardware: dict[str, Any], energy: dict[str, Any] | None, rank: int = 0) -> Ledger:
        """The ledger of a stage, which counts from now on; it is also `ledger` until the next one.

        energy: how it is measured; None: it is not. Of several ranks the first alone looks at sensors: it sees the machine, and
        the GPUs of all.
        """
        energy = energy if rank == 0 else None
        metering = self.meter(energy, hardware)
        self.ledger = Ledger(self.readers(), metering.spending(work if energy else None))
        return self.ledger

    def close(self) -> None:
        """Gives sensors back."""
        if self.metering is not None:
            self.metering.close()
            self.metering = None

    def data(self, config: dict[str, Any]):
        """The data of a config. One is kept at a time: image sets are large."""
        return self._kept(self._data, config)

    def seen(self, config: dict[str, Any], learned: Any):
        """The data as a teacher sees them, beside those that its student learns from.

        Raises UserError where they are not the same samples in the same splits.
        """
        module = self._kept(self._beside, config)
        pairs = [zip(learned.identified(split), module.identified(split), strict=True) for split in ("train", "val")]
        alike = all(torch.equal(ours, theirs) for pair in pairs for ours, theirs in pair)
        if not alike or learned.content != module.content:
            raise UserError(f"data={config['name']}: what the teacher would see are not the samples of the student")
        return module

    def check_evaluation(self, config: dict[str, Any], beside: dict[str, Any]) -> None:
        """Raises UserError unless networks that are trained on the data `config` can teach, and be compared, on `beside`, seen as they see
        them: validation and test are the same samples with the same targets, none of them is trained on, and outputs mean the same."""
        if (key := repr((config, beside))) in self._compared:
            return
        module, other = self.data(config), self._kept(self._beside, beside)
        trained = module.spec.metadata()
        other.spec.in_units_of(trained).check(trained, Path(f"a network for data={config['name']}"))
        held_out = [torch.empty(0, dtype=torch.int64)]
        for split in ("val", "test", *other.extra_tests):
            ids = [each.identities(split) for each in (module, other)]
            targets = [torch.as_tensor(each.raw_targets(split)) for each in (module, other)]
            if not torch.equal(*ids) or not torch.equal(*targets):
                raise UserError(f"{split} would not be the samples that the student is judged on")
            held_out.append(ids[1])
        added = [one.get("unlabelled") for one in (config, beside)]  # whose content is in that of the whole
        if added[0] == added[1] and module.content != other.content:
            raise UserError("these are not the samples of the student")
        if torch.isin(module.identities("train"), torch.cat(held_out)).any():
            raise UserError("it would be trained on samples that the student is validated or tested on")
        self._compared.add(key)

    def _kept(self, slot: dict[str, Any], config: dict[str, Any]):
        key = repr(sorted(config.items(), key=lambda item: item[0]))
        if key not in slot:
            slot.clear()
            slot[key] = self._load_data(config)
        return slot[key]

    def parameters(self, network: dict[str, Any], data: dict[str, Any]) -> int:
        """Number of parameters of a network on these data."""
        key = repr((network, data))
        if key not in self._sizes:
            self._sizes[key] = of_shapes(network, self.data(data).spec, parameters)
        return self._sizes[key]

    def known_of(self, data: dict[str, Any]) -> dict[str, Any]:
        """See lab.lab.Lab.known_of."""
        module = self.data(data)
        spec = module.spec
        mean, std = (getattr(spec, name, None) for name in ("mean", "std"))
        normalize = None if mean is None else {"mean": list(mean), "std": list(std)}
        names, types = list(getattr(spec, "classes", ())), list(getattr(spec, "types", ())) or None
        known = {"classes": len(names) or None, "names": names, "types": types, "normalize": normalize}
        return {**known, "modality_of": getattr(module, "modality_of", {})}

    def feature_width(self, stage: Any) -> int:
        """Width of the features that a stage (lab.stages.fit.Fit) keeps of its teacher; 0 where none are compared."""
        if stage.teacher is None or not build_objective(stage.objective).takes("teacher_features"):
            return 0
        learned = self.data(stage.data)
        module = self.seen(stage.seen, learned) if stage.sees else learned
        return self.width(stage.teacher.stage.learner["network"], module)

    def width(self, network: dict[str, Any], module) -> int:
        """Width of a network's features on these data. Raises UserError where the task has none."""
        key = repr(("features", network, module.spec))
        if key not in self._sizes:
            self._sizes[key] = of_shapes(network, module.spec, module.task().feature_width)
        return self._sizes[key]

    def preflight_metric(self, data: dict[str, Any]) -> str:
        """The metric that teachers on these data are measured by before they teach."""
        return self.data(data).task().PREFLIGHT

    def main_metric(self, data: dict[str, Any]) -> tuple[str, str]:
        """The metric that results on these data are judged by, and "max" or "min"."""
        task = self.data(data).task()
        return task.MAIN, task.METRICS[task.MAIN]

    def note_teaching(self, request: FitRequest, **values: Any) -> None:
        self._notes.setdefault(request.fingerprint, {}).update(values)

    def teaching_notes(self, request: FitRequest) -> dict[str, Any] | None:
        return self._notes.get(request.fingerprint)


def prepare_teacher(request: FitRequest, objective: Objective, module, task, report: Report, workshop: Workshop):
    """The source of the teachers' outputs for this stage (see teacher.TeacherSource), checked.

    Where request.sees says so, a teacher sees the same samples otherwise than the student, who learns from `module`.
    Notes what was measured for the record; of several teachers: of the first, FLOPs of all together, and the others below
    "also". Raises: UnfitTeacher; ValueError when a cache would have to hold outputs for randomly augmented inputs.
    """
    view = None
    if request.sees:
        learned, module = module, workshop.seen(request.teachers_view, module)
        task, view = module.task(), module.view_of(learned)
        task.prepare(objective.wanted)
    if len(request.teachers) == 1:
        return _one_teacher(request, objective, module, task, report, workshop, view)
    sources, notes = [], []
    for number, teacher in enumerate(request.teachers):
        single = replace(request, teachers=(teacher,), fingerprint=f"{request.fingerprint}/{number}")
        sources.append(_one_teacher(single, objective, module, task, report, workshop, view))
        notes.append(workshop.teaching_notes(single) or {})
    flops = [found.get("flops") for found in notes]
    whole = None if None in flops else sum(flops)
    workshop.note_teaching(request, **notes[0] | {"flops": whole, "also": notes[1:], "drop": request.drop})
    return SeveralTeachers(sources, request.drop, seeds.derive(request.seed, "drop"))


def live_teacher(
    teacher: TaughtBy,
    module,
    task,
    device: torch.device | None,
    look: Callable[[torch.nn.Module], None] = lambda _: None,
) -> FrozenTeacher:
    """The frozen network of a teacher on `device`, if one is given; `look` is given the network before it is frozen.

    Its weights file says how its inputs are normalised: those of `module` are converted where the config has another
    normalisation for the teacher (`converts`), and outputs to the units of its targets where the teacher learned them in others.
    """
    network = to_be_loaded(teacher.network, module.spec)
    look(network)
    known = read_metadata(teacher.weights) if teacher.converts else {}
    loaded = load_weights(network, teacher.weights, module.spec.in_units_of(known), any_normalisation=teacher.converts)
    theirs, ours = moments_of(loaded.metadata), moments_of(module.spec)
    converts = theirs is not None and ours is not None and not same(theirs, ours)
    normalize = renormalisation((ours["mean"], ours["std"]), theirs) if converts else None
    frozen = FrozenTeacher(network, task, teacher.fingerprint, normalize, module.spec.output_turn(known))
    if device is not None:
        frozen.to(device)
    return frozen


def _one_teacher(
    request: FitRequest, objective: Objective, module, task, report: Report, workshop: Workshop, view: BatchView | None
) -> TeacherSource:
    teaching, teacher = request.teaching, request.teacher
    device = torch.device(teaching.get("device") or request.hardware["device"])
    workshop.note_teaching(request, source=teaching["source"], fingerprint=teacher.fingerprint)

    k = topk.wanted(request.objective)

    shared = teaching.get("sharding") == "fsdp" and world_of(request.hardware) > 1
    if shared:
        _check_shared(teaching, request.hardware, request.trainer or {})

    def live(measured: bool = shared or request.rank == 0) -> FrozenTeacher:
        """measured: looked at before it teaches; by the first of several ranks, whose failure ends the others, or by all where
        they have it together."""

        def look(network: torch.nn.Module) -> None:
            topk.check_told(teacher.name, network, k)
            workshop.note_teaching(request, flops=task.flops(network))

        frozen = live_teacher(teacher, module, task, None if shared else device, look)
        if precision := teaching.get("precision"):
            frozen.compute_in(stored.PRECISIONS[precision])
        if shared:
            frozen.share(device)
        if request.hardware["channels_last"]:
            frozen.network.to(memory_format=torch.channels_last)
        if measured:
            workshop.note_teaching(request, **preflight(frozen, module, task, teacher, teaching))
        if (mode := teaching.get("mode", "eval")) != "eval":  # it was measured in eval mode, as what is known of it was
            frozen.use(mode)
            workshop.note_teaching(request, mode=mode)
        frozen.capture = capture_of(frozen.network, objective, "teacher")
        frozen.execution = execution_of(frozen.network, request.trainer, 1, objective, "teacher", frozen.capture)
        return frozen

    def asked_by_batches(network: FrozenTeacher) -> Any:
        source = Elsewhere(network, device) if teaching.get("device") else network
        return source if view is None else OtherView(source, view)

    features = workshop.width(teacher.network, module) if objective.takes("teacher_features") else 0
    workshop.note_teaching(request, **({"features": features} if features else {}))
    if teaching["source"] == "online":
        return asked_by_batches(live()) if k is None else topk.TopTeacher(asked_by_batches(live()), k)
    asking = stored.Asking(request, module, live, device, report, workshop)
    if module.cached_by != SAMPLE:
        return stored.of_positions(asking, k)
    return stored.of_samples(asking, features, asked_by_batches)


def _check_shared(teaching: dict[str, Any], hardware: dict[str, Any], trainer: dict[str, Any]) -> None:
    """Raises UserError for what does not go with a teacher in parts."""
    others = {"teacher.device": teaching.get("device"), "trainer.compile": trainer.get("compile")}
    others["hardware.channels_last"] = hardware["channels_last"] or None
    for key, value in others.items():
        if value is not None:
            raise UserError(f"teacher.sharding=fsdp does not go with {key}={value}", "give one of them")
