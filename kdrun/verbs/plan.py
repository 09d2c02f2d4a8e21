"""kdrun plan: the stages of a job, what is there already, what the rest would cost. Nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kdrun.config.trees import as_typed
from kdrun.job import auto
from kdrun.present.results import vary_text
from kdrun.present.units import count_of, duration, magnitude
from kdrun.term_weights import shown


def main(args) -> int:
    from kdrun.job.compose import compose
    from kdrun.job.plan import make_plan
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
    plan = grid(engine.words, args.conf_dirs, arguments=sys.argv[1:], elsewhere=bool(engine.launcher))
    if args.json:
        print_json(plan)
    else:
        show_plan(plan, Console(), {point.number for point in plan.points if to_run(point)})
    return 0


def _show(plan: dict[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from kdrun.present.console import Console

    console = Console()
    vary = vary_text(plan["job"]["vary"])
    seeds = f"  seeds {_seeds(plan)}" + (f", {vary}" if vary else "")
    tree = Tree(Text.assemble((plan["job"]["slug"], "bold"), seeds))
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
    chosen = plan["job"]["auto"]
    for line in (*(["\n".join(auto.lines(chosen))] if chosen else []), *plan["assumed"]):
        tree.add(Text(line))
    shown: dict[str, str] = {}
    for stage in plan["stages"]:
        role, _, seed = stage["label"].rpartition("/")
        first = shown.setdefault(json.dumps([role, _alike(stage)], sort_keys=True), seed)
        tree.add(_branch(stage) if first == seed else _line(stage, f"as {first}"))
    console.print(tree)
    if least := plan["least"]:
        console.print(f"{least['seeds']} seeds, where seeds=auto looks first: {_cost(least)}")
    of = f" of {count_of(len(plan['stages']), 'stage')}"
    seeds = f"{len(plan['job']['seeds'])} seeds, the most: " if least else ""
    console.print(
        f"{seeds}{_cost(plan['estimate'], of)}"
        if plan["estimate"]["stages"]
        else "every stage is in the store: running this trains nothing"
    )


def _cost(estimate: dict[str, Any], of: str = " stages") -> str:
    """`8 of 9 stages to run, about 12 s (estimate)`; with `, 7 s with 2 at a time` where several are run side by side."""
    seconds, elapsed = estimate["seconds"], estimate["elapsed"]
    if seconds is None:
        return f"{estimate['stages']}{of} to run, their time is not estimated"
    beside = f", {duration(elapsed)} with {estimate['at_once']} at a time" if elapsed < seconds else ""
    return f"{estimate['stages']}{of} to run, about {duration(seconds)}{beside} (estimate)"


def _seeds(plan: dict[str, Any]) -> Any:
    """`[0, 1, 2]`; with seeds=auto `auto, 3 to 20`."""
    seeds = plan["job"]["seeds"]
    return f"auto, {plan['least']['seeds']} to {len(seeds)}" if plan["least"] else seeds


def _alike(stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage is but for its seed: two that are alike are described once."""
    own = {key: value for key, value in stage.items() if key not in ("label", "status", "fingerprint", "start")}
    teacher = stage["teacher"] and {key: value for key, value in stage["teacher"].items() if key != "fingerprint"}
    return {**own, "teacher": teacher, "fitted": stage["status"] == "done"}


def _with(differs: dict[str, Any] | None) -> str:
    """` (part=captions)`: how data are not those of the job."""
    return f" ({', '.join(f'{key}={as_typed(value)}' for key, value in differs.items())})" if differs else ""


def _shown(estimate: dict[str, Any]) -> str:
    """` of 9,216 samples with and 0 without a label`, where not all have one."""
    shown = estimate.get("shown")
    return f" of {shown['labelled']:,} samples with and {shown['unlabelled']:,} without a label" if shown else ""


def _line(stage: dict[str, Any], more: str = ""):
    from rich.text import Text

    words = {"done": ("in the store", "green"), "interrupted": ("interrupted, is continued", "yellow"), "new": "new"}
    fingerprint = (stage["fingerprint"][:12], "dim")
    return Text("  ").join(
        Text.assemble(part) for part in ((stage["label"], "bold"), words[stage["status"]], fingerprint, more) if part
    )


def _branch(stage: dict[str, Any]):
    from rich.text import Text
    from rich.tree import Tree

    branch = Tree(_line(stage))
    if about := stage.get("about"):
        for line in about:
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
    for peer in stage.get("peers") or ():
        branch.add(f"trained together with {peer['name']}: {peer['learner']}, seed {peer['seed']}")
    if stage.get("generated"):
        branch.add(f"targets of training samples from {stage['generated']}")
    for name, term in stage["objective"].items():
        options = ", ".join(
            f"{key} {shown(value) if key == 'weight' else value}" for key, value in term.items() if key != "_target_"
        )
        found = stage["terms"].get(name)
        proof = ""
        if found:
            identity = "" if found["identity"] is None else f", {found['identity']:.1g} when student = teacher"
            proof = f"  first step: {found['value']:.3f}, gradient {found['gradient']:.3f}{identity}"
        branch.add(Text.assemble(f"{name}: {options}", (proof, "dim")))
    if stage["untrained"] and stage["terms"]:
        who = " and ".join(dict.fromkeys(stage["untrained"]))
        branch.add(Text(f"first step with random weights of {who}: not in the store yet", "dim"))
    estimate, seconds = stage["estimate"], stage["estimate"]["seconds"]
    if stage.get("too_large"):
        branch.add(f"no step was computed for this plan: {stage['too_large']}")
    if stage["status"] != "done" and stage["epochs"] and (needed := stage.get("memory_gb")) and needed["total"]:
        branch.add(f"memory of a device about {magnitude(1e9 * needed['total'])}B (estimate)")
    if stage["status"] != "done" and stage["epochs"] and estimate["steps"]:
        where = estimate.get("on")
        time = (
            "time not estimated"
            if seconds is None
            else f"about {duration(seconds)}{'' if where in ('cpu', 'local') else f' on {where}'}"
        )
        branch.add(
            f"{stage['epochs']} epochs{_with(stage['data_differs'])}, {estimate['steps']} steps{_shown(estimate)}, {time}, "
            f"{magnitude(estimate['flops'])} FLOPs (estimates)"
        )
    return _with_why(branch, stage)


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
