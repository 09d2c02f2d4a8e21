"""The metrics that a column of a table may have: how each is shown, and which is better."""

from __future__ import annotations

from dataclasses import dataclass

from kdrun.measures import MEASURES, Measure
from kdrun.measures import measure as named

WHICH = ("best", "last")
ONCE = "measured"
"""In place of best and last for what does not depend on the epoch, such as a time or a size."""


@dataclass(frozen=True)
class TableMetric:
    """unit: how it is shown (see render); scored: a metric of the task, read per epoch; better: max or min, or neither."""

    unit: str
    help: str
    scored: bool = False
    better: str = ""


def _help(measure: Measure) -> str:
    return f"{measure.label}: {measure.help}" + (", %" if measure.unit == "%" else "")


BY_TYPE = ("accuracy/", "f1/", "auc/", "sensitivity/", "specificity/")
UNITS = {name: "nats" if m.unit == "nats" else "plain" if m.factor == 1 else "share" for name, m in MEASURES.items()}


class Metrics(dict[str, TableMetric]):
    """Metrics by name; scores of a part (`accuracy/colour` of a type of questions, `auc/lung` of a view) are named after it
    and need no entry. What an installed kind of data or a config adds is a plain number; its column says which is better."""

    def __missing__(self, name: str) -> TableMetric:
        if not name.startswith(BY_TYPE):
            return TableMetric("plain", f"{name}: a metric of the data or the config", True)
        score, kind = name.split("/", 1)
        if kind == "combined":
            help = f"{MEASURES[score].label} (combined): of the one answer of all members"
            return TableMetric(UNITS.get(score, "share"), help, True, "max")
        if score in ("accuracy", "f1"):
            return TableMetric("share", f"{name}: {score} of questions of type {kind}, %", True, "max")
        return TableMetric(UNITS.get(score, "share"), f"{MEASURES[score].label} ({kind}): of that view", True, "max")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(BY_TYPE))


def difference_unit(metric: str | None) -> str:
    """How differences of a metric are shown."""
    return "points" if named(metric).points else "bits" if named(metric).unit == "bits" else "plain difference"


OTHERS = {
    "difference": (
        "points",
        "difference: student minus a control, in points or the unit of the metric, over seeds [95 %, Student's t of the pairs]",
    ),
    "wins": (
        "share",
        "wins: share of test samples of which the network of that arm is better than its teacher, ties half, %",
    ),
    "clients_mean": ("gain", "clients mean: points over the same client alone, mean over clients"),
    "clients_worst": ("gain", "clients worst: points over the same client alone, of the client that lost most"),
    "clients_p10": ("gain", "clients p10: points over the same client alone, 10th percentile of clients"),
    "sent": ("megabytes", "sent: megabytes up and down, all clients and rounds"),
    "trust_clean": ("plain", "trust clean: mean gate on samples with right labels"),
    "trust_flipped": ("plain", "trust flipped: mean gate on samples whose labels were flipped"),
    "clusters": ("number", "clusters: into which the server divided the clients, mean over seeds"),
    "rand": (
        "plain",
        "rand: adjusted Rand index of these clusters against the groups hidden in the partition, mean over seeds",
    ),
    "gap_closed": (
        "gap",
        "gap closed: (student - control) / (teacher - control), of the control that the verdict is over",
    ),
    "seconds": ("seconds", "seconds: wall time of one stage of that arm; a shared teacher is not in it"),
    "cpu_seconds": ("seconds", "cpu seconds: processor time of one stage of that arm"),
    "joules": ("joules", "joules: energy of one stage of that arm; a shared teacher is not in it"),
    "energy_with_teacher": (
        "joules",
        "energy with teacher: joules from nothing, with all training and outputs of its teachers",
    ),
    "parameters": ("count", "parameters: of the network of that arm"),
    "flops": ("flops", "FLOPs: of one forward pass of one sample"),
}
"""Metrics that are no score of a task -> (unit, help)."""
RESAMPLED = "mean over seeds [95 %, two-level bootstrap over seeds and test samples]"
METRICS = Metrics(
    {
        **{name: TableMetric(UNITS.get(name, "share"), _help(m), True, m.better) for name, m in MEASURES.items()},
        **{name: TableMetric(*entry) for name, entry in OTHERS.items()},
        **{
            f"{name}_difference": TableMetric(
                difference_unit(name),
                f"{one.label} difference: student minus a control, in {difference_unit(name)}, {RESAMPLED}",
            )
            for name, one in MEASURES.items()
            if one.resampled
        },
    }
)
OVER_SAMPLES = {name: name.removesuffix("_difference") for name in METRICS if name.endswith("_difference")}
"""Differences whose interval is over test samples and seeds together; known at the epoch that is reported only."""
DIFFERENCES = {"difference", *OVER_SAMPLES}
ENERGIES = ("joules", "energy_with_teacher")
OF_PARTS = {
    "clients_mean": ("delta", "avg"),
    "clients_worst": ("delta", "worst"),
    "clients_p10": ("delta", "p10"),
    "trust_clean": ("gate", "gate_clean"),
    "trust_flipped": ("gate", "gate_corrupted"),
    "clusters": ("clusters", "count"),
    "rand": ("clusters", "agreement"),
}
"""What a summary says of the parts of a result (see kdrun.parts.gains_of), at the best epoch."""


def per_epoch(metric: str) -> bool:
    """Whether there is a figure of the best epoch and one of the last."""
    return METRICS[metric].scored or metric in DIFFERENCES or metric in OF_PARTS or metric in ("gap_closed", "wins")
