"""What a job would take whose data are not here, from its networks on the meta device and published sizes of its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdrun.nodes import world_of
from kdrun.schema import REQUIRED
from kdrun.verbs.estimate_networks import LanguageNetworks, Networks, planned
from kdrun.verbs.stage_recorder import StageRecorder

NOTHING = "data.root is not given: nothing is loaded, sizes of the data are those of the preset (extra.planned)"


def wanted(config: Mapping[str, Any]) -> bool:
    """Whether the data have to be given, are not, and `extra.planned` says how many there would be."""
    places = [config["data"][key] for key in ("root", "file") if key in config["data"]]
    return bool(planned(config)) and any(place in (REQUIRED, None) for place in places)


def main(job: Any, args: Any) -> int:
    """Print (or with --json dump) the estimates of one seed's stages; nothing is loaded."""
    from kdrun.hardware.cost import lines, rows
    from kdrun.ledger.figures import read_figures

    config = job.cells[0]
    figures = read_figures(args.conf_dirs)
    chosen = config["hardware"]["name"]
    trains = {name: found for name, found in figures.items() if any(found.peak_tflops.values())}
    targets = {chosen: figures[chosen]} if chosen in trains else trains
    if not any(config["data"].get(kind) for kind in ("vision", "language")):
        from kdrun.verbs.estimate_steps import step_lines, step_rows

        found = step_rows(config, planned(config), targets)
        text = [json.dumps({"estimate": found}, indent=2)] if args.json else [NOTHING, *step_lines(found)]
        print("\n".join(text))
        return 0
    works, notes = works_of(config)
    utilisation = float(planned(config).get("utilisation", 0.4))
    if args.json:
        print(json.dumps({"estimate": rows(works, targets, utilisation), "notes": notes}, indent=2))
        return 0
    print(NOTHING)
    for line in (*notes, *lines(works, targets, utilisation)):
        print(line)
    return 0


def works_of(config: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """(hardware.cost.StageWork of every stage, in order and each once; what is to be known of the networks)."""
    from kdrun.hardware.cost import ParameterGroup, StageWork, llava_parts
    from kdrun.learning.footprint import optimizer_share
    from kdrun.learning.groups import passes_of

    vision = config["data"].get("vision")
    sizes = Networks(config) if vision else LanguageNetworks(config)
    lab = StageRecorder(sizes)
    lab.ask(config)
    said, precision = planned(config), config["hardware"]["precision"]
    precision = "bf16" if config["hardware"]["device"] == "auto" else precision
    works = []
    for stage in lab.stages:
        if stage.trainer is None:  # weights that are brought along are only evaluated
            continue
        first = stage.role.endswith("_first")
        slots = vision["image_tokens"] if vision else 0
        tokens = slots + said["first_tokens" if first else "tokens"]
        found = sizes.of(stage.learner["network"])
        parts = llava_parts(found.counts, stage.trainer["parts"], tokens=tokens, image_tokens=slots, lora=found.lora)
        seen = {"language_model": tokens}
        teachers = [
            [ParameterGroup(name, number, seen.get(name, slots)) for name, number in counts.items()]
            for counts in (sizes.of(teacher.stage.learner["network"]).counts for teacher in stage.teachers)
        ]
        works.append(
            StageWork(
                stage.role, parts, samples=said["first_samples" if first else "samples"], epochs=stage.trainer["epochs"],
                batch=stage.trainer["batch_size"], tokens=tokens, teachers=teachers, precision=precision,
                width=found.width, layers=found.layers, vocabulary=said["vocabulary"],
                devices=world_of(stage.hardware), accumulate=stage.trainer["accumulate"],
                shards=world_of(stage.hardware) if stage.trainer.get("sharding") == "fsdp" else 1,
                optimizer_bytes=4 * optimizer_share(stage.trainer["optimizer"]),
                passes=passes_of(stage.trainer),
            )
        )  # fmt: skip
    return works, sizes.notes
