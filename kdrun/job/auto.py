"""`student=auto`: the largest network of a family that meets the target's deadline, chosen before the config is frozen.

What is frozen, hashed and run is an ordinary `student=NAME`; how it was chosen is told beside it (`Job.auto`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdrun.problems import UserError, listed

if TYPE_CHECKING:
    from kdrun.config.compose import Job

WORD = "student=auto"
FAMILY = "student.family"
CALLS = 200


def asked(overrides: Sequence[str]) -> bool:
    return WORD in overrides


def compose_auto(overrides: Sequence[str], conf_dirs: Sequence[str], compose: Callable[..., Job]) -> Job:
    """The job with the student chosen. Job.auto: {"target", "precision", "deadline_ms", "kind": "measured" or "estimate",
    "method", "candidates": [{"name", "parameters", "ms", "meets"}], "chosen"}.

    Candidates are the options named in `student.family=[a,b]`, else those of the model: its student and its assistants. ms is p99 of
    a sample on this machine where it is the target, else the estimate of ledger.roofline.
    Raises UserError where there is no deadline, no candidate, or none that meets it.
    """
    words, family = _split(overrides)
    first = compose(words, conf_dirs)
    deadline = first.config["hardware"]["deploy"]["deadline_ms"]
    if deadline is None:
        from kdrun.hardware.targets import read_targets

        having = [name for name, target in read_targets(conf_dirs).items() if target.deploy["deadline_ms"]]
        raise UserError(
            f"{WORD} needs a deadline, and hardware={first.config['hardware']['name']} has none",
            f"hardware.deploy.deadline_ms=10, or a target with one: {listed(having)}",
        )
    names = family or _of_model(first, conf_dirs)
    jobs = {name: compose([*words, f"student={name}"], conf_dirs) for name in names}
    with ExitStack() as allowed:
        for job in jobs.values():
            allowed.enter_context(job.allowing())
        kind, method, found = _times(jobs, conf_dirs)
    for one in found:
        one["meets"] = one["ms"] is not None and one["ms"] <= deadline
    target, precision = first.config["hardware"]["name"], first.config["hardware"]["deploy"]["precision"]
    meeting = [one for one in found if one["meets"]]
    if not meeting:
        raise _none_meets(found, target, precision, deadline, kind)
    chosen = max(meeting, key=lambda one: one["parameters"])["name"]
    auto = {
        "target": target,
        "precision": precision if kind == "estimate" else "fp32",
        "deadline_ms": deadline,
        "kind": kind,
        "method": method,
        "candidates": found,
        "chosen": chosen,
    }
    return replace(jobs[chosen], auto=auto)


def lines(auto: dict[str, Any]) -> list[str]:
    """For people: the choice, then each candidate, the largest first."""
    word = "" if auto["kind"] == "measured" else " (estimate)"
    said = [
        f"{WORD}: {auto['chosen']}, the largest within {auto['deadline_ms']:g} ms on {auto['target']} in {auto['precision']}{word}"
    ]
    for one in auto["candidates"]:
        time = "n/a" if one["ms"] is None else f"{one['ms']:.3g} ms{word}"
        said.append(
            f"  {one['name']}: {one['parameters']:,} parameters, {time}{'' if one['meets'] else ', does not meet it'}"
        )
    return said


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other words, names of the family)."""
    words, family = [], []
    for word in overrides:
        key, _, value = word.partition("=")
        if key == FAMILY:
            family = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
        elif word != WORD:
            words.append(word)
    return words, list(dict.fromkeys(family))


def _of_model(job: Job, conf_dirs: Sequence[str]) -> list[str]:
    """Options of the group `student` that the model names: its student and its assistants."""
    options = _options(conf_dirs)
    names = [job.choices.get("student"), *job.config["assistants"]]
    found = [name for name in dict.fromkeys(names) if name in options]
    if len(found) < 2:
        raise UserError(
            f"{WORD}: model={job.choices.get('model')} names no family to choose from",
            f"{FAMILY}=[resnet8_w2,resnet8_w4,resnet8]",
        )
    return found


def _options(conf_dirs: Sequence[str]) -> list[str]:
    from kdrun.config.groups import conf_dirs as folders
    from kdrun.config.groups import groups

    return sorted(groups(folders(conf_dirs)[0]).get("student", {}))


def _times(jobs: dict[str, Job], conf_dirs: Sequence[str]) -> tuple[str, str, list[dict[str, Any]]]:
    """("measured" or "estimate", how, candidates without `meets`, the largest first)."""
    from kdrun.domains.load import load_data
    from kdrun.hardware.targets import read_targets
    from kdrun.learning.device import resolve
    from kdrun.ledger import roofline
    from kdrun.ledger.figures import figures_in
    from kdrun.networks.build import build_network

    some = next(iter(jobs.values())).config
    module = load_data(some["data"], some["paths"])
    hardware = some["hardware"]
    target = read_targets(conf_dirs).get(hardware["name"])
    figures = figures_in(hardware)
    here = figures is None if target is None else target.here
    found = []
    for name, job in jobs.items():
        network = build_network(job.config["student"]["network"], module.spec, seed=0)
        if here:
            node = job.config["student"]["network"]
            ms = _measured(name, network, node, module, resolve(hardware))
        else:
            estimate = roofline.estimate(network, module.task().typical, figures, hardware["deploy"]["precision"])
            ms = None if estimate is None else estimate.ms
        parameters = sum(parameter.numel() for parameter in network.parameters())
        found.append({"name": name, "parameters": parameters, "ms": ms})
    method = f"p99 of {CALLS} calls with one sample, by torch" if here else roofline.METHOD
    return "measured" if here else "estimate", method, sorted(found, key=lambda one: -one["parameters"])


def _measured(name: str, network: Any, node: dict[str, Any], module: Any, hardware: dict[str, Any]) -> float:
    """p99 in milliseconds of one validation sample through the untrained network, by torch: weights do not change it."""
    from pathlib import Path

    from kdrun.hardware.exports.measure import latency
    from kdrun.hardware.exports.sessions import TorchSession
    from kdrun.hardware.exports.subject import TrainedNetwork

    nowhere = Path()
    subject = TrainedNetwork(
        name, name, 0, nowhere, nowhere, "best", network.eval(), node, module.spec, module, module.task()
    )
    session = TorchSession(subject.bare(), hardware["threads"], hardware["device"])
    try:
        arrays = [tensor.numpy() for tensor in subject.inputs("val", 1)]
        return latency(session, arrays, calls=CALLS)["p99_ms"]
    finally:
        session.close()


def _none_meets(found: list[dict[str, Any]], target: str, precision: str, deadline: float, kind: str) -> UserError:
    known = [one for one in found if one["ms"] is not None]
    if not known:
        return UserError(
            f"{WORD}: no time can be estimated on {target} in {precision}: its file has no figures for it",
            "choose another hardware.deploy.precision, or name a student",
        )
    best = min(known, key=lambda one: one["ms"])
    word = " (estimate)" if kind == "estimate" else ""
    return UserError(
        f"{WORD}: no network of the family is within {deadline:g} ms on {target} in {precision}",
        f"closest: {best['name']} with {best['ms']:.3g} ms{word}; hardware.deploy.deadline_ms={best['ms']:.2g} would be met, or "
        f"smaller networks in {FAMILY}=[...]",
    )
