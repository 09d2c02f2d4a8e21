"""kdrun plan: the stages of a job, what is there already, what the rest would cost. Nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kdrun.present.units import magnitude


def main(args) -> int:
    from kdrun.config.compose import compose
    from kdrun.strategies.unused import refuse_unused

    if args.multirun:
        return plan_sweep(args)
    from kdrun.verbs import estimate

    job = compose(args.overrides, args.conf_dirs, missing=False)
    if estimate.wanted(job.config):
        with job.allowing():
            return estimate.main(job, args)
    job = replace(compose(job.overrides, args.conf_dirs), auto=job.auto)  # a student is chosen once
    refuse_unused([job])
    plan = make_plan(job, why=args.why)
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        _show(plan)
    return 0


def plan_sweep(args) -> int:
    """The jobs of a multirun, as they are shown before it starts; nothing is written."""
    import sys

    from kdrun.config.overrides import without_engine
    from kdrun.present.console import Console
    from kdrun.problems import UserError
    from kdrun.sweep.board import show_plan
    from kdrun.sweep.execute import print_json
    from kdrun.sweep.plan import to_run
    from kdrun.verbs.run import grid

    engine = without_engine(args.overrides)
    if engine.sweeper:
        raise UserError("a search has no list of jobs: what it tries depends on what it finds")
    plan = grid(engine.words, args.conf_dirs, arguments=sys.argv[1:])
    if args.json:
        print_json(plan)
    else:
        show_plan(plan, Console(), {point.number for point in plan.points if to_run(point)})
    return 0


def make_plan(job: Any, *, why: bool = False) -> dict[str, Any]:
    """The plan in JSON types: {"job", "data", "other_data", "features", "assumed", "stages": [...], "estimate": {...}}.

    other_data  data of stages that learn from others than the job's: what they are, and the keys that differ
    features    {"missing": images, "bytes": disk} of features that are kept; None where the data have none
    assumed     what to know of it: settings that stay beside others of the same name, choices that depend on results
                which are not there
    """
    with job.allowing():
        return _make_plan(job, why)


def _make_plan(job: Any, why: bool) -> dict[str, Any]:
    from kdrun.domains.task import task_for
    from kdrun.hardware.target import apply_threads, resolve
    from kdrun.lab.fingerprint import differences
    from kdrun.lab.stage import Federation
    from kdrun.learning.report import Report
    from kdrun.run import expected, fit_cells, make_lab, planned_on
    from kdrun.tracking.credentials import resolve_mode

    resolve_mode(job.config["tracker"])
    hardware = resolve(job.config["hardware"])
    apply_threads(hardware)
    from kdrun.learning.beforehand import check_builds
    from kdrun.learning.probe import probe  # imports lightning, which `resolve` has made safe beside a torchvision

    lab = make_lab(job.config["paths"], hardware, Report(), lambda item: None, dry=True)
    main = job.config["data"]
    planned = expected(job.config)
    module = lab.shop.data(main)
    task_for(module).notes()  # a score that lacks its package is told now
    data = {**_told(module), "audit": module.audit()}
    check_builds(*planned_on(planned, main, lab.shop), hardware)
    fit_cells([{**cell, "hardware": hardware} for cell in job.cells], lab)
    stages: dict[str, dict[str, Any]] = {}
    others, features = [], Features()
    # All stages of one data view before the next: the shop keeps one at a time.
    for view in _views([main, *(planned.trained.stage.data for planned in lab.planned)]):
        module = lab.shop.data(view)
        features.add(module)
        differs = {key: there for key, (_, there) in differences(main, view).items()}
        if differs:
            others.append({**_told(module), "differs": differs})
        looked_at: dict[str, dict[str, Any]] = {}
        for planned in lab.planned:
            stage = planned.trained.stage
            if stage.data != view:
                continue
            if isinstance(stage, Federation):
                entry = _federated(planned, module, differs)
                if why and planned.status != "done":
                    entry["why"] = _nearest(planned, lab)
                stages[planned.trained.fingerprint] = entry
                continue
            # Seeds of one stage differ in nothing that a probe has to tell twice.
            teachers = [[one.stage.learner["network"], one.path and one.fingerprint] for one in stage.teachers]
            started = None if stage.start is None else stage.start.path is not None
            alike = [stage.learner, stage.objective, stage.trainer, stage.teaching, teachers, started, stage.sees]
            kind = json.dumps(alike, sort_keys=True)
            if kind not in looked_at:
                seen = lab.shop.seen(stage.seen, module) if stage.sees else None
                stored = [lab.taught_by(one, stage) if one.path else None for one in stage.teachers]
                looked_at[kind] = probe(stage, module, seen, stored)
            stages[planned.trained.fingerprint] = _entry(planned, looked_at[kind], module, differs, lab, why)
    ordered = [stages[planned.trained.fingerprint] for planned in lab.planned]
    new = [stage for stage in ordered if stage["status"] != "done"]
    known = [stage["estimate"]["seconds"] for stage in new if stage["estimate"]["seconds"] is not None]
    return {
        "job": {"hash": job.hash, "slug": job.slug, "seeds": job.config["seeds"], "auto": job.auto},
        "data": data,
        "other_data": others,
        "features": features.found(),
        "assumed": [*job.notes, *lab.assumed],
        "stages": ordered,
        "estimate": {"stages": len(new), "seconds": sum(known) if known or not new else None},
    }


def _views(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct ones, in order."""
    found: list[dict[str, Any]] = []
    for config in configs:
        if config not in found:
            found.append(config)
    return found


