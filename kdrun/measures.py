"""How the metrics of tasks are called and shown. All scores are shares in 0..1 in records; people read most times 100."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


def deviation_of_share(score: float) -> float:
    """Of right answers, and an upper bound for other means of values in 0..1."""
    return math.sqrt(max(score * (1 - score), 0.0))


def deviation_of_auc(score: float) -> float:
    """Pairs are of the smaller class: with a quarter of the samples, twice the deviation (A (1 - A) / min(m, n) bounds the variance)."""
    return 2 * deviation_of_share(score)


def deviation_of_r2(score: float) -> float:
    """Squared errors deviate by sqrt(2) times their mean where residuals are normal; twice leaves room for heavier tails."""
    return 2 * (1 - score)


def deviation_of_loss(score: float) -> float:
    """As those of `deviation_of_r2`: twice the mean."""
    return 2 * score


@dataclass(frozen=True)
class Measure:
    """name: as in records. label, unit: for people; factor, digits: how a value becomes a figure. better: max or min.

    deviation   a score -> the standard deviation of what one sample adds to its mean, where nothing was kept of samples; None: not known
    signed      differences of scores: below 0 as well
    resampled   runs keep what it is made of for single test samples (Domain.sums, or probabilities), so that tables have NAME_difference
    """

    name: str
    label: str
    help: str
    better: str = "max"
    unit: str = "%"
    factor: float = 100.0
    digits: int = 2
    deviation: Callable[[float], float] | None = None
    resampled: bool = False
    signed: bool = False

    @property
    def title(self) -> str:
        """`accuracy, %`, `BLEU`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def points(self) -> bool:
        """Whether differences are told in points, hundredths of a share; the AUC's and those of R2 are."""
        share = self.unit == "%" or (not self.unit and self.better == "max")
        return share and self.name.partition("/")[0] in MEASURES

    def figure(self, value: float) -> str:
        """`94.31`, `0.9123`: without the unit, for a column that names it."""
        return f"{self.factor * value:.{self.digits}f}"

    def text(self, value: float) -> str:
        """`94.31 %`, `27.80` (BLEU and chrF have no unit)."""
        return self.figure(value) + (f" {self.unit}" if self.unit == "%" else "")


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "accuracy", "share of right answers", deviation=deviation_of_share, resampled=True),
        Measure(
            "top5", "top5", "share of samples whose class is among the five most likely", deviation=deviation_of_share
        ),
        Measure("worst_class", "worst class", "accuracy of the class with the lowest one"),
        Measure("calibration", "calibration", "expected calibration error", "min"),
        Measure("wrong_steps", "wrong steps", "share of steps whose own answer is wrong", "min"),
        Measure("firing_rate", "firing rate", "mean number of spikes of a neuron in a step", "min"),
        Measure(
            "token_accuracy",
            "token accuracy",
            "share of right next tokens, the reference given up to there",
            deviation=deviation_of_share,
            resampled=True,
        ),
        Measure("bleu", "BLEU", "sacreBLEU of generated text", unit="", deviation=deviation_of_share, resampled=True),
        Measure(
            "chrf",
            "chrF",
            "character n-gram F-score of generated text",
            unit="",
            deviation=deviation_of_share,
            resampled=True,
        ),
        Measure(
            "auc",
            "AUC",
            "area under the ROC curve, a mean of each class against the rest",
            "max",
            "",
            1.0,
            4,
            deviation=deviation_of_auc,
            resampled=True,
        ),
        Measure("auroc", "AUROC", "area under the ROC curve of scores beside the main one", "max", "", 1.0, 4),
        Measure("spearman", "Spearman", "correlation of the ranks of outputs and targets", "max", "", 1.0, 4),
        Measure("pearson", "Pearson", "correlation of outputs and targets", "max", "", 1.0, 4, resampled=True),
        Measure("f1", "macro F1", "mean over classes, or labels, of the F1 of each"),
        Measure("mcc", "MCC", "correlation of predicted and true classes (Matthews)", "max", "", 1.0, 4),
        Measure("f1_micro", "micro F1", "F1 over all samples and labels together", resampled=True),
        Measure(
            "sensitivity",
            "sensitivity",
            "share of positives that are found, at the threshold of validation",
            deviation=deviation_of_share,
        ),
        Measure(
            "specificity",
            "specificity",
            "share of negatives that are left alone, at the threshold of validation",
            deviation=deviation_of_share,
        ),
        Measure(
            "r2",
            "R2",
            "share of the variance of the target that is explained",
            "max",
            "",
            1.0,
            4,
            deviation=deviation_of_r2,
            resampled=True,
        ),
        Measure("rmse", "RMSE", "root of the mean squared error, in units of the target", "min", "units", 1.0, 3),
        Measure("mae", "MAE", "mean absolute error, in units of the target", "min", "units", 1.0, 3),
        Measure(
            "bits_per_byte",
            "bits per byte",
            "cross-entropy of the text in bits, over its bytes",
            "min",
            "bits",
            1.0,
            4,
            resampled=True,
        ),
        Measure("perplexity", "perplexity", "exponential of the cross-entropy per token", "min", "", 1.0, 2),
        Measure(
            "exact_match",
            "exact match",
            "share of samples of which every label is right, or of written texts that are the reference",
        ),
        Measure(
            "success",
            "success",
            "share of questions or tasks whose answer, carried out, is right",
            deviation=deviation_of_share,
            resampled=True,
        ),
        Measure("rouge1", "ROUGE-1", "F-score of words that a written text and its reference have in common", unit=""),
        Measure("rougeL", "ROUGE-L", "F-score of their longest common subsequence of words", unit=""),
        Measure("distinct2", "distinct-2", "share of pairs of words in written texts that are different ones"),
        Measure("generated_tokens", "length", "mean length of written texts", "max", "tokens", 1.0, 1),
        Measure(
            "forgetting",
            "forgetting",
            "of tasks one after another: best score of a task before the last one minus its last, mean",
            "min",
            signed=True,
        ),
        Measure(
            "backward_transfer",
            "backward transfer",
            "of tasks one after another: last score of a task minus that when it was learned, mean",
            signed=True,
        ),
        Measure(
            "forward_transfer",
            "forward transfer",
            "of tasks one after another: score of a task just before it is learned minus that of random weights, mean",
            signed=True,
        ),
        Measure(
            "loss",
            "loss",
            "cross-entropy in nats; of a regression, squared error",
            "min",
            "nats",
            1.0,
            4,
            deviation=deviation_of_loss,
        ),
    )
}


def measure(name: str | None) -> Measure:
    """The measure of that name; of a name nobody declared (a user's own task), its plain value. None: accuracy.

    A score of a part, such as `auc/lung` or `accuracy/colour`, is shown as the score is: `AUC (lung)`.
    """
    score, _, part = (name or "accuracy").partition("/")
    found = MEASURES.get(score)
    if found is None:
        return Measure(str(name), str(name), "", unit="", factor=1.0, digits=4)
    return replace(found, name=str(name), label=f"{found.label} ({part})") if part else found
