"""The stage that fits one learner, on labels or taught."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun import kinds, losses
from kdrun.config.trees import without
from kdrun.defaults import canonical, canonical_objective
from kdrun.lab.fingerprint import device, domain_modules, drop_added, identity, kept, targets_in, versions, viewed
from kdrun.lab.stages.base import BEST, Execution, Look, Result, Stage
from kdrun.learning.request import FitRequest, StartsFrom, TaughtBy
from kdrun.nodes import world_of
from kdrun.problems import UserError
from kdrun.schema import OWN_WEIGHTS

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext
    from kdrun.learning.teaching import Workshop


@dataclass(frozen=True)
class Fit(Stage):
    """Fit `learner` from `start`, taught by `teacher` under `objective` on `data`; plain JSON types throughout.

    objective  term name -> {"weight", options...}
    trainer    the trainer group, already merged with the learner's own overrides; None = only evaluate `weights`
    teaching   how the teacher's knowledge is brought: {"source", "fill", "verify", "tolerance", ...}
    also       further teachers that teach at the same time; each term is a mean over all of them
    drop       probability of each of several teachers to be left out of a step (one at least stays)
    sees       keys of `data` in which the teacher sees the same samples otherwise: {"window": "bone"}
    metrics    those of the config beside the task's
    averaged   its teacher is the moving average of its own weights (trainer.ema); no result teaches it
    peers      networks that are trained beside it on the same batches and teach it, as it teaches them, in the order of their
               steps: {"name", "learner", "trainer" (None: as its own), "seed"} of each; no result teaches it
    generated  the data of a Generate stage whose targets stand for those of the training samples
    importance  how much each parameter of `start` matters for what it learned, of an Importance stage (objectives.ewc)
    start_epoch  "best" or "last": which epoch of `start` it begins with
    rollout    batches of the student's own samples: {"share" of all batches, "temperature", "prompt"} (learning.rollouts), those of
               learning.policy.PolicyRollouts, or {}
    stated     what the config says of the learner that decides no result: its "key", the "accuracy" and "tolerance" it is
               known for as a teacher, "normalize" where it has a normalisation of its own (that is in `data` too), and
               "beside", the data of its students, where its own differ
    """

    role: str
    learner: dict[str, Any]
    objective: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any] | None
    hardware: dict[str, Any]
    seed: int
    start: Result | Fit | None = None
    teacher: Result | None = None
    teaching: dict[str, Any] = field(default_factory=dict)
    also: tuple[Result, ...] = ()
    drop: float = 0.0
    sees: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    generated: Result | None = None
    averaged: bool = False
    peers: tuple[dict[str, Any], ...] = ()
    rollout: dict[str, Any] = field(default_factory=dict)
    importance: Result | None = None
    start_epoch: str = BEST
    told: ClassVar[tuple[str, ...]] = ("gap", "peers", "before")

    @property
    def seen(self) -> dict[str, Any]:
        """The data config as the teacher sees it."""
        return {**self.data, **self.sees}

    @property
    def taught(self) -> bool:
        return self.source is not None or self.averaged or bool(self.peers or self.rollout)

    @property
    def source(self) -> Result | None:
        return self.teacher or (self.generated and self.generated.stage.teacher)

    @property
    def behind(self) -> Result | None:
        """Its teacher; where it has none, or one that only holds a policy near its start, that of the stage that its weights come from."""
        if self.source is not None and "reward" not in self.rollout:
            return self.source
        before = self.start.stage.behind if isinstance(self.start, Result) else None
        return self.source if before is None else before

    @property
    def teachers(self) -> tuple[Result, ...]:
        return () if self.teacher is None else (self.teacher, *self.also)

    @property
    def teacher_networks(self) -> list[dict[str, Any]]:
        beside = [peer["learner"]["network"] for peer in self.peers]
        return [self.learner["network"]] if self.averaged else [*super().teacher_networks, *beside]

    @property
    def begun(self) -> Result | None:
        """The result whose weights it begins with: stages between that only took them over are left out."""
        begun = self.start
        while (
            isinstance(begun, Result) and getattr(begun.stage, "trainer", 0) is None and begun.stage.start is not None
        ):
            begun = begun.stage.start
        return begun

    @property
    def networks(self) -> list[dict[str, Any]]:
        return [*super().networks, *(peer["learner"]["network"] for peer in self.peers)]

    def settled(self, workshop: Workshop) -> Fit:
        """The stage with `teacher.source=auto` decided: cached where every view of a sample recurs, else online; and of
        weights that were brought, with inputs normalised as they were trained on.

        Raises UserError when a cache was asked for that cannot be right or would pass `teacher.cache_limit_gb`.
        """
        from kdrun.lab import teachers

        stage = teachers.as_trained(self, workshop)
        teachers.check_own_data(stage, workshop)
        if stage.teacher is None:
            return stage
        return replace(stage, teaching=teachers.settle_teaching(stage, workshop))

    def check(self, result: Result | None = None) -> list[str]:
        """Raises UnfitTeacher where a teacher is below its stated accuracy, and where the result was taught by what is no
        better than a guess. Returns what should be known of weights that were brought."""
        from kdrun.lab import teachers

        if result is None:
            teachers.check_accuracy(self)
            return []
        teachers.check_noted(self, result)
        return teachers.otherwise(result)

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        tree = {
            "learner": self._learner(self.learner, context),
            "objective": {
                name: term
                for name, term in canonical_objective(self.objective, numbers=True).items()
                if term.get("weight", 1.0) != 0  # such a term is never evaluated
            },
            "data": self._identity(context) | ({"generated": self.generated.fingerprint} if self.generated else {}),
            "trainer": self.trainer and canonical(kept(self.trainer, "trainer"), numbers=True),
            "seed": self.seed if self.trainer is not None else None,
            "start": self.start.fingerprint if self.start else None,
            "teacher": {"average": True}
            if self.averaged
            else {"peers": [self._peer(peer, context) for peer in self.peers]}
            if self.peers
            else self.teacher
            and {
                "fingerprint": self.teacher.fingerprint,
                **kept(self.teaching, "teaching"),
                **({"also": [other.fingerprint for other in self.also], "drop": self.drop} if self.also else {}),
                **({"sees": self._sees(), "content": context.data_hash(self.seen)} if self.sees else {}),
            },
            "code": context.sources.versions(self.modules()),
            "versions": versions("torch", "lightning"),
            "device": device(self.hardware, context),
        }
        if world_of(self.hardware) > 1 and (self.trainer or {}).get("accumulate", 1) > 1:
            tree |= {"synchronised": "after the last part"}  # before, after each of them: sums in another order
        tree |= {"metrics": canonical(self.metrics, numbers=True)} if self.metrics else {}
        tree |= {"start_epoch": self.start_epoch} if self.start_epoch != BEST else {}
        tree |= {"rollout": canonical(self.rollout, numbers=True)} if self.rollout else {}
        tree |= {"importance": self.importance.fingerprint} if self.importance else {}
        return drop_added(tree, context.added)

    def _sees(self) -> dict[str, Any]:
        """`sees` without paths, whose content is in the hash of the data."""
        view = viewed(self.seen)
        return {key: view[key] if isinstance(value, dict) else value for key, value in self.sees.items()}

    def _learner(self, learner: dict[str, Any], context: FingerprintContext) -> dict[str, Any]:
        weights, task = learner["weights"], self.data.get("task")
        network = canonical(learner["network"], numbers=True, task=task)
        left_out = kinds.find(task).left_out(str(network.get("_target_"))) if task else ()
        return {
            "network": {name: value for name, value in network.items() if name not in left_out},
            "weights": context.file_hash(weights) if weights not in (None, OWN_WEIGHTS) else weights,
        }

    def _peer(self, peer: dict[str, Any], context: FingerprintContext) -> dict[str, Any]:
        trainer = peer["trainer"] and canonical(kept(peer["trainer"], "trainer"), numbers=True)
        learner = self._learner(peer["learner"], context)
        return {"name": peer["name"], "learner": learner, "trainer": trainer, "seed": peer["seed"]}

    @property
    def _shown(self) -> dict[str, Any]:
        """The data config as its terms look at it: without the second view where none of them compares that."""
        second = any(term.get("view") for term in self.objective.values())
        return self.data if second else without(self.data, ("augment.strong",))

    def _identity(self, context: FingerprintContext) -> dict[str, Any]:
        """What the data are; of labels alone all batches have labels, whatever share of them the run's config says."""
        return identity(self._shown if self.taught else {**self._shown, "labelled_share": None}, context)

    def modules(self) -> list[str]:
        """Modules whose source, with what they import below the same package, decides the result."""
        terms = [losses.resolve(name, node)[0] for name, node in self.objective.items()]
        nodes = targets_in(self.learner, self.data, self.trainer or {}, self.metrics, self.rollout, *self.peers)
        rollouts = (
            ["kdrun.learning.policy" if "reward" in self.rollout else "kdrun.learning.rollouts"] if self.rollout else []
        )
        return ["kdrun.learning.fit", *rollouts, *domain_modules(self.data), *terms, *nodes]

    # the plan

    def plan(self, look: Look) -> dict[str, Any]:
        from kdrun.ledger import roofline

        found = self._probed(look)
        samples, labelled = sum(found["samples"].values()), look.module.samples("train").labelled
        online = self.averaged or (self.teacher is not None and self.teaching["source"] == "online")
        per_sample, beside = None, 1.0
        if found["flops"] is not None:
            passes = found["passes"] * found["shown"] * self.rollout.get("group", 1)
            per_sample = passes * (3 * found["flops"] + ((found["teacher_flops"] or 0) if online else 0))
        if self.peers and found["flops"] and found["teacher_flops"]:  # each learns, and is asked by all others
            alone, per_sample = per_sample, (3 + len(self.peers)) * (found["flops"] + found["teacher_flops"])
            beside = per_sample / alone
        # Evaluation and bookkeeping come on top of the step; a tenth is what they take on the shipped sets.
        seconds = None if found["step_seconds"] is None else 1.1 * beside * found["step_seconds"] * found["steps"]
        return {
            "learner": self.learner["name"],
            "network": self.learner["network"]["_target_"],
            "weights": self.learner["weights"],
            "teacher": self.teacher and self._teacher_plan(look),
            "start": self.start and self.start.fingerprint,
            "objective": {name: term for name, term in self.objective.items() if term["weight"]},
            "terms": found["terms"],
            "generated": self.generated and self.generated.stage.label,
            "peers": [{"name": p["name"], "learner": p["learner"]["name"], "seed": p["seed"]} for p in self.peers],
            "untrained": found["untrained"],
            "too_large": found["too_large"],
            "epochs": self.trainer["epochs"] if self.trainer else 0,
            "parameters": found["parameters"],
            "trainable": found["trainable"] if self.trainer else 0,
            "flops": found["flops"],
            "memory_gb": found["memory"],
            "estimate": {
                "seconds": seconds,
                "steps": found["steps"],
                "samples": samples,
                **({"shown": found["samples"]} if labelled is not None and self.trainer else {}),
                "flops": None if per_sample is None else per_sample * samples,
                "on": found["on"],
                "method": "one measured step" if found["on"] == "cpu" and not found["too_large"] else roofline.METHOD,
            },
        }

    def _probed(self, look: Look) -> dict[str, Any]:
        """What one step shows (learning.probe). Seeds of one stage differ in nothing that a probe has to tell twice."""
        from kdrun.learning.firststep import NoEffect
        from kdrun.learning.probe import NotZero, probe

        teachers = [[one.stage.learner["network"], one.path and one.fingerprint] for one in self.teachers]
        started = None if self.start is None else self.start.path is not None
        data = {**self.data, "split_seed": 0}
        alike = [self.learner, self.objective, self.trainer, self.teaching, teachers, started, self.sees, data]
        alike += [[peer["learner"] for peer in self.peers], self.rollout]
        kind = json.dumps(alike, sort_keys=True, default=str)
        if kind not in look.known:
            seen = look.workshop.seen(self.seen, look.module) if self.sees else None
            stored = [self.taught_by(one, look.workshop) if one.path else None for one in self.teachers]
            try:
                look.known[kind] = probe(self, look.module, seen, stored)
            except (NoEffect, NotZero) as error:
                raise UserError(f"{self.label}: {error}") from error
        return look.known[kind]

    def _teacher_plan(self, look: Look) -> dict[str, Any]:
        from kdrun.learning.topk import cache_size

        cached = self.teaching["source"] == "cached"
        width = look.workshop.feature_width(self) if cached else 0
        return {
            "learner": self.teacher.stage.learner["name"],
            "fingerprint": self.teacher.fingerprint,
            **self.teaching,
            "also": [{"learner": one.stage.learner["name"], "fingerprint": one.fingerprint} for one in self.also],
            "drop": self.drop,
            "cache_bytes": cache_size(look.module, self.objective, width, self.teaching.get("cache_format", "fp32"))
            if cached
            else None,
        }

    # the run

    def run(self, execution: Execution) -> dict[str, Any]:
        request = self.request(execution)
        if world_of(self.hardware) > 1 and self.trainer is not None:
            import sys

            from kdrun.learning.device import thread_environment
            from kdrun.learning.workers import run_distributed

            context = {
                "paths": execution.paths,
                "outputs": str(execution.workshop.outputs),
                "locks": str(execution.locks),
                "sys_path": sys.path,
            }
            return run_distributed(request, execution.report, context, thread_environment(self.hardware))
        from kdrun.learning.fit import run_stage

        return run_stage(request, execution.report, execution.workshop)

    def request(self, execution: Execution) -> FitRequest:
        """What the learning room is asked to do."""
        names = ("label", "learner", "objective", "sees", "trainer", "hardware", "seed", "teaching", "drop", "metrics")
        names += ("averaged", "rollout")
        return FitRequest(
            execution.fingerprint,
            work=execution.work,
            data={**self._shown, **({} if self.generated is None else {"generated": self.generated.data_file()})},
            data_identity=execution.tree["data"],
            seen_identity=identity(self.seen, execution.context) if self.sees else execution.tree["data"],
            energy=execution.energy,
            teachers=tuple(self.taught_by(teacher, execution.workshop) for teacher in self.teachers),
            start=self.start and StartsFrom(self.begun.fingerprint, str(self.start.weights(self.start_epoch))),
            importance=self.importance and str(self.importance.importance_file()),
            peers=tuple({**peer, "trainer": peer["trainer"] or self.trainer} for peer in self.peers),
            **{name: getattr(self, name) for name in names},
        )

    def taught_by(self, teacher: Result, workshop: Workshop) -> TaughtBy:
        """What a request says of a teacher of this stage."""
        from kdrun.lab.teachers import evaluated

        # What a teacher reached on other data (a first phase has its own) says nothing of these.
        alike = evaluated(teacher.stage.data) == evaluated(self.seen)
        return TaughtBy(
            teacher.fingerprint,
            teacher.stage.learner["name"],
            teacher.stage.learner["network"],
            str(teacher.weights()),
            # Else inputs that are normalised otherwise come from other data, or from another view of them: a mistake.
            converts=teacher.stage.data.get("normalize") != self.seen.get("normalize")
            or (alike and teacher.stage.data != self.seen),  # moments of other training samples
            stated=teacher.record["val"][BEST].get(workshop.preflight_metric(self.data)) if alike else None,
        )
