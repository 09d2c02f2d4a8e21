"""The cast of a run: who teaches, who learns, on what; and the kinds of stage that strategies are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdrun import kinds, losses
from kdrun.domains.base import Domain
from kdrun.lab.stages.base import Result
from kdrun.lab.stages.fit import Fit
from kdrun.lab.stages.generate import Generate
from kdrun.problems import UserError, closest, listed
from kdrun.strategies import own_data
from kdrun.term_weights import scaled

# What a teacher's config says of how it teaches, as opposed to what it is.
TEACHING = ("source", "fill", "verify", "cache_limit_gb", "accuracy", "tolerance")
LATER = {"mode": "eval", "device": None, "precision": None, "cache_format": "fp32", "sharding": "none"}
"""Further keys of a teacher while it teaches, with their defaults."""

TEACHER, STUDENT, ALONE = "teacher", "student", "alone"
BOTH = f"{losses.HOME}.ce_kd.ce_kd"
"""The loss of labels and soft targets in one; OF_LABELS are its options that go with labels."""
OF_LABELS = ("label_smoothing", "execution", "chunk", "memory_mb")


@dataclass(frozen=True)
class Learner:
    """One network of the cast with its seed and its trainer (the run's, with the learner's own overrides on top)."""

    role: str
    config: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    cast: Cast

    @property
    def identity(self) -> dict[str, Any]:
        return {key: self.config[key] for key in ("name", "network", "weights")}

    @property
    def brought(self) -> bool:
        """Whether it is a teacher or assistant that comes with its weights and is trained no more."""
        return self.role != STUDENT and self.config["weights"] is not None

    @property
    def key(self) -> str:
        """Where it stands in the config: teacher, student, assistants.NAME."""
        return self.role if self.role in (TEACHER, STUDENT) else f"assistants.{self.role}"

    @property
    def data(self) -> dict[str, Any]:
        """The data that it is trained on: the run's, with those keys in which its own differ; of one that is trained no more, those
        that say how it sees a sample. A teacher's own normalisation goes with it wherever it is used."""
        run, own = self.cast.config["data"], self.config.get("data") or {}
        if self.brought:
            own = {key: own[key] for key in own_data.views(self.cast.domain, run) if key in own}
        prompts = {name: self.config.get(name) for name in ("prompt", "system")}
        if any(template is not None for template in prompts.values()):
            own = merged(own, self.cast.domain.prompted(self.key, **prompts))
        normalize, data = self.config.get("normalize"), merged(run, own)
        return data if normalize is None else {**data, "normalize": normalize}

    @property
    def stated(self) -> dict[str, Any]:
        """See lab.stages.fit.Fit.stated."""
        known = {name: self.config[name] for name in ("accuracy", "tolerance") if name in self.config}
        normalize = self.config.get("normalize")
        return {"key": self.key, **known, **({} if normalize is None else {"normalize": normalize})}

    def stage(self, data: dict[str, Any] | None) -> dict[str, Any]:
        """What a Fit says of the data: those of this learner with the keys of `data` over them, and beside them the run's, as this learner
        sees them, where its own differ."""
        run, own = (merged(each, data or {}) for each in (self.cast.config["data"], self.data))
        beside = {**run, **{key: own[key] for key in own_data.views(self.cast.domain, run) if key in own}}
        differs = own != beside and self.config.get("data")
        return {"data": own, "stated": {**self.stated, **({"beside": beside} if differs else {})}}