def _told(module) -> dict[str, Any]:
    return {"name": module.spec.name, "about": module.spec.about, "sizes": module.spec.sizes}


class Features:
    """Features of images that data modules keep on disk; data that share a cache count once."""

    def __init__(self) -> None:
        self._used: dict[Any, tuple[Any, set[int]]] = {}

    def add(self, module) -> None:
        cache = getattr(getattr(module, "pictures", None), "features", None)
        if cache is not None:
            images = {int(image) for split in module.spec.sizes for image in module.samples(split).images.flat}
            self._used.setdefault(cache.folder, (cache, set()))[1].update(images)

    def found(self) -> dict[str, int] | None:
        """{"missing": images that are used and have none yet, "bytes": disk that all take in the end}."""
        if not self._used:
            return None
        import numpy as np

        missing = [cache.missing(np.array(sorted(images), np.int64)) for cache, images in self._used.values()]
        return {"missing": sum(missing), "bytes": sum(cache.bytes for cache, _ in self._used.values())}


def _entry(planned, found: dict[str, Any], module, differs: dict[str, Any], lab, why: bool) -> dict[str, Any]:
    from kdrun.learning.topk import cache_size

    stage = planned.trained.stage
    samples = (stage.trainer["epochs"] if stage.trainer else 0) * module.spec.sizes["train"]
    online = stage.teacher is not None and stage.teaching["source"] == "online"
    per_sample = None
    if found["flops"] is not None:
        per_sample = 3 * found["flops"] + ((found["teacher_flops"] or 0) if online else 0)
    # Evaluation and bookkeeping come on top of the measured step; a tenth is what they take on the shipped sets.
    seconds = None if found["step_seconds"] is None else 1.1 * found["step_seconds"] * found["steps"]
    entry = {
        "label": stage.label,
        "status": planned.status,
        "fingerprint": planned.trained.fingerprint,
        "learner": stage.learner["name"],
        "network": stage.learner["network"]["_target_"],
        "weights": stage.learner["weights"],
        "teacher": stage.teacher
        and {
            "learner": stage.teacher.stage.learner["name"],
            "fingerprint": stage.teacher.fingerprint,
            **stage.teaching,
            "also": [{"learner": one.stage.learner["name"], "fingerprint": one.fingerprint} for one in stage.also],
            "drop": stage.drop,
            "cache_bytes": cache_size(module, stage.objective, lab.shop.feature_width(stage))
            if stage.teaching["source"] == "cached"
            else None,
        },
        "start": stage.start and stage.start.fingerprint,
        "objective": {name: term for name, term in stage.objective.items() if term["weight"]},
        "terms": found["terms"],
        "untrained": found["untrained"],
        "data": stage.data["name"],
        "data_differs": differs,
        "epochs": stage.trainer["epochs"] if stage.trainer else 0,
        "parameters": found["parameters"],
        "trainable": found["trainable"] if stage.trainer else 0,
        "flops": found["flops"],
        "estimate": {
            "seconds": seconds,
            "steps": found["steps"],
            "samples": samples,
            "flops": None if per_sample is None else per_sample * samples,
            "method": "one measured step times the number of steps; FLOPs counted forward, times 3 for training",
        },
    }
    if why and planned.status != "done":
        entry["why"] = _nearest(planned, lab)
    return entry


