"""Networks of a job whose data and weights are not here, on the meta device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from kdrun.problems import UserError, listed

KIND = "kdrun.domains.vision_language.networks.llava"
LANGUAGE = "kdrun.domains.language.networks.causal_lm.HuggingFaceCausalLM"


def planned(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`extra.planned`: {"samples", "first_samples", "tokens", "first_tokens", "vocabulary"}, tokens of text in a sample; of language models also
    "networks": [{"model": name, and fields of its configuration}]; of images
    {"shape", "classes", "train"} as `requires` of a table."""
    return (config.get("extra") or {}).get("planned") or {}


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


class LanguageNetworks(Networks):
    """As Networks. A network with a name is built from the fields that `extra.planned.networks` has under it."""

    def _look(self, node: Mapping[str, Any]) -> Any:
        import torch

        from kdrun.targets import build

        if node["_target_"] != LANGUAGE:
            raise UserError(f"{node['_target_']}: only networks of {LANGUAGE} can be planned without data")
        said, name = planned(self.config), node.get("model")
        known = {"vocabulary": said["vocabulary"], "pad": 0, "eos": 1, "max_length": self._rows()}
        fields = node.get("config")
        if name is not None:
            known_fields = {each["model"]: each for each in said.get("networks") or ()}
            if name not in known_fields:
                raise UserError(
                    f"network.model={name}: extra.planned.networks has no fields of it, it has {listed(known_fields)}",
                    "with data.root=FILE and the weights here it is planned as any other",
                )
            fields = {key: value for key, value in known_fields[name].items() if key != "model"}
        made = {**node, "model": None, "config": fields}
        with torch.device("meta"):
            network = build({**made, "lora": None}, "network", **known)
            whole = build(made, "network", **known) if node.get("lora") else network
        count = sum(parameter.numel() for parameter in network.parameters())
        added = sum(parameter.numel() for parameter in whole.parameters()) - count
        self.notes += [f"{name or fields['model_type']}: {count / 1e6:,.0f} M parameters"]
        sizes = network.model.config
        return SimpleNamespace(
            counts={"language_model": count}, lora=added, width=sizes.hidden_size, layers=sizes.num_hidden_layers
        )

    def _rows(self) -> int:
        return self.config["data"]["language"]["max_length"]