@dataclass(frozen=True)
class Cast:
    """All learners of one cell, made from its frozen config."""

    config: dict[str, Any]

    def _learner(self, role: str, config: dict[str, Any], seed: int) -> Learner:
        return Learner(role, config, merged(self.config["trainer"], config["trainer"]), seed, self)

    @property
    def teacher(self) -> Learner:
        """The teacher of the config."""
        return self._learner(TEACHER, self.config["teacher"], self.config["teacher"]["seed"])

    @property
    def assistants(self) -> list[Learner]:
        """The assistants of the config by their names: its own order is in no hash, and not in a record."""
        return [self._learner(name, node, node["seed"]) for name, node in sorted(self.config["assistants"].items())]

    def teachers(self, names: str | Sequence[str] = "auto") -> list[Learner]:
        """Those of the assistants and the teacher that are named; "auto": all."""
        known = {learner.role: learner for learner in (*self.assistants, self.teacher)}
        names = list(known) if names == "auto" else names
        if unknown := [name for name in names if name not in known]:
            why = f"no teacher {unknown[0]!r}{closest(unknown[0], known)}; all: {listed(known)}"
            raise UserError(f"strategy.teachers: {why}")
        if len(set(names)) < len(names):
            raise UserError(f"strategy.teachers={listed(names)}: a teacher is named twice")
        return [known[name] for name in names]

    @property
    def student(self) -> Learner:
        """The student of the config."""
        return self._learner(STUDENT, self.config["student"], self.config["seed"])

    def teaching_of(self, teacher: Result) -> dict[str, Any]:
        """The node of the config that says how a result teaches; what is no assistant does as the config's teacher."""
        key = getattr(teacher.stage, "stated", {}).get("key", TEACHER)
        return self.config["assistants"].get(key.removeprefix("assistants."), self.config["teacher"])

    @property
    def domain(self) -> Domain:
        """The kind of data."""
        return kinds.find(self.config["data"].get("task", "classification"))

    def check(self, arms: Iterable[str] = ()) -> None:
        """Raises UserError for names and keys of teachers that could not mean what they say. arms: of the strategy."""
        for name in self.config["assistants"]:
            if name in (TEACHER, STUDENT, ALONE, *arms):
                raise UserError(
                    f"assistants.{name}: {name} is the name of other stages of the run, whose results it would be mixed with",
                    f"give it another name, as in assistants.mid_{name}",
                )
        for learner in (self.teacher, *self.assistants):
            check_device(learner)
            own = learner.config.get("data") or {}
            own_data.check(learner.key, own, self.domain, self.config["data"])
            if learner.config["accuracy"] is not None and "accuracy" not in self.domain.metrics:
                raise UserError(
                    f"{learner.key}.accuracy={learner.config['accuracy']}: data.task={self.domain.name} has no accuracy",
                    "leave it out: a teacher is held against its own record and against a guess",
                )
            if learner.config["normalize"] is not None and not self.domain.normalised:
                raise UserError(
                    f"{learner.key}.normalize: data.task={self.domain.name} gives networks tokens, which are not normalised",
                    "leave it out",
                )

    @property
    def supervision(self) -> dict[str, Any]:
        """The objective without a teacher: the run's term of labels (cross-entropy, squared error) at weight 1, its options
        kept."""
        name, objective = self.domain.supervision, self.config["objective"]
        given = objective.get(name, {})
        both = [node for loss, node in (losses.resolve(*term) for term in objective.items()) if loss == BOTH]
        if name == "ce" and not given and both:
            given = {key: both[0][key] for key in OF_LABELS if key in both[0]}
        return {name: {**given, "weight": 1.0}}


def check_device(learner: Learner) -> None:
    """Raises UserError for a device that is none; whether a machine has it is asked where the job runs."""
    device = learner.config.get("device")
    if device is None or re.fullmatch(r"(cpu|mps|cuda)|cuda:\d+", device):
        return
    kinds_of = ("cpu", "cuda", "cuda:0", "cuda:1", "mps")
    raise UserError(f"{learner.key}.device={device}{closest(device, kinds_of)}", "one of cpu, mps, cuda, cuda:NUMBER")


def supervised(
    learner: Learner,
    *,
    start: Result | Fit | None = None,
    role: str | None = None,
    data: dict[str, Any] | None = None,
    pretrain: bool = True,
    **trainer: Any,
) -> Fit:
    """The learner trained on labels alone: from `start`, or from the family's first phase where it has one.

    Keyword arguments override the trainer (`epochs=20`), `data` keys of the data. A teacher that brings `weights` is only
    evaluated.
    """
    cast = learner.cast
    if start is None and pretrain:
        start = first_phase(learner, role=role, data=data)
    return Fit(
        role=role or learner.role,
        learner=learner.identity,
        objective=cast.supervision,
        trainer=None if learner.brought else merged(learner.trainer, trainer),
        hardware=cast.config["hardware"],
        seed=learner.seed,
        start=start,
        metrics=cast.config.get("metrics") or {},
        **learner.stage(data),
    )


def averaged(learner: Learner, decay: float, **trainer: Any) -> Fit:
    """The learner under the run's objective, taught by the moving average of its own weights, which is also what is kept.

    decay: of the average in each step. Keyword arguments override the trainer.
    """
    fit = supervised(learner, ema=decay, **trainer)
    return replace(fit, objective=learner.cast.config["objective"], averaged=True)


def mutual(learner: Learner, peers: dict[str, Learner], **trainer: Any) -> Fit:
    """The learner and its peers (by name) trained on the same batches under the run's objective, each taught by all others.

    Keyword arguments override the trainer of all.
    """
    fit = supervised(learner, pretrain=False, **trainer)
    own = {name: merged(peer.trainer, trainer) for name, peer in peers.items()}
    beside = (
        {
            "name": name,
            "learner": peer.identity,
            "trainer": None if own[name] == fit.trainer else own[name],
            "seed": peer.seed,
        }
        for name, peer in peers.items()
    )
    return replace(fit, objective=learner.cast.config["objective"], peers=tuple(beside))