def _nearest(planned, lab) -> dict[str, Any] | None:
    nearest = lab.why(planned)
    return nearest and {"nearest": nearest[0], "differs": {k: list(v) for k, v in nearest[1].items()}}


def _federated(planned, module, differs: dict[str, Any]) -> dict[str, Any]:
    """The entry of clients that learn together; "federation" says more (see federation.plan.planned)."""
    from kdrun.federation.plan import planned as about

    stage = planned.trained.stage
    found = about(stage, module)
    return {
        "label": stage.label,
        "status": planned.status,
        "fingerprint": planned.trained.fingerprint,
        "learner": stage.learner["name"],
        "network": stage.learner["network"]["_target_"],
        "weights": None,
        "teacher": None,
        "start": None,
        "objective": {},
        "terms": {},
        "untrained": [],
        "data": stage.data["name"],
        "data_differs": differs,
        "epochs": found["rounds"],
        "parameters": sum(one["parameters"] for one in found["private"]),
        "trainable": found["parameters"],
        "flops": None,
        "federation": found,
        "estimate": {
            "seconds": None,
            "steps": found["steps"],
            "samples": None,
            "flops": None,
            "method": "not estimated",
        },
    }


def _show(plan: dict[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from kdrun.present.console import Console
    from kdrun.present.units import count_of, duration

    console = Console()
    tree = Tree(Text.assemble((plan["job"]["slug"], "bold"), f"  seeds {plan['job']['seeds']}"))
    for data in (plan["data"], *plan["other_data"]):
        sizes = ", ".join(f"{count} {split}" for split, count in data["sizes"].items())
        about = f"{_with(data.get('differs'))} {data['about']}: {sizes}"
        branch = tree.add(Text.assemble("data ", (data["name"], "bold"), about))
        for note in (data.get("audit") or {}).get("notes") or ():
            branch.add(Text(note))
    if plan["features"]:
        missing, size = plan["features"]["missing"], magnitude(plan["features"]["bytes"])
        state = f"{missing:,} images have none yet" if missing else "all there"
        tree.add(f"features of images: {size}B on disk, {state}")
    for line in (*chosen(plan["job"]["auto"]), *plan["assumed"]):
        tree.add(Text(line))
    shown: dict[str, str] = {}
    for stage in plan["stages"]:
        role, _, seed = stage["label"].rpartition("/")
        first = shown.setdefault(json.dumps([role, _alike(stage)], sort_keys=True), seed)
        tree.add(_branch(stage, duration) if first == seed else _line(stage, f"as {first}"))
    console.print(tree)
    new = plan["estimate"]["stages"]
    console.print(
        f"{new} of {count_of(len(plan['stages']), 'stage')} to run, {_time(plan['estimate']['seconds'], duration)}"
        if new
        else "every stage is in the store: running this trains nothing"
    )


def chosen(auto: dict[str, Any] | None) -> list[str]:
    """How `student=auto` was settled, where it was asked for."""
    from kdrun.config.auto import lines

    return [] if auto is None else ["\n".join(lines(auto))]


def _time(seconds: float | None, duration) -> str:
    return "their time is not estimated" if seconds is None else f"about {duration(seconds)} (estimate)"


def _alike(stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage is but for its seed: two that are alike are described once."""
    own = {key: value for key, value in stage.items() if key not in ("label", "status", "fingerprint", "start")}
    teacher = stage["teacher"] and {key: value for key, value in stage["teacher"].items() if key != "fingerprint"}
    return {**own, "teacher": teacher, "fitted": stage["status"] == "done"}


def _with(differs: dict[str, Any] | None) -> str:
    """` (part=captions)`: how data are not those of the job."""
    return f" ({', '.join(f'{key}={value}' for key, value in differs.items())})" if differs else ""


def _line(stage: dict[str, Any], more: str = ""):
    from rich.text import Text

    words = {"done": ("in the store", "green"), "interrupted": ("interrupted, is continued", "yellow"), "new": "new"}
    fingerprint = (stage["fingerprint"][:12], "dim")
    return Text("  ").join(
        Text.assemble(part) for part in ((stage["label"], "bold"), words[stage["status"]], fingerprint, more) if part
    )


def _branch(stage: dict[str, Any], duration):
    from rich.text import Text
    from rich.tree import Tree

    branch = Tree(_line(stage))
    if about := stage.get("federation"):
        for line in _clients(about):
            branch.add(Text(line))
        return _with_why(branch, stage)
    branch.add(
        f"learner {stage['learner']}: {stage['parameters']:,} parameters, {stage['trainable']:,} trainable, "
        f"{magnitude(stage['flops'])} FLOPs a sample"
    )
    if stage["teacher"]:
        teacher = stage["teacher"]
        disk = f" ({magnitude(teacher['cache_bytes'])}B on disk)" if teacher["cache_bytes"] else ""
        fingerprint = (teacher["fingerprint"][:12], "dim")
        branch.add(Text.assemble(f"teacher {teacher['learner']} ", fingerprint, f", outputs {teacher['source']}{disk}"))
        for other in teacher["also"]:
            dropped = f", each left out of a step with probability {teacher['drop']:g}" if teacher["drop"] else ""
            branch.add(Text.assemble(f"and teacher {other['learner']} ", (other["fingerprint"][:12], "dim"), dropped))
    for name, term in stage["objective"].items():
        options = ", ".join(f"{key} {value}" for key, value in term.items() if key != "_target_")
        found = stage["terms"].get(name)
        proof = ""
        if found:
            identity = "" if found["identity"] is None else f", {found['identity']:.1g} when student = teacher"
            proof = f"  first step: {found['value']:.3f}, gradient {found['gradient']:.3f}{identity}"
        branch.add(Text.assemble(f"{name}: {options}", (proof, "dim")))
    if stage["untrained"] and stage["terms"]:
        who = " and ".join(dict.fromkeys(stage["untrained"]))
        branch.add(Text(f"first step with random weights of {who}: not in the store yet", "dim"))
    estimate = stage["estimate"]
    if stage["status"] != "done" and estimate["seconds"] is not None:
        branch.add(
            f"{stage['epochs']} epochs{_with(stage['data_differs'])}, {estimate['steps']} steps, about {duration(estimate['seconds'])}, "
            f"{magnitude(estimate['flops'])} FLOPs (estimates)"
        )
    return _with_why(branch, stage)


def _clients(about: dict[str, Any]) -> list[str]:
    """Lines for people on a federation."""
    partition, samples = about["partition"], sorted(about["partition"]["samples"])
    how = partition["kind"] + (f", alpha {partition['alpha']:g}" if partition["kind"] != "iid" else "")
    networks = ", ".join(f"{one['network'].rpartition('.')[2]} {one['parameters']:,}" for one in about["private"])
    travels = {None: "nothing travels", "predictions": "predictions on public samples travel"}.get(
        about["travels"], f"a {about['travels']} network of {magnitude(about['parameters'])} parameters travels"
    )
    sent = f", about {magnitude(about['bytes'])}B in all (estimate)" if about["bytes"] else ""
    return [
        f"{about['clients']} clients ({how}): {samples[0]:,} to {samples[-1]:,} training samples each",
        f"private networks, parameters: {networks}",
        f"{about['rounds']} rounds, at most {about['steps']:,} steps; {travels}{sent}",
    ]


def _with_why(branch, stage: dict[str, Any]):
    why = stage.get("why")
    if why:
        node = branch.add(f"nearest in the store: {why['nearest'][:12]}; differs in")
        for key, (mine, stored) in list(why["differs"].items())[:12]:
            node.add(f"{key}: {_value(stored)} there, {_value(mine)} here")
    return branch


def _value(value: Any) -> str:
    """A value for one line; of a hash, the first digits are enough to see that it is another."""
    text = repr(value)
    return f"{text[1:13]}..." if isinstance(value, str) and len(value) == 64 else text
