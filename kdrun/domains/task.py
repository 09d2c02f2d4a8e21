"""What is learned from a kind of data: Task, and what one forward pass gives, Prediction.

Nothing heavy is imported here: `kdrun check` and `kdrun ls` ask domains, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kdrun import kinds
from kdrun.problems import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdrun.data.module import BatchView
    from kdrun.domains.guess import Guess


Batch = Mapping[str, Any]
Tensors = dict[str, "torch.Tensor | None"]


@dataclass
class Prediction:
    """What one network says about one batch.

    logits: float [B, C], or [B, L, C] for sequences; None where hidden and head are given instead.
    mask: bool, the shape of logits without its last dimension, True where a position counts; None: all count.
    features: further tensors by name, for objectives that compare more than logits.
    scored: tensors by name that metrics alone look at: outputs at each step (`steps`), firing rates (`firing`).
    captured: what modules of the network gave, by the path or glob that names them (see networks/capture.py).
    classifier: weight [C, D] and bias [C], or None in its place, of the layer that makes the logits, where a loss wants them.
    hidden, head: float [B, L, D] and [C, D] (or a pair of that and a bias [C]) whose product the logits are, for
        vocabularies so large that losses compute them piece by piece.
    """

    logits: torch.Tensor | None
    mask: torch.Tensor | None = None
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    hidden: torch.Tensor | None = None
    head: Any = None
    scored: dict[str, torch.Tensor] = field(default_factory=dict)
    captured: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    classifier: Any = None

    def dense(self) -> torch.Tensor:
        """The logits, computed where only hidden and head are there."""
        if self.logits is not None:
            return self.logits
        assert self.hidden is not None, (
            "a prediction has logits, or hidden states and the layer that makes logits of them"
        )
        from torch.nn.functional import linear

        weight, bias = self.head if isinstance(self.head, tuple) else (self.head, None)
        return linear(self.hidden, weight, bias)

    def on(self, device: torch.device) -> Prediction:
        """The same with its tensors on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: moved(each) for name, each in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(moved(each) for each in value)
            return value.to(device) if hasattr(value, "to") else value

        return Prediction(**{item.name: moved(getattr(self, item.name)) for item in fields(self)})


