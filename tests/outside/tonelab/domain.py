"""Tones and their pitches, as kdrun asks for them (see kdrun.domains.base.Domain)."""

from dataclasses import dataclass
from types import MappingProxyType

from kdrun.domains.base import Domain
from kdrun.schema import key


@dataclass
class Hearing:
    """How tones reach an ear."""

    level: float = key(1.0, "factor of what is heard", above=0)
    side: str = key("both", "label of the ear", choices=("left", "right", "both"), left_out="a label")


class Tones(Domain):
    """Waveforms in, one of the pitches out."""

    name = "tones"
    metrics = MappingProxyType({"pitch_accuracy": "max", "loss": "min"})
    monitor = "pitch_accuracy"
    settings = MappingProxyType({"hearing": Hearing})
    supplies = ("num_classes", "in_channels", "rate")

    def source_type(self):
        from tonelab.source import Waveforms

        return Waveforms

    def module(self, source, config, cache):
        from kdrun.data.array_module import ArrayModule
        from kdrun.data.source import SPLITS, TRAIN
        from kdrun.data.splits import assign
        from tonelab.task import ToneSpec

        split = assign(source, config)
        level = source.x[split == TRAIN].std() / config["hearing"]["level"]
        sizes = {name: int((split == part).sum()) for name, part in SPLITS.items()}
        shape = source.x.shape[1:]
        name = config["name"] or source.name
        spec = ToneSpec(name, source.classes, shape, sizes, mean=(0.0,), std=(float(level),))
        return ArrayModule(self, source, split, spec)

    def task(self, module, decoding=None):
        from tonelab.task import Pitch

        return Pitch(module.spec)

    def spec(self, metadata):
        from tonelab.task import ToneSpec

        return ToneSpec.of(metadata)

    def code(self, config):
        return ("tonelab.task", "tonelab.domain")
