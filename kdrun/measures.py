"""How the metrics of tasks are called and shown. All scores are shares in 0..1 in records; people read them times 100."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """name: as in records. label, unit: for people; factor, digits: how a value becomes a figure. better: max or min."""

    name: str
    label: str
    help: str
    better: str = "max"
    unit: str = "%"
    factor: float = 100.0
    digits: int = 2

    @property
    def title(self) -> str:
        """`accuracy, %`, `BLEU`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """`94.31 %`, `27.80` (BLEU and chrF have no unit)."""
        unit = f" {self.unit}" if self.unit == "%" else ""
        return f"{self.factor * value:.{self.digits}f}{unit}"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "accuracy", "share of right answers"),
        Measure("top5", "top5", "share of samples whose class is among the five most likely"),
        Measure("worst_class", "worst class", "accuracy of the class with the lowest one"),
        Measure("calibration", "calibration", "expected calibration error", "min"),
        Measure("token_accuracy", "token accuracy", "share of right next tokens, the reference given up to there"),
        Measure("bleu", "BLEU", "sacreBLEU of generated text", unit=""),
        Measure("chrf", "chrF", "character n-gram F-score of generated text", unit=""),
        Measure("loss", "loss", "cross-entropy in nats", "min", "nats", 1.0, 4),
    )
}


def measure(name: str | None) -> Measure:
    """The measure of that name; of a name nobody declared (a user's own task), its plain value. None: accuracy."""
    return MEASURES.get(name or "accuracy") or Measure(str(name), str(name), "", unit="", factor=1.0, digits=4)
