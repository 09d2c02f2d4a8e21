"""From the record of a finished run to its networks: which stages they are, and which data each of them was for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrun import kinds
from kdrun.files import read_json
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.parts import WHOLE, epoch_of, is_group, parts_of
from kdrun.problems import UserError, closest, listed
from kdrun.schema import Data, added
from kdrun.tracking.registry import RunInfo

ARMS = ("teacher", "alone", "student")
Tell = Callable[[str], None]


def subjects(
    run: RunInfo,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    which: str | None = None,
    tell: Tell = lambda line: None,
) -> list[TrainedNetwork]:
    """The networks of a finished run: teacher, student alone and student (those of them that the run has).

    seeds  default: the run's first; a teacher that all seeds share is there for any
    arms   names of arms in place of these three: also controls
    which  best or last epoch; default: see parts.epoch_of
    tell   told in a line what is left out and why (several networks together have no weights of their own)

    An arm of several networks gives one subject for each: of every view, of every client.
    UserError where the run is not finished, an arm or a seed is not there, or files are missing or damaged.
    """
    modules: dict[str, Any] = {}
    return [open_subject(run, chosen, modules) for chosen in stages_of(run, seeds, arms, which, tell)]


def stages_of(
    run: RunInfo, seeds: Sequence[int] | None, arms: Sequence[str] | None, which: str | None, tell: Tell
) -> list[dict[str, Any]]:
    """[{"arm", "part", "stage": entry of the record, "which": epoch, "file": name in the stage's folder}], without reading weights."""
    if which not in (None, "best", "last"):
        raise UserError(f"which={which}: best or last")
    record = run.known_record()
    entries = record.get("stages") or []
    if not entries:
        raise UserError(f"{run.id} ({run.status}) has no finished stage yet", f"to continue it: kdrun rerun {run.id}")
    roles = list(dict.fromkeys(stage["role"] for stage in entries))
    named = arms is not None
    if named and "student" in arms and "student" not in roles and "alone" in roles:
        arms = ["alone" if arm == "student" else arm for arm in arms]  # the own result of a strategy without a teacher
    found = []
    for arm in arms or [arm for arm in ARMS if arm in roles]:
        if arm not in roles:
            raise UserError(f"{run.id} has no arm '{arm}'{closest(arm, roles)}", f"it has: {listed(roles)}")
        # The last stage of a seed: where a strategy fits the student several times, that is its result.
        own = {stage["seed"]: stage for stage in entries if stage["role"] == arm}
        for seed in seeds if seeds is not None else [next(iter(own))]:
            if seed not in own and not (arm == "teacher" and len(own) == 1):
                raise UserError(f"{arm} of {run.id} has no seed {seed}; it has: {listed(map(str, own))}")
            stage = own.get(seed) or next(iter(own.values()))
            epoch = which or epoch_of(record, arm)
            found += [one for one in _networks(run, arm, stage, entries, epoch, tell) if one not in found]
    if not found:
        raise UserError(f"{run.id} has no network to export; its arms: {listed(roles)}", "name one: arm=NAME")
    return found


def _networks(
    run: RunInfo, arm: str, stage: dict[str, Any], entries: list[dict[str, Any]], which: str, tell: Tell
) -> Iterator[dict[str, Any]]:
    """The networks of one arm and seed: one for each part of the result that has weights of its own, else one."""
    # A network that learned several tasks is one, whatever the parts of its result.
    parts = {} if stage.get("tasks") else parts_of(stage, entries)
    if is_group(stage):
        tell(f"{stage['label']} is {len(parts)} networks together, without weights of its own: each is taken by itself")
    there = [part for part in parts.values() if (stage_folder(run, part.stage) / part.weights(which)).is_file()]
    if (
        WHOLE not in parts
        and any(part.file for part in there)
        and (stage_folder(run, stage) / f"{which}.safetensors").is_file()
    ):
        tell(f"{stage['label']}: what travels between its parts is not its result, and is left out")
    for part in there:
        name = None if part.name == WHOLE else part.name
        yield {"arm": arm, "part": name, "stage": part.stage, "which": which, "file": part.weights(which)}
    if not there and not is_group(stage):
        yield {"arm": arm, "part": None, "stage": stage, "which": which, "file": f"{which}.safetensors"}


def stage_folder(run: RunInfo, stage: dict[str, Any]) -> Path:
    """Where a stage of a run lies, its files verified. UserError where it is gone or damaged."""
    from kdrun.lab.store import DamagedStage, Store

    store, again = Store(_job(run).config["paths"]["store"]), f"fit it again: kdrun rerun {run.id}"
    try:
        if store.get(stage["fingerprint"]) is None:
            raise UserError(f"{stage['label']} of {run.id} is not in the store {store.root}", again)
    except DamagedStage as damage:
        raise UserError(str(damage), again) from damage
    return store.folder(stage["fingerprint"])


def load_network(run: RunInfo, stage: dict[str, Any], which: str = "best", file: str | None = None) -> Any:
    """The trained network of a stage of the run's record, on the CPU, in eval mode. `network.kdrun` says what its inputs are, and
    where it is from."""
    from kdrun.hardware.exports.load import open_network

    network, _, metadata = open_network(_weights(run, stage, file or f"{which}.safetensors"))
    known = {name: value for name, value in metadata.items() if name not in ("network", "kind")}
    origin = {"run": run.id, "stage": stage["label"], "fingerprint": stage["fingerprint"], "which": which}
    network.kdrun = {**known, **origin}
    return network


def _weights(run: RunInfo, stage: dict[str, Any], file: str) -> Path:
    path = stage_folder(run, stage) / file
    if not path.is_file():
        raise UserError(f"{stage['label']} of {run.id} kept no weights: {path.name} is not in its folder")
    return path


def open_subject(
    run: RunInfo, chosen: dict[str, Any], modules: dict[str, Any] | None = None, *, unchanged: bool = False
) -> TrainedNetwork:
    """The network of an entry of `stages_of`, with its data. modules: data modules of earlier calls, by their config.

    unchanged: UserError where the data are not, to the byte, those that it was trained and tested on."""
    from kdrun.domains.load import content_hash
    from kdrun.hardware.exports.load import open_network
    from kdrun.networks.inputs import check_data

    stage, part, arm = chosen["stage"], chosen["part"], chosen["arm"]
    weights = _weights(run, stage, chosen["file"])
    job = _job(run)
    config = job.config
    with job.allowing():
        data, parts = _config(weights.parent, config, stage["role"])
        if unchanged and content_hash(data, config["paths"]) != (parts.get("data") or {}).get("content"):
            raise UserError(f"the data {data['name']} have changed since {stage['label']} of {run.id} was trained")
        module = _module(data, config["paths"], parts, stage["seed"], part, {} if modules is None else modules)
        network, _, metadata = open_network(weights)
    check_data(metadata, module.spec, weights)
    return TrainedNetwork(
        arm=arm,
        label=f"{arm} {part}" if part else arm,
        seed=stage["seed"],
        stage=weights.parent,
        weights=weights,
        which=chosen["which"],
        network=network.requires_grad_(False),
        node=metadata["network"],
        spec=module.spec,
        module=module,
        task=module.task(config["trainer"].get("decoding")),
        part=part,
        source={
            "run": run.id,
            "job_hash": run.record["job_hash"],
            "stage": stage["label"],
            "fingerprint": stage["fingerprint"],
        },
        targets=tuple(config["targets"]),
    )


def data_of(run: RunInfo, stage: dict[str, Any]) -> Any:
    """The data as a stage of the run saw them."""
    config = _job(run).config
    data, parts = _config(stage_folder(run, stage), config, stage["role"])
    return _module(data, config["paths"], parts, stage["seed"], None, {})


def _job(run: RunInfo) -> Any:
    from kdrun.tracking.jobs import job_from_record

    return job_from_record(run.record, run.dir.resolve().parent.parent)


def _config(folder: Path, config: dict[str, Any], role: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the data config of a stage: that of the run, in the view (window, limits ...) that the stage says it had; what determined the stage)."""
    parts = read_json(folder / "record.json").get("parts") or {}
    view = dict((parts.get("data") or {}).get("view") or {})
    # A tokenizer that is given stands in a view by its content; its path is the run's.
    nodes = [key for key in kinds.settings(config["data"]["task"]) if isinstance(view.get(key), dict)]
    view |= {key: {**(config["data"].get(key) or {}), **view[key]} for key in nodes}
    if view.get(
        "unlabelled"
    ):  # nor has it the path of samples without labels, and a teacher may have others than its student
        own = (config.get(role) or (config.get("assistants") or {}).get(role) or {}).get("data") or {}
        view["unlabelled"] = {**(own.get("unlabelled") or config["data"]["unlabelled"] or {}), **view["unlabelled"]}
    # What came later and has its default is left out of the view, and may be another value in the run's data.
    usual = {key: value for key, value in added(Data).items() if "." not in key and key not in kinds.settings()}
    return {**config["data"], **(usual if view else {}), **view}, parts


def _module(
    data: dict[str, Any],
    paths: dict[str, str],
    parts: dict[str, Any],
    seed: int,
    part: str | None,
    modules: dict[str, Any],
) -> Any:
    """The data of a stage (see _config)."""
    from kdrun.domains.load import load_data
    from kdrun.federation.shares import data_of_part

    key = json.dumps(data, sort_keys=True)
    if key not in modules:
        modules[key] = load_data(data, paths)
    return data_of_part(modules[key], parts, seed, part)