class Task:
    """Forward pass, named tensors for the objective, and metrics of one kind of problem; the defaults are of tasks whose samples
    one forward pass tells everything of.

    A class says which value of `data.task` it is of, as in `class Regression(Task, kind="regression")`: METRICS and MAIN are then those
    of the domain, and PREFLIGHT is MAIN where the class says nothing else.

    METRICS: name of each metric -> "max" or "min", the direction in which it gets better. Names are the same for
    every stage and every network, and `loss` is always the plain supervised loss, so that runs can be compared.
    MAIN: the metric that summaries report, and that selects the best epoch where `trainer.monitor` says nothing.
    PREFLIGHT: the metric by which a teacher is measured before it teaches; cheap to compute.
    USABLE: what samples are called with which networks are compared and timed (see `usable`).
    TYPICAL_TOKENS: of the output that `typical` makes, where it is made of tokens.
    KEEPS: splits beside the test sets whose rows (see `evaluate`) are kept.
    """

    METRICS: Mapping[str, str]
    MAIN: str
    PREFLIGHT: str
    KEEPS: tuple[str, ...] = ()
    USABLE = "sample"
    TYPICAL_TOKENS = 0
    spec: Any
    added: Mapping[str, Any] = {}
    """Name -> torchmetrics.Metric that the config adds (see domains.added)."""

    def __init_subclass__(cls, kind: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if kind:
            domain = kinds.find(kind)
            cls.METRICS, cls.MAIN = domain.metrics, domain.main
            cls.PREFLIGHT = vars(cls).get("PREFLIGHT", domain.main)

    def predict(self, network: nn.Module, inputs: Any) -> Prediction:
        """One forward pass; modes and gradients are the caller's business."""
        raise NotImplementedError

    def prepare(self, wanted: frozenset[str]) -> None:
        """Told before training which tensors the objective can use."""

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """What objectives can ask for, by parameter name; None for what is not there."""
        raise NotImplementedError

    def count(self, batch: Batch) -> int:
        """Valid positions in the batch: what a sum of per-position losses is divided by."""
        return len(batch["targets"])

    def metrics(self) -> Any:
        """A fresh torchmetrics MetricCollection with the names of METRICS."""
        raise NotImplementedError

    def update(self, metrics: Any, prediction: Prediction, batch: Batch) -> None:
        """Adds one batch to the metrics, as far as one forward pass tells them."""
        raise NotImplementedError

    def judged(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(predictions, targets) as metrics of a config are given them: float32 logits [N, C] and classes [N] of the N positions
        that count; of a regression numbers [N] in units of the target."""
        logits, mask = prediction.dense().detach().float(), batch.get("mask")
        return (logits, batch["targets"]) if mask is None else (logits[mask], batch["targets"][mask])

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Made-up predictions and targets of the form of `judged`."""
        import torch

        generator = torch.Generator().manual_seed(0)
        if not self.spec.distribution:
            return torch.randn(16, generator=generator), torch.randn(16, generator=generator)
        classes = self.spec.vocabulary if self.spec.per_position else self.spec.outputs
        return torch.randn(2 * classes, classes, generator=generator), torch.arange(2 * classes) % classes

    def with_metrics(self, nodes: Mapping[str, Any]) -> Task:
        """The task with the metrics of a config added (see domains.added.add_metrics)."""
        from kdrun.domains.added import add_metrics

        return add_metrics(self, nodes)

    def collection(self) -> Any:
        """`metrics` and those that the config adds, as `evaluate` fills them."""
        from kdrun.domains.added import collection

        return collection(self)

    def update_added(self, metrics: Any, prediction: Prediction, batch: Batch) -> None:
        """Adds one batch to the metrics that the config adds, where the collection has them."""
        from kdrun.domains.added import update_added

        update_added(self, metrics, prediction, batch)

    def evaluate(
        self, metrics: Any, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """Adds one batch to all metrics; may ask the network for more than one forward pass (generation).

        final: on test, where generation may be more thorough than after every epoch. Then it returns `rows`, which are kept
        beside the weights; after an epoch `rights`, by which the selected epoch is compared with the last.
        """
        prediction = self.predict(network, batch["inputs"])
        self.update(metrics, prediction, batch)
        self.update_added(metrics, prediction, batch)
        return self.rows(prediction, batch) if final else self.rights(prediction, batch)

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]] | None:
        """One mapping of plain values for each sample, with its "id": what `Domain.sums` makes scores from, so that differences can
        be resampled over samples. None where nothing can be said of single samples."""
        return self.rights(prediction, batch)

    def rights(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]] | None:
        """{"id", "right": 0 or 1} of each sample, of tasks that call a prediction of a sample right or wrong; else what a sample adds to
        the metric that is monitored, where that is a mean over samples."""
        right = self.right(prediction, batch)
        if right is None or right.dim() != 1:
            return None
        columns = batch["ids"].tolist(), right.int().tolist()
        return [{"id": number, "right": one} for number, one in zip(*columns, strict=True)]

    def generation_scores(self, network: nn.Module, split: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """(further metrics of a test set, a row for each prompt) of what a network in eval mode writes, once a test and on every rank;
        rows {"id", "prompt", "reference", "text"} are kept beside the weights. ({}, []) where nothing is written."""
        return {}, []

    def row_scores(self, rows: list[dict[str, Any]], val_rows: list[dict[str, Any]]) -> dict[str, float]:
        """Further metrics of a test set, from what `evaluate` said of its samples and of those of the split "val" (KEEPS)."""
        return {}

    def outcomes(self, prediction: Prediction) -> list[dict[str, Any]]:
        """What a network says of each sample, in plain values: {"class", "probability", "probabilities": {class: share}}, or {"value"}
        in the unit of the target; of kinds of data that `kdrun predict` asks. Needs no data but the spec."""
        raise NotImplementedError

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores on test of what needs no network: {what it is: {metric: value}}."""
        return {}

    def notes(self) -> dict[str, str]:
        """What else a reader of the scores must know, as the signature of sacreBLEU."""
        return {}

    def size(self, inputs: Any) -> int:
        """Samples in `batch["inputs"]`, of which the first says it where there are several by name."""
        return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)

    def typical(self, network: nn.Module) -> object:
        """A forward pass of one sample of typical size through a network on the meta device."""
        import torch

        return network(torch.empty((1, *self.spec.shape), device="meta"))

    def flops(self, network: nn.Module) -> int | None:
        """FLOPs of that pass; None where they cannot be counted."""
        from kdrun.ledger.flops import counted_flops

        return counted_flops(network, self.typical)

    def right(self, prediction: Prediction, batch: Batch) -> torch.Tensor | None:
        """For a PREFLIGHT metric that is a share: bool, where the prediction is right, at positions that count; else None."""
        return None

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """The PREFLIGHT metric of a guess that looks at no input, on these batches' targets; right: of the same, of a network."""
        raise NotImplementedError

    def feature_width(self, network: nn.Module) -> int:
        """D of the features [B, D] that objectives compare. Raises UserError where this task has none."""
        raise UserError(
            f"{self.spec.name}: the objective compares features, which this task does not give",
            "objectives of logits: kd, jsd, kl_reverse",
        )

    def usable(self, samples: Any) -> Any:
        """int64: positions of the samples of a split with which networks are compared and timed."""
        import numpy as np

        return np.arange(len(samples))

    def targets_of(
        self, network: nn.Module, samples: Any, positions: Any, view: BatchView | None = None
    ) -> list[dict[str, Any]]:
        """What the network gives as targets of these samples, one mapping of plain values for each, with its "id": the rows that
        DataModule.relabelled takes. view: how it sees them, where that is otherwise. UserError where networks of the task generate no
        targets."""
        raise UserError(f"{type(self).__name__}: networks of this task generate no targets to learn from")

    def own_samples(
        self, network: nn.Module, batch: Batch, generator: torch.Generator, **options: Any
    ) -> dict[str, Any]:
        """The batch with what the network writes itself in place of what is to be predicted, of tasks whose Domain.continues."""
        raise NotImplementedError

    def generations(self, network: nn.Module, samples: Any, positions: Any) -> Any:
        """For each of these samples a function that generates its output and says how many tokens that were, the end included."""
        return ()
