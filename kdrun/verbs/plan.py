"""kdrun plan: the stages of a job, what is there already, what the rest would cost. Nothing is trained."""

from __future__ import annotations

import json
from typing import Any


def main(args) -> int:
    from kdrun.config.compose import compose

    if args.multirun:
        return plan_sweep(args)
    from kdrun.verbs import estimate

    job = compose(args.overrides, args.conf_dirs, missing=False)
    if estimate.wanted(job.config):
        return estimate.main(job, args)
    job = compose(args.overrides, args.conf_dirs)
    plan = make_plan(job, why=args.why)
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        _show(plan)
    return 0


def plan_sweep(args) -> int:
    """The jobs of a multirun, as they are shown before it starts; nothing is written."""
    import sys

    from rich.console import Console

    from kdrun.config.overrides import without_engine
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
    """The plan in JSON types: {"job", "data", "stages": [...], "estimate": {...}}."""
    from kdrun.hardware.target import apply_threads, resolve
    from kdrun.learning.report import Report
    from kdrun.run import fit_cells, make_lab
    from kdrun.tracking.credentials import resolve_mode

    resolve_mode(job.config["tracker"])
    hardware = resolve(job.config["hardware"])
    apply_threads(hardware)
    from kdrun.learning.probe import probe  # imports lightning, which `resolve` has made safe beside a torchvision

    lab = make_lab(job.config["paths"], hardware, Report(), lambda item: None, dry=True)
    module = lab.shop.data(job.config["data"])
    fit_cells([{**cell, "hardware": hardware} for cell in job.cells], lab)
    looked_at: dict[str, dict[str, Any]] = {}
    stages = []
    for planned in lab.planned:
        stage = planned.trained.stage
        # Seeds of one stage differ in nothing that a probe can see.
        kind = json.dumps([stage.learner, stage.objective, stage.trainer, stage.teaching], sort_keys=True)
        if kind not in looked_at:
            looked_at[kind] = probe(stage, module)
        stages.append(_entry(planned, looked_at[kind], module, lab if why else None))
    new = [stage for stage in stages if stage["status"] != "done"]
    known = [stage["estimate"]["seconds"] for stage in new if stage["estimate"]["seconds"] is not None]
    return {
        "job": {"hash": job.hash, "slug": job.slug, "seeds": job.config["seeds"]},
        "data": {
            "name": module.spec.name,
            "about": module.spec.about,
            "sizes": module.spec.sizes,
            "audit": module.audit(),
        },
        "stages": stages,
        "estimate": {"stages": len(new), "seconds": sum(known) if known else 0.0},
    }


def _entry(planned, found: dict[str, Any], module, lab) -> dict[str, Any]:
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
            "cache_bytes": cache_size(module, stage.objective) if stage.teaching["source"] == "cached" else None,
        },
        "start": stage.start and stage.start.fingerprint,
        "objective": {name: term for name, term in stage.objective.items() if term["weight"]},
        "terms": found["terms"],
        "data": stage.data["name"],
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
    if lab is not None and planned.status != "done":
        nearest = lab.why(planned)
        entry["why"] = nearest and {"nearest": nearest[0], "differs": {k: list(v) for k, v in nearest[1].items()}}
    return entry


def _show(plan: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    from kdrun.panel import duration

    console = Console()
    data = plan["data"]
    sizes = ", ".join(f"{count} {split}" for split, count in data["sizes"].items())
    tree = Tree(f"[bold]{escape(plan['job']['slug'])}[/]  seeds {plan['job']['seeds']}")
    tree.add(f"data [bold]{data['name']}[/] {escape(data['about'])}: {sizes}")
    for stage in plan["stages"]:
        tree.add(_branch(stage, duration, escape))
    console.print(tree, highlight=False)
    new = plan["estimate"]["stages"]
    console.print(
        f"{new} of {len(plan['stages'])} stages to fit, about {duration(plan['estimate']['seconds'])} (estimate)"
        if new
        else "everything is in the store; running this takes no training",
        highlight=False,
    )


def _branch(stage: dict[str, Any], duration, escape):
    from rich.tree import Tree

    status = {"done": "[green]in the store[/]", "interrupted": "[yellow]interrupted, goes on[/]", "new": "new"}
    branch = Tree(f"[bold]{escape(stage['label'])}[/]  {status[stage['status']]}  [dim]{stage['fingerprint'][:12]}[/]")
    branch.add(
        f"learner {stage['learner']}: {stage['parameters']:,} parameters, {stage['trainable']:,} trainable, "
        f"{_count(stage['flops'])} FLOPs a sample"
    )
    if stage["teacher"]:
        teacher = stage["teacher"]
        disk = f" ({_count(teacher['cache_bytes'])}B on disk)" if teacher["cache_bytes"] else ""
        branch.add(
            f"teacher {teacher['learner']} [dim]{teacher['fingerprint'][:12]}[/], outputs {teacher['source']}{disk}"
        )
    for name, term in stage["objective"].items():
        options = ", ".join(f"{key} {value}" for key, value in term.items() if key != "_target_")
        found = stage["terms"].get(name)
        proof = ""
        if found:
            identity = "" if found["identity"] is None else f", {found['identity']:.1g} when student = teacher"
            proof = f"  [dim]first step: {found['value']:.3f}, gradient {found['gradient']:.3f}{identity}[/]"
        branch.add(f"{name}: {options}{proof}")
    estimate = stage["estimate"]
    if stage["status"] != "done" and estimate["seconds"] is not None:
        branch.add(
            f"{stage['epochs']} epochs, {estimate['steps']} steps, about {duration(estimate['seconds'])}, "
            f"{_count(estimate['flops'])} FLOPs (estimates)"
        )
    why = stage.get("why")
    if why:
        node = branch.add(f"nearest in the store: {why['nearest'][:12]}; differs in")
        for key, (mine, stored) in list(why["differs"].items())[:12]:
            node.add(escape(f"{key}: {_value(stored)} there, {_value(mine)} here"))
    return branch


def _value(value: Any) -> str:
    """A value for one line; of a hash, the first digits are enough to see that it is another."""
    text = repr(value)
    return f"{text[1:13]}..." if isinstance(value, str) and len(value) == 64 else text


def _count(number: float | None) -> str:
    if number is None:
        return "n/a"
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(int(number))
