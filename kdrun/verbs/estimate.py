"""What a job would take whose data are not here, from its networks on the meta device and published sizes of its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdrun.problems import UserError
from kdrun.schema import REQUIRED
from kdrun.verbs.stage_recorder import StageRecorder

NOTHING = "data.root is not given: nothing is loaded, sizes of the data are those of the preset (extra.planned)"
KIND = "kdrun.domains.vision_language.networks.llava"


def wanted(config: Mapping[str, Any]) -> bool:
    """Whether the data have to be given, are not, and `extra.planned` says how many there would be."""
    places = [config["data"][key] for key in ("root", "file") if key in config["data"]]
    return bool(planned(config)) and any(place in (REQUIRED, None) for place in places)


def planned(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`extra.planned`: {"samples", "first_samples", "tokens", "first_tokens", "vocabulary"}, tokens of text in a sample; of images
    {"shape", "classes", "train"} as `requires` of a table."""
    return (config.get("extra") or {}).get("planned") or {}


def main(job: Any, args: Any) -> int:
    """Print (or with --json dump) the estimates of one seed's stages; nothing is loaded."""
    from kdrun.hardware.cost import lines, rows
    from kdrun.ledger.figures import read_figures

    config = job.cells[0]
    figures = read_figures(args.conf_dirs)
    chosen = config["hardware"]["name"]
    trains = {name: found for name, found in figures.items() if any(found.peak_tflops.values())}
    targets = {chosen: figures[chosen]} if chosen in trains else trains
    if "shape" in planned(config):
        from kdrun.verbs.estimate_images import image_lines, image_rows

        found = image_rows(config, planned(config), targets)
        text = [json.dumps({"estimate": found}, indent=2)] if args.json else [NOTHING, *image_lines(found)]
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

    sizes = Networks(config)
    lab = StageRecorder(sizes)
    lab.ask(config)
    said, vision, precision = planned(config), config["data"]["vision"], config["hardware"]["precision"]
    precision = "bf16" if config["hardware"]["device"] == "auto" else precision
    works = []
    for stage in lab.stages:
        first = stage.role.endswith("_first")
        slots = vision["image_tokens"]
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
                devices=stage.hardware["devices"], accumulate=stage.trainer["accumulate"],
            )
        )  # fmt: skip
    return works, sizes.notes


class Networks:
    """Networks of a run on the meta device, each built once."""

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.notes = config, []
        self._found: dict[str, Any] = {}

    def of(self, node: Mapping[str, Any]) -> Any:
        """An object with counts {part: parameters}, lora (parameters of adapters), width and layers of the language model."""
        key = json.dumps(node, sort_keys=True)
        if key not in self._found:
            self._found[key] = self._look(node)
        return self._found[key]

    def _look(self, node: Mapping[str, Any]) -> Any:
        from types import SimpleNamespace

        import torch

        from kdrun.networks.parts import parts_of
        from kdrun.targets import build

        if not node["_target_"].startswith(KIND):
            raise UserError(f"{node['_target_']}: only networks of {KIND} can be planned without data")
        vision, said = self.config["data"]["vision"], planned(self.config)
        known = {"pad": 0, "bos": 0, "eos": 1, "vocabulary": said["vocabulary"], "image_token": said["vocabulary"] - 1}
        known |= {
            "image_tokens": vision["image_tokens"],
            "image_size": vision["size"],
            "max_length": vision["max_length"],
        }
        with torch.device("meta"):
            network = build({**node, "lora": None}, "network", **known)
            whole = build(dict(node), "network", **known) if node.get("lora") else network
        counts = {
            name: sum(p.numel() for n, p in network.named_parameters() if n.startswith(tuple(f"{m}." for m in modules)))
            for name, modules in parts_of(network).items()
        }
        lora = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in network.parameters())
        text = network.model.config.text_config
        name = node.get("language_model") or node["_target_"]
        self.notes += [f"{name}: {', '.join(f'{part} {number / 1e6:,.0f} M' for part, number in counts.items())}"]
        self.notes += [f"{name}: {note}" for note in getattr(network, "notes", ())]
        return SimpleNamespace(counts=counts, lora=lora, width=text.hidden_size, layers=text.num_hidden_layers)