def distil(
    learner: Learner,
    teacher: Result | Sequence[Result],
    *,
    start: Result | Fit | None = None,
    role: str | None = None,
    teaching: dict[str, Any] | None = None,
    drop: float = 0.0,
    objective: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    sees: dict[str, Any] | None = None,
    pretrain: bool = True,
    **trainer: Any,
) -> Fit:
    """The learner taught by `teacher`, under the run's objective: from `start`, or from a first phase under the same teacher.

    Several teachers teach at once: each term is a mean over them, and `drop` is the probability of each to be left out of
    a step. objective: instead of the run's. data: keys that differ from the run's; sees: those in which the teacher sees the
    same samples otherwise than the learner, by default those of its view (`teacher.data.view`). Other keyword arguments override
    the trainer (`epochs=20`).
    """
    cast = learner.cast
    if start is None and pretrain:
        same = {"role": role, "teaching": teaching, "drop": drop, "objective": objective, "data": data, "sees": sees}
        start = first_phase(learner, teacher, **same)
    first, *also = [teacher] if isinstance(teacher, Result) else teacher
    settings = cast.teaching_of(first) if teaching is None else teaching
    of_data = learner.stage(data)
    if sees is None:
        sees = own_data.seen_otherwise(cast.domain, of_data["data"], (one.stage.data for one in (first, *also)))
    return Fit(
        role=role or learner.role,
        learner=learner.identity,
        objective=cast.config["objective"] if objective is None else objective,
        trainer=merged(learner.trainer, trainer),
        hardware=cast.config["hardware"],
        seed=learner.seed,
        start=start,
        teacher=first,
        teaching={key: settings[key] for key in (*TEACHING, *(("unchecked",) if settings.get("unchecked") else ()))}
        | {key: settings.get(key, default) for key, default in LATER.items()},
        also=tuple(also),
        drop=drop if also else 0.0,
        sees=sees,
        metrics=cast.config.get("metrics") or {},
        **of_data,
    )


def first_phase(
    learner: Learner,
    teacher: Result | Sequence[Result] | None = None,
    *,
    start: Result | Fit | None = None,
    role: str | None = None,
    **options: Any,
) -> Fit | None:
    """What `pretrain` in the config puts before a learner's main training: other data, a part of the network.

    None where the config has none, and for learners that bring their weights. options: of `supervised`, or of `distil`.
    """
    pretrain = learner.cast.config.get("pretrain")
    if not pretrain or learner.brought:
        return None
    options |= {
        "start": start,
        "role": f"{role or learner.role}_first",
        "pretrain": False,
        "data": merged(options.get("data") or {}, pretrain.get("data") or {}),
        **(pretrain.get("trainer") or {}),
    }
    return supervised(learner, **options) if teacher is None else distil(learner, teacher, **options)


def generate(
    cast: Cast,
    teacher: Result,
    *,
    role: str = "generated",
    filters: dict[str, Any] | None = None,
    **decoding: Any,
) -> Generate:
    """Targets that a trained teacher generates for the training samples, once; other keywords override trainer.decoding.

    filters: which texts are learned from (data.filters.TextFilter). A Fit learns from the result:
    `replace(supervised(cast.student), generated=...)`.
    """
    used = {key: value for key, value in cast.config["trainer"]["decoding"].items() if key in cast.domain.decoding}
    search = {**used, **decoding}
    search.pop("val_beam", None)  # of validation alone
    teaching = {key: cast.teaching_of(teacher)[key] for key in ("accuracy", "tolerance")}
    stage, run = teacher.stage, cast.config["data"]
    sees = own_data.seen_otherwise(cast.domain, run, [stage.data])
    data = {**stage.stated.get("beside", stage.data), **{key: run.get(key) for key in sees}}  # of the student's samples
    return Generate(role, data, search, cast.config["hardware"], stage.seed, teacher, teaching, filters or {}, sees)


def weighted(objective: dict[str, Any], factors: dict[str, float]) -> dict[str, Any]:
    """An objective with the weights of these terms multiplied; a term that it lacks has the weight 1."""
    terms = {name: {"weight": 1.0, **objective.get(name, {})} for name in factors}
    return merged(
        objective, {name: {**term, "weight": scaled(term["weight"], factors[name])} for name, term in terms.items()}
    )


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` put in its place, mapping by mapping; a new optimizer target replaces the old."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        same = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("_target_") in (None, old.get("_target_"))
        )
        result[key] = merged(old, value) if same else value
    return result
