"""What a kind of data answers: Domain (by `data.task`), Spec (what networks know of a data set), Task (what is learned from it).

Nothing heavy is imported here or in a module `domain` or `spec`: `kdrun check` and `kdrun ls` ask domains, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.domains.rows import Sums, mean_of
from kdrun.problems import UserError, listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdrun.domains.guess import Guess


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
        from torch.nn.functional import linear

        weight, bias = self.head if isinstance(self.head, tuple) else (self.head, None)
        return linear(self.hidden, weight, bias)


Batch = Mapping[str, Any]
Tensors = "dict[str, torch.Tensor | None]"


@dataclass(frozen=True)
class Blank:
    """Inputs of two samples as networks take them, with nothing on them; shape: of their logits; what: they are called."""

    inputs: Any
    shape: tuple[int, ...]
    what: str


class Spec:
    """What networks, weights files and exports know of a data set. A subclass is a frozen dataclass, without torch.

    Its fields are at least `name` (label of the data set) and `sizes` (samples per split, after limits).

    kind          what weights files call the kind of data
    per_position  outputs are for each position of a sequence, [B, L, V] of `vocabulary` tokens; else one of `outputs` numbers
                  for each sample, [B, outputs]
    keywords      networks are called with their inputs as keyword arguments
    distribution  outputs are logits of a distribution
    binary        of two classes a network may give one logit, that of the second
    says          what the last dimension of an output is
    unit          what one row of a batch is
    compared      entries of `metadata` that have to be as they were trained, also where a network is trained further
    unchanged     those that further training may change, and a network that is used as it is needs
    chosen        entry -> (what it is for people, how it is chosen)
    unsaved       fields that no weights file keeps
    """

    name: str
    sizes: dict[str, int]
    kind: ClassVar[str] = ""
    per_position: ClassVar[bool] = False
    keywords: ClassVar[bool] = False
    distribution: ClassVar[bool] = True
    binary: ClassVar[Any] = False
    says: ClassVar[str] = "classes"
    unit: ClassVar[Any] = "sample"
    compared: ClassVar[tuple[str, ...]] = ()
    unchanged: ClassVar[tuple[str, ...]] = ()
    chosen: ClassVar[Mapping[str, tuple[str, str]]] = {}
    unsaved: ClassVar[tuple[str, ...]] = ("name", "sizes")

    @property
    def about(self) -> str:
        """One line for people."""
        return self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of a sample; () where there are none."""
        return ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors that networks are called with, in order."""
        return ("inputs",)

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        """Input, in the order of `input_names` -> axis -> name, of axes that may have any length in an exported graph."""
        return {name: {0: "batch"} for name in self.input_names}

    def metadata(self) -> dict[str, Any]:
        """What a weights file keeps, in JSON types, so that its network can be built and used without the data: "kind", "data" (its
        name) and the fields, without those of `unsaved` and those that may be None and are."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in self.unsaved}
        kept = {name: value for name, value in values.items() if value is not None or name not in type(self).__dict__}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
        return {"kind": self.kind, "data": self.name, **lists}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Spec:
        """The spec that a weights file was written with; sizes are those of no data set."""
        kept = [one for one in fields(cls) if one.name not in cls.unsaved]
        values = {one.name: metadata[one.name] for one in kept if one.default is MISSING or one.name in metadata}
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(name=metadata["data"], sizes={}, **tuples)

    def arguments(self) -> dict[str, Any]:
        """What networks may ask for by the name of a parameter, and only the data know."""
        raise NotImplementedError

    def blank(self) -> Blank:
        """What a network is tried on before anything is trained."""
        raise NotImplementedError

    def check(self, metadata: Mapping[str, Any], path: Path, as_trained: bool = False) -> None:
        """Raises UserError where a weights file's metadata are of other data than these (normalisation is compared elsewhere).

        as_trained: the network is not trained further.
        """
        own = self.metadata()
        for name in (*self.compared, *(self.unchanged if as_trained else ())):
            theirs, ours = (self.comparable(name, node.get(name)) for node in (metadata, own))
            if name in metadata and theirs != ours:
                self.differs(name, theirs, ours, path, metadata)

    def in_units_of(self, metadata: Mapping[str, Any]) -> Spec:
        """These data with targets in the units that a network of this metadata learned them in."""
        return self

    def output_turn(self, metadata: Mapping[str, Any]) -> tuple[float, float] | None:
        """(scale, shift) that turn outputs of such a network into outputs in the units of these data; None where these are the same."""
        return None

    def comparable(self, name: str, value: Any) -> Any:
        """An entry of metadata as it is compared."""
        return list(value) if isinstance(value, tuple | list) else value

    def differs(self, name: str, theirs: Any, ours: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        """Raises UserError for an entry of metadata that is another one."""
        what, hint = self.chosen.get(name, (name, ""))
        theirs, ours = (listed(map(str, value)) if isinstance(value, list) else str(value) for value in (theirs, ours))
        raise UserError(
            f"{path} was trained with another {what}: {theirs}, {self.name} has {ours}", *([hint] if hint else [])
        )

    def described(self) -> dict[str, Any]:
        """What the user of an exported file has to know: "outputs" (their meaning), and how inputs are made."""
        return {"outputs": f"logits of the {self.says}"}

    def usual_normalisations(self) -> dict[str, dict[str, list[float]]]:
        """Name -> {"mean", "std"} that published weights for such inputs were trained with, to be tried where weights do badly."""
        return {}

    def corrupted(self, inputs: Any, ids: Any, seed: int) -> Mapping[str, Any]:
        """Name of a corruption -> its five levels, each a function without arguments that gives the corrupted inputs.

        inputs: float32 [n, ...], normalised; ids: int64 [n]. {} where inputs of this kind are not corrupted for scorecards.
        """
        return {}


class Task:
    """Forward pass, named tensors for the objective, and metrics of one kind of problem; the defaults are of tasks whose samples
    one forward pass tells everything of.

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
        """Samples in `batch["inputs"]`."""
        return len(inputs)

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

    def targets_of(self, network: nn.Module, samples: Any, positions: Any) -> list[dict[str, Any]]:
        """What the network gives as targets of these samples, one mapping of plain values for each, with its "id": the rows that
        DataModule.relabelled takes. UserError where networks of the task generate no targets."""
        raise UserError(f"{type(self).__name__}: networks of this task generate no targets to learn from")

    def own_samples(
        self, network: nn.Module, batch: Batch, generator: torch.Generator, **options: Any
    ) -> dict[str, Any]:
        """The batch with what the network writes itself in place of what is to be predicted, of tasks whose Domain.continues."""
        raise NotImplementedError

    def generations(self, network: nn.Module, samples: Any, positions: Any) -> Any:
        """For each of these samples a function that generates its output and says how many tokens that were, the end included."""
        return ()


class Domain:
    """One kind of data and what is learned from it: a subclass in the module `domain` of its package, without torch.

    name         value of `data.task`
    kind         what weights files call it (Spec.kind); "": as `name`
    metrics      as Task.METRICS
    monitor      the metric that selects the best epoch where nobody said anything else
    supervision  the term of an objective that learns from labels
    settings     key below `data.` -> dataclass of keys (schema.key) of a node of its own
    options      names of options of its sources that would else be nodes of other kinds of data
    supplies     arguments that networks may be given: the names of Spec.arguments
    normalised   its inputs are numbers that are normalised
    augmented    training inputs can be augmented at random (`data.augment`), and have the layout of images
    views        samples can be seen in several ways (`data.view`, and windows of scans)
    keeps_rows   what networks say of single samples is kept, as {"id", "target", "probabilities"}
    generates    options of strategy=sequence_kd by which a teacher generates targets of its student; none: no teacher does
    continues    a student can be taught on what it writes itself behind the prompts of its samples (Task.own_samples)
    decoding     keys of `trainer.decoding` that it uses
    commands     verbs of the command line that ask a run of this kind for answers to inputs of the user's
    evaluates    how data without training samples are used, for a message
    transfers    training samples without labels are of use (`data.labelled`, `data.unlabelled`)
    written      names of the scores of Task.generation_scores
    preferred    (key of a row of a test sample by which two networks are compared on it, "max" or "min": which is better, key that has to be
                 equal in both); None: samples are not compared
    """

    name: str
    kind: str = ""
    metrics: Mapping[str, str]
    monitor: str = "accuracy"
    supervision: str = "ce"
    settings: Mapping[str, type] = MappingProxyType({})
    options: tuple[str, ...] = ()
    supplies: tuple[str, ...] = ()
    normalised: bool = True
    augmented: bool = False
    views: bool = False
    keeps_rows: bool = False
    per_position: bool = False
    generates: frozenset[str] = frozenset()
    continues: bool = False
    decoding: frozenset[str] = frozenset()
    commands: tuple[str, ...] = ()
    evaluates: tuple[str, ...] = ()
    transfers: bool = False
    written: tuple[str, ...] = ()
    preferred: tuple[str, str, str] | None = None

    def source_type(self) -> type:
        """What its sources return; has `name` and `content_hash`."""
        raise NotImplementedError

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        """The data module (data.module.DataModule) of what a source returned: split, limited, normalised.

        config: the keys that every data config has, and `settings`, all with their defaults. Raises UserError.
        """
        raise NotImplementedError

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Task:
        """The task of a data module. decoding: `trainer.decoding`, for tasks that generate."""
        raise NotImplementedError

    def spec(self, metadata: Mapping[str, Any]) -> Any:
        """The spec that a weights file was written with; sizes are those of no data set."""
        raise NotImplementedError

    def reader(self, spec: Any, config: Mapping[str, Any], paths: Mapping[str, str]) -> Any:
        """How `kdrun predict` reads inputs of the user's own (domains.inputs.Reader), of kinds that have it in `commands`.

        spec: of the weights file; config: `data` of the run. No samples of the run are read.
        """
        raise NotImplementedError

    def stand_in(self, requires: Mapping[str, Any], count: int) -> Any:
        """A data module of `count` made-up training samples, for the plan of a table whose data are not here: as `requires` of
        the table says (shape, classes ...)."""
        raise UserError(f"data.task={self.name}: no samples can be made up in the place of data that are not here")

    def reads_unlabelled(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """The node of a source that reads inputs without labels, but for `root`, their path, for `data.unlabelled=PATH`; it may ask for
        `like`, what the source of `data` returned. None where there is none."""
        return None

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """{metric: how rows of test samples (Task.rows) become it}, of metrics of which more is better. row: one of them. The AUC
        needs no entry: it is made from "target" and "probabilities" (learning.resampling)."""
        return {self.monitor: mean_of("right")} if "right" in row else {}

    def content_hash(self, source: Any, config: dict[str, Any]) -> str:
        """sha256 hex digest of all that a data set depends on, beside the keys of its config."""
        return source.content_hash

    def left_out(self, target: str) -> tuple[str, ...]:
        """Options of a source, or arguments of a network, that decide no result (paths, labels, where a server is) and stay out of
        fingerprints, beside `name` and `root` of a source."""
        return ()

    def view_key(self, data: Mapping[str, Any]) -> str:
        """The key of data that chooses one of several views of a sample."""
        return "view"

    def view_keys(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Dotted keys of data that say how a network sees a sample, in which a teacher may differ from its students."""
        return tuple(dict.fromkeys(("view", self.view_key(data)))) if self.views else ()

    def view_names(self, data: Mapping[str, Any], key: str) -> Sequence[Any]:
        """The views that this key of data chooses from; () where any may be one."""
        return ()

    def view_name(self, view: Any, data: Mapping[str, Any], key: str) -> str:
        """What a view is called. Raises UserError where there is none such."""
        return str(view)

    def view_about(self, name: str) -> str:
        """What a person wants to know of a view, in a few signs; "" where there is nothing to say."""
        return ""

    def explained(self) -> str:
        """What it is, for a list."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]
