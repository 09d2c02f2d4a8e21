"""The tree of a run's config as dataclasses: types, defaults, ranges and one line of help for every key.

Annotations are real objects here (no `from __future__ import annotations`): the check reads them.
"""

import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass, make_dataclass
from dataclasses import fields as fields_of_class
from functools import cache
from typing import Any

from kdrun import kinds
from kdrun.protocol import PROTOCOLS

OWN_WEIGHTS = "own"
"""In place of a weights file: the network is made with its weights, as one of a hub or of a server is."""
REQUIRED = "???"
"""As in OmegaConf: a value that has to be given."""


def key(default: Any, help: str, **rules: Any) -> Any:
    """One key. rules: minimum, maximum (allowed), above, below (not allowed), choices (or "domains": the kinds of data that there are), meant (what people type
    instead of a choice), path, exists, words (taken as they are where a path is expected), hub (so are
    names of the Hugging Face hub, where no such path is there), irrelevant (the reason why
    it is no part of the identity of a job or a stage), left_out (likewise, of a stage alone), slot (of a target: its
    place in kdrun.slots), supplied (of a target: arguments that need not be
    there; "domains": those that the kind of data knows), added (it came after results were hashed: while it has its default it is in no hash),
    training (of data: it decides what is trained on, not what is evaluated), differs (of a mapping: keys of this dataclass with the rule `training`)."""
    metadata: dict[str, Any] = {"help": help, **rules}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


class TargetNode(dict[str, Any]):
    """Annotation of a node with `_target_`: its other keys are checked against the signature of what it names."""


class Weight(float):
    """Annotation of a weight of a term: a number, or a function of the step (term_weights.py)."""


HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""What a name of the Hugging Face hub looks like."""
CONTENT = "a path; the content of the file is in instead"


@dataclass
class Normalize:
    mean: list[float] = key(REQUIRED, "mean of each channel, of pixels scaled to 0..1")
    std: list[float] = key(REQUIRED, "standard deviation of each channel", above=0)


@dataclass
class Schedule:
    name: str = key(
        "cosine", "shape of the learning rate after warm-up", choices=("constant", "cosine", "step", "inverse_sqrt")
    )
    warmup_epochs: float = key(0.0, "epochs of linear warm-up; a fraction is allowed", minimum=0)
    warmup_steps: int | None = key(None, "steps of linear warm-up, instead of epochs", minimum=1, added=True)
    milestones: list[float] = key([], "step: epochs at which the rate is multiplied by factor", minimum=0)
    factor: float = key(0.1, "step: factor at each milestone", above=0)
    floor: float = key(0.0, "cosine: last rate as a share of the first", minimum=0, maximum=1)


@dataclass
class Decoding:
    """How sequences are generated when a translation model is evaluated (decoding.beam.Search)."""

    beam: int = key(5, "hypotheses per sentence on test", minimum=1)
    val_beam: int = key(1, "hypotheses per sentence on validation, after every epoch; 1: greedy", minimum=1)
    length_penalty: float = key(1.0, "score = log-probability / tokens ** length_penalty")
    max_factor: float = key(1.2, "longest output: max_factor * source tokens + max_extra", minimum=0)
    max_extra: int = key(10, "longest output: max_factor * source tokens + max_extra", minimum=1)


@dataclass
class ParameterGroup:
    parameters: str | None = key(
        None, "part of the network, or glob of parameter names; null: the group's name, or norms_and_biases"
    )
    lr: float | None = key(None, "learning rate, which trainer.schedule multiplies; null: the optimizer's", minimum=0)
    factor: float | None = key(None, "factor on the optimizer's learning rate, instead of lr", minimum=0)
    weight_decay: float | None = key(None, "weight decay; null: the optimizer's", minimum=0)


@dataclass
class Trainer:
    epochs: int = key(30, "passes over the training split", minimum=1)
    batch_size: int = key(128, "samples per optimizer step, over all devices", minimum=1)
    eval_batch_size: int = key(
        512, "samples per evaluation step; changes no result", minimum=1, left_out="its metrics are sums over samples"
    )
    optimizer: TargetNode = key(
        {"_target_": "torch.optim.SGD", "lr": 0.1},
        "optimizer and its arguments",
        slot="optimizer",
        supplied=("params",),
        ranges={
            "lr": {"above": 0},
            "weight_decay": {"minimum": 0},
            "momentum": {"minimum": 0, "below": 1},
            "rho": {"minimum": 0},
        },
    )
    groups: dict[str, ParameterGroup] = key(
        {}, "parameters with a learning rate or weight decay of their own, by name", added=True
    )
    schedule: Schedule = key(Schedule, "learning rate over the epochs")
    accumulate: int = key(1, "parts in which a batch is computed before the step", minimum=1)
    clip: float | None = key(None, "largest norm of the gradient", above=0)
    ema: float | None = key(None, "decay of an average of the weights, which is then evaluated", above=0, below=1)
    balance: int | None = key(
        None,
        "steps between measures of the gradients of terms, which are then brought to one size",
        minimum=1,
        added=True,
    )
    log_every: int = key(
        20, "steps between logged losses", minimum=1, irrelevant="how often a loss is written down changes no result"
    )
    checkpoint_seconds: float = key(
        30.0,
        "seconds between checkpoints to resume from",
        minimum=0,
        irrelevant="a resumed run ends with the same numbers, bit by bit, wherever it was cut",
    )
    parts: list[str] | None = key(
        None, "parts of the network that train, as the network calls them; null: all", added=True
    )
    gap: bool = key(False, "measure how far the student is from its teacher before and after", added=True)
    decoding: Decoding = key(Decoding, "generation in evaluation, for translation", added=True)
    sharding: str = key(
        "none",
        "weights of the student over several devices: whole on each, or in parts",
        choices=("none", "fsdp"),
        added=True,
    )
    gather: str | None = key(
        None,
        "number format in which blocks of a sharded student are gathered; null: that of the weights",
        choices=("bf16",),
        meant={"bfloat16": "bf16"},
        added=True,
    )
    compile: str | None = key(
        None,
        "compile the forward pass of student and teacher in training, by this backend of torch.compile",
        choices=("inductor", "aot_eager", "eager", "cudagraphs"),
        meant={"true": "inductor", "aot": "aot_eager"},
        added=True,
    )
    activation_checkpointing: bool = key(
        False,
        "compute activations of the student's blocks again in the backward pass rather than keep them",
        added=True,
        left_out="the same numbers, computed twice",
    )
    sync_batch_norm: bool = key(
        False, "batch normalisation by the samples of all devices rather than of each", added=True
    )
    monitor: str = key("accuracy", "validation metric that selects the best epoch")
    mode: str = key("max", "whether a larger or a smaller monitor is better", choices=("max", "min"))
    devices: int | None = key(
        None, "devices for this learner; null: as hardware.devices", minimum=1, left_out="their number is in"
    )


@dataclass
class Pretrain:
    """A first phase of every learner, before its main training: on other data, of a part of the network."""

    data: dict[str, Any] = key({}, "keys of data that differ in the first phase")
    trainer: Trainer = key({}, "settings of the trainer for the first phase", partial=True)


@dataclass
class Limit:
    train: int | None = key(None, "use only so many training samples", minimum=1, training=True)
    val: int | None = key(None, "use only so many validation samples", minimum=1)
    test: int | None = key(None, "use only so many test samples", minimum=1)


@dataclass
class TransformConfig:
    """A random change of images, by its name or by `_target_`; its keys are arguments."""


@dataclass
class AugmentConfig:
    crop: int = key(0, "pixels of padding for random crops; 0: none", minimum=0)
    flip: bool = key(False, "mirror half of the images")
    seed: int | None = key(None, "stored seed, so that augmentation can be replayed; null: the run's seed", minimum=0)
    views: int = key(1, "with a stored seed: number of views that recur", minimum=1)
    transforms: dict[str, TransformConfig] = key(
        {},
        "further random changes: random_resized_crop, color_jitter, auto_augment, rand_augment, trivial_augment, random_erasing, cutout",
        added=True,
    )
    strong: dict[str, TransformConfig] = key(
        {},
        "a second view of each image, with these random changes, for terms with view: strong (as in mlkd_strong)",
        added=True,
    )
    mixup: float = key(
        0.0, "mix each image with another, by a share of Beta(mixup, mixup); 0: no", minimum=0, added=True
    )
    cutmix: float = key(
        0.0, "put a piece of another image into each, by a share of Beta(cutmix, cutmix); 0: no", minimum=0, added=True
    )


@dataclass
class Data:
    """Keys that every source has, beside the nodes of kinds of data (see `fields`); further keys are arguments of the source named by
    `_target_`."""

    name: str | None = key(None, "label; null: the option of the group", left_out="a label")
    val_fraction: float = key(0.1, "share of the training data held out for validation", above=0, below=1)
    test_fraction: float = key(0.2, "share held out for test by sources without a test split", above=0, below=1)
    split_seed: int = key(0, "seed of the split", minimum=0)
    protocol: str = key(
        "held_out",
        "published: what is held out for validation is trained on as well, and the last epoch counts",
        choices=PROTOCOLS,
        added=True,
    )
    task: str = key("classification", "what is learned from it", choices="domains", added=True)
    view: str | None = key(None, "what is seen of each image: grey, edges, ...; null: the image", added=True)
    limit: Limit = key(Limit, "use part of a split")
    labelled: float | None = key(
        None,
        "training samples that keep their labels: a number or, below 1, a share; null: all",
        above=0,
        share_or_number=True,
        training=True,
        added=True,
    )
    unlabelled: TargetNode | None = key(
        None,
        "further training inputs without labels: another data set by its name, or a path",
        slot="source",
        supplied=("cache", "like"),
        training=True,
        added=True,
    )
    labelled_share: float | None = key(
        None,
        "share of each batch that has labels, where others have none; null: in proportion",
        above=0,
        maximum=1,
        training=True,
        added=True,
    )
    label_noise: float = key(
        0.0,
        "share of training labels that are replaced by another class",
        minimum=0,
        below=1,
        training=True,
        added=True,
    )
    long_tail: float | None = key(
        None,
        "training samples of the first class over those of the last, fewer from class to class",
        minimum=1,
        training=True,
        added=True,
    )
    augment: AugmentConfig = key(AugmentConfig, "random augmentation of the training split", training=True)
    normalize: Normalize | None = key(None, "mean and std; null: computed from the training split")


@dataclass
class LearnerConfig:
    name: str | None = key(None, "label; null: the option of the group", left_out="a label")
    network: TargetNode = key(
        {"_target_": REQUIRED},
        "network and its arguments",
        slot="network",
        supplied="domains",
    )
    weights: str | None = key(
        None,
        "safetensors (or torch) file to start from; own: the network has its weights by itself",
        path=True,
        exists=True,
        words=(OWN_WEIGHTS,),
        left_out=CONTENT,
    )
    trainer: Trainer = key({}, "settings of the trainer for this learner alone", partial=True)


@dataclass
class Student(LearnerConfig):
    budgets: list[float] | None = key(
        None,
        "of nested students: their cost, each as a share of the whole network's; null: 1.0, 0.7 and 0.4",
        above=0,
        maximum=1,
        added=True,
    )


@dataclass
class Teacher(LearnerConfig):
    accuracy: float | None = key(
        None,
        "accuracy the teacher is known for; checked first",
        minimum=0,
        maximum=1,
        left_out="a guard: it may stop a run, never change it",
    )
    tolerance: float = key(
        0.03, "how far below its accuracy a teacher may be", minimum=0, maximum=1, left_out="a guard"
    )
    seed: int = key(0, "seed of the teacher's own training; '${seed}' follows the student's", minimum=0)
    mode: str = key(
        "eval",
        "the teacher while it teaches: in eval mode, normalised by statistics of each batch, or with dropout active",
        choices=("eval", "batch_stats", "dropout"),
        added=True,
    )
    device: str | None = key(
        None, "where it computes while it teaches, such as cuda:1; null: where the student does", added=True
    )
    sharding: str = key(
        "none",
        "its weights over several devices while it teaches: whole on each, or in parts",
        choices=("none", "fsdp"),
        added=True,
        left_out="the same numbers, computed from weights that are brought together",
    )
    precision: str | None = key(
        None,
        "number format of its weight matrices and its forward pass while it teaches; null: weights as they are, computed as the student",
        choices=("bf16", "fp16"),
        meant={"16": "fp16", "float16": "fp16", "bfloat16": "bf16"},
        added=True,
    )
    cache_format: str = key(
        "fp32",
        "number format of cached outputs of whole samples (those of tokens are kept in fp16)",
        choices=("fp32", "fp16", "bf16"),
        meant={"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"},
        added=True,
    )
    source: str = key("auto", "teacher's outputs: computed each step or cached", choices=("auto", "online", "cached"))
    fill: str = key("pass", "cache filled by a pass of its own or during epoch 1", choices=("pass", "first_epoch"))
    verify: int = key(16, "cache entries recomputed and compared before use", minimum=0, left_out="a check")
    cache_limit_gb: float = key(20.0, "largest cache that auto may build, in gigabytes", minimum=0, left_out="a guard")
    normalize: Normalize | None = key(None, "input normalisation of the teacher; null: that of the data")
    data: dict[str, Any] = key({}, "keys of data in which the teacher's training differs", added=True, differs=Data)
    prompt: str | None = key(None, "of chats: what it reads as last question, with {columns} of the row", added=True)
    system: str | None = key(None, "of chats: what it reads as system message, with {columns} of the row", added=True)


@dataclass
class TermConfig:
    """One term of the objective; further keys are settings of it (kdrun.losses) and options of its loss."""

    weight: Weight = key(1.0, "factor of this term in the sum", minimum=0)


@dataclass
class Deploy:
    """How the finished student is to run on the target, and what it has to keep there."""

    runtime: str = key(
        "auto",
        "what runs the exported student; auto: ONNX Runtime where it is installed and can, else torch",
        choices=("auto", "torch", "onnxruntime", "executorch"),
        meant={"onnx": "onnxruntime", "ort": "onnxruntime", "pte": "executorch"},
    )
    precision: str = key(
        "fp32",
        "number format of the exported student",
        choices=("fp32", "fp16", "bf16", "int8"),
        meant={"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "8": "int8"},
    )
    batch: int = key(1, "samples that arrive together", minimum=1)
    deadline_ms: float | None = key(None, "99 of 100 calls have to be done within it; null: no deadline", above=0)
    memory_mb: float | None = key(None, "most memory of the process, in 10^6 bytes; null: no cap", above=0)
    worst_class_drop: float = key(
        0.02, "how far the recall of the worst class may fall below that of the teacher's worst", minimum=0, maximum=1
    )


@dataclass
class Hardware:
    name: str | None = key(None, "label; null: the option of the group", left_out="a label")
    device: str = key(
        "auto",
        "where to compute",
        choices=("auto", "cpu", "cuda", "mps"),
        meant={"gpu": "cuda"},
        left_out="the type that it comes to is in",
    )
    devices: int = key(1, "number of devices (processes on cpu), of each node", minimum=1)
    nodes: int = key(1, "nodes of one job; the command is started once on each (srun, torchrun)", minimum=1, added=True)
    precision: str = key(
        "fp32",
        "number format of forward and backward",
        choices=("fp32", "bf16", "fp16"),
        meant={"32": "fp32", "float32": "fp32", "16": "fp16", "float16": "fp16", "bfloat16": "bf16"},
    )
    threads: int = key(
        1,
        "threads per process",
        minimum=1,
        left_out="the order of float additions; results are compared by seeds, not by last bits",
    )
    channels_last: bool = key(False, "memory layout of images", left_out="a memory layout")
    workers: int = key(
        0,
        "processes that prepare training batches ahead; 0: none",
        minimum=0,
        added=True,
        irrelevant="batches are the same, whoever prepares them",
    )
    figures: dict[str, Any] | None = key(
        None, "published figures of the device, for estimates", added=True, irrelevant="what a device could do"
    )
    deploy: Deploy = key(
        Deploy, "how the student is to run there", irrelevant="what is asked of a finished student trains none"
    )


@dataclass
class Energy:
    reader: str = key(
        "auto",
        "what measures energy; auto: NVML and RAPL where they can be read, else the model of the hardware target",
        choices=("auto", "none", "nvml", "rapl", "codecarbon", "model"),
    )
    interval: float = key(0.5, "seconds between two readings", above=0)
    idle: float = key(0.0, "seconds in which the power of the idle machine is measured first; 0: not", minimum=0)


@dataclass
class Tracker:
    name: str = key("wandb", "where metrics are mirrored; records are always local", choices=("wandb", "none"))
    project: str = key("kdrun", "project of the tracker")
    entity: str | None = key(None, "team or user of the tracker; null: its default")
    mode: str = key("auto", "auto: online where there is a key", choices=("auto", "online", "offline"))
    timeout: float = key(20.0, "seconds to wait for the tracker before going on without", above=0)


@dataclass
class Paths:
    outputs: str = key("outputs", "folder of the records of runs", path=True)
    store: str = key("${paths.outputs}/store", "folder of finished stages", path=True)
    cache: str = key(REQUIRED, "folder of fetched data", path=True)


@dataclass
class MetricConfig:
    """A metric beside those of the task; further keys are arguments of the class that `_target_` names."""

    mode: str | None = key(None, "which is better; null: as the metric itself says", choices=("max", "min"))


@dataclass
class Root:
    seed: int = key(REQUIRED, "the student's seed; one run instead of several", minimum=0)
    seeds: list[int] = key(REQUIRED, "seeds=5 is 0..4, seeds=[3,7] names them", minimum=0)
    looks: list[int] | None = key(None, "numbers of seeds at which seeds=auto looks; it says them", added=True)
    vary: list[str] = key(
        ["student"],
        "what differs from seed to seed; typed as seeds.vary",
        choices=("student", "teacher", "split"),
        added=True,
    )
    margin: float | None = key(
        None, "smallest difference that matters, as a share (0.01: a point); null: half a point", above=0, added=True
    )
    name: str | None = key(None, "label of the run", irrelevant="a label")
    strategy: TargetNode = key({"_target_": REQUIRED}, "which stages are run, in which order", slot="strategy")
    teacher: Teacher = key(Teacher, "the network that teaches")
    assistants: dict[str, Teacher] = key({}, "networks between teacher and student, by name")
    student: Student = key(Student, "the network that learns")
    objective: dict[str, TermConfig] = key({}, "terms of the loss, by name")
    data: Data = key(Data, "data set, split and augmentation")
    trainer: Trainer = key(Trainer, "how learners are trained")
    metrics: dict[str, MetricConfig] = key({}, "metrics beside those of the task, by name", added=True)
    reward: TargetNode | None = key(
        None, "what a text that the student writes is worth", slot="reward", tensors=True, added=True
    )
    pretrain: Pretrain | None = key(None, "a first phase of every learner", added=True)
    hardware: Hardware = key(Hardware, "device, precision, threads")
    energy: Energy = key(Energy, "how energy is measured", irrelevant="a meter changes nothing that is trained")
    card: bool = key(True, "a scorecard at the end of a run", irrelevant="what is measured of a finished student")
    tracker: Tracker = key(Tracker, "mirror of the records", irrelevant="a mirror of the records changes none of them")
    paths: Paths = key(Paths, "folders", irrelevant="where a result lies does not change it")
    targets: dict[str, Any] = key(
        {}, "packages whose names may be used as _target_", irrelevant="a permission, not a setting"
    )
    environment: dict[str, Any] = key(
        {}, "environment variables whose values may be recorded", irrelevant="a permission, not a setting"
    )
    tags: dict[str, Any] = key({}, "labels: tags.x=true", irrelevant="labels")
    extra: dict[str, Any] = key({}, "free values, for interpolation or your own code")


EXTENDED: dict[type, str] = {
    Data: "_target_",
    TermConfig: "_target_",
    MetricConfig: "_target_",
    TransformConfig: "_target_",
}
"""Dataclasses whose further keys are arguments of the callable they name."""


def bare(kind: Any) -> Any:
    """`X | None` -> X."""
    parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next(part for part in parts if part is not types.NoneType)


def default_cache() -> str:
    """$KDRUN_CACHE, $XDG_CACHE_HOME/kdrun or ~/.cache/kdrun."""
    given = os.environ.get("KDRUN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return given or os.path.join(base, "kdrun")


def fields(node: type = Root, task: str | None = None) -> tuple[Field[Any], ...]:
    """The keys of a node. Those of `data` are followed by the nodes of the kinds of data of kdrun, and by those of `task` where
    an installed package has it (Domain.settings)."""
    return (*_fields(node), *(_settings(tuple(kinds.settings(task).items())) if node is Data else ()))


@cache
def _fields(node: type) -> tuple[Field[Any], ...]:
    """With types that are types, also where the module of a kind of data postpones annotations."""
    types = typing.get_type_hints(node)
    for item in fields_of_class(node):
        item.type = types[item.name]
    return fields_of_class(node)


@cache
def _settings(nodes: tuple[tuple[str, type], ...]) -> tuple[Field[Any], ...]:
    help = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in nodes}
    kinds_of = [(name, kind | None, key(None, help[name], added=True)) for name, kind in nodes]
    return fields_of_class(make_dataclass("Settings", kinds_of))


def defaults(node: type = Root, task: str | None = None) -> dict[str, Any]:
    """The plain defaults of a node, with REQUIRED where a value has to come from elsewhere. task: as for `fields`."""
    result: dict[str, Any] = {}
    for item in fields(node, task):
        value = item.default if item.default_factory is MISSING else item.default_factory()
        result[item.name] = defaults(type(value), task) if is_dataclass(value) else value
    if node is Paths:
        result["cache"] = default_cache()
    return result


@cache
def irrelevant(node: type = Root, *rules: str, task: str | None = None) -> Mapping[str, str]:
    """Dotted key -> why it is no part of a job's identity; with the rule `left_out` of a stage's. task: as for `fields`."""
    return {
        path: next(item.metadata[rule] for rule in ("irrelevant", *rules) if rule in item.metadata)
        for path, item, _ in _keys(node, "", task)
        if {"irrelevant", *rules} & {*item.metadata}
    }


@cache
def added(node: type = Root, task: str | None = None) -> Mapping[str, Any]:
    """Dotted key -> default, of keys below a node that are left out of a hash while they have it. task: as for `fields`."""
    keys = _keys(node, "", task)
    return {path: defaults(home, task)[item.name] for path, item, home in keys if item.metadata.get("added")}


def _keys(node: type, prefix: str, task: str | None) -> Iterator[tuple[str, Any, type]]:
    """(dotted key, field, its dataclass) of all that is below a node, also of `Normalize | None`, but not of mappings by name."""
    for item in fields(node, task):
        path = f"{prefix}{item.name}"
        yield path, item, node
        for inner in (item.type, *typing.get_args(item.type)):
            if isinstance(inner, type) and is_dataclass(inner) and typing.get_origin(item.type) is not dict:
                yield from _keys(inner, f"{path}.", task)
