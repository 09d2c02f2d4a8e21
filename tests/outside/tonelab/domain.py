"""Tones and their pitches, as kdrun asks for them (see kdrun.domains.base.Domain)."""

from types import MappingProxyType

from kdrun.domains.base import Domain


class Tones(Domain):
    """Waveforms in, one of the pitches out."""

    name = "tones"
    metrics = MappingProxyType({"pitch_accuracy": "max", "loss": "min"})
    monitor = "pitch_accuracy"

    def source_type(self):
        from tonelab.source import Waveforms

        return Waveforms

    def module(self, source, config, cache):
        from kdrun.data.module import ArrayModule
        from kdrun.data.source import SPLITS, TRAIN
        from kdrun.data.splits import assign
        from tonelab.task import ToneSpec

        split = assign(source, config)
        level = source.x[split == TRAIN].std()
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
