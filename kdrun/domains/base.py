"""What a kind of data answers: Domain, by `data.task`.

Nothing heavy is imported here: `kdrun check` and `kdrun ls` ask domains, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kdrun import targets
from kdrun.domains.rows import Sums, mean_of
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.domains.task import Task


@dataclass(frozen=True)
class Foreseen:
    """Data that are not here, as an estimate of a job's cost needs them.

    spec        what networks are built for
    passes      number of samples -> forward pass over so many of a network on the meta device
    per_sample  what `trainer.batch_size` counts in a sample: 1, or tokens
    """

    spec: Any
    passes: Callable[[int], Callable[[Any], object]]
    per_sample: float = 1


def passes_over(shape: Sequence[int]) -> Callable[[Any], object]:
    """A forward pass on inputs of this shape."""

    def forward(network: Any) -> object:
        import torch

        return network(torch.empty(tuple(shape), device="meta"))

    return forward


class Domain:
    """One kind of data and what is learned from it: a subclass in the module `domain` of its package, without torch.

    name         value of `data.task`
    source       "module:class" of what its sources return; learned: of its Task, described: of its Spec, reads: of the reader of
                 `kdrun predict`. A Task is made of the spec, of sequences (per_position) of the data module and `trainer.decoding`; a
                 kind that needs more has a method `task` of its own
    makes        "module:function" of what makes the data module of (source, config with the keys of `node`, cache), and where it is one
                 of several, its class, `held`; a kind that needs more has a method `module` of its own
    node         key of `settings` whose keys say how samples become inputs; "": none
    tokenizers   "module:function" of path -> the tokenizer that `node` may give in the place of one that is trained; "": there are none
    unlabelled   "module.function" of the source that reads inputs without labels, see reads_unlabelled; "": there is none
    kind         what weights files call it (Spec.kind); "": as `name`
    metrics      as Task.METRICS
    main         the metric that summaries report and results are judged by; where a kind says nothing, the first of `metrics`
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
    published    all samples can be trained on, those held out for validation as well (`data.protocol=published`)
    transfers    training samples without labels are of use (`data.labelled`, `data.unlabelled`)
    sampled      how files become more samples, for a message where a split is empty
    written      names of the scores of Task.generation_scores
    divided      (key of `settings` that leaves some of the samples, its key that says which: "classes" by number, or "types" by name), where the
                 data are divided into tasks of a sequence (strategy=continual); None: they are not
    preferred    (key of a row of a test sample by which two networks are compared on it, "max" or "min": which is better, key that has to be
                 equal in both); None: samples are not compared
    """

    name: str
    source: str
    learned: str
    described: str
    reads: str
    makes: str
    held: str = ""
    node: str = ""
    tokenizers: str = ""
    unlabelled: str = ""
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
    published: bool = False
    sampled: str = ""
    written: tuple[str, ...] = ()
    divided: tuple[str, str] | None = None
    preferred: tuple[str, str, str] | None = None

    @property
    def main(self) -> str:
        return next(iter(self.metrics))

    def source_type(self) -> type:
        """What its sources return; has `name` and `content_hash`."""
        return resolve_name(self.source)

    def check_here(self, data: Mapping[str, Any]) -> None:
        """Raises UserError where this machine lacks what the source of a config `data` needs, a program say: the source has an attribute
        `needs`, a function of that config which raises it. Asked before torch is imported."""
        try:
            needs = getattr(targets.locate(data["_target_"], "source"), "needs", None)
        except Exception:  # what is wrong with it is told where it is built
            return
        if needs is not None:
            needs(data)

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        """The data module (data.module.DataModule) of what a source returned: split, limited, normalised.

        config: the keys that every data config has, and `settings`, all with their defaults. Raises UserError.
        """
        held = (resolve_name(self.held),) if self.held else ()
        return resolve_name(self.makes)(source, {**config, **config.get(self.node, {})}, cache, *held)

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Task:
        """The task of a data module. decoding: `trainer.decoding`, for tasks that generate."""
        kind = resolve_name(self.learned)
        return kind(module, decoding) if self.per_position else kind(module.spec)

    def spec(self, metadata: Mapping[str, Any]) -> Any:
        """The spec that a weights file was written with; sizes are those of no data set."""
        return resolve_name(self.described).of(metadata)

    def reader(self, spec: Any, config: Mapping[str, Any], paths: Mapping[str, str]) -> Any:
        """How `kdrun predict` reads inputs of the user's own (domains.inputs.Reader), of kinds that have it in `commands`.

        spec: of the weights file; config: `data` of the run. No samples of the run are read.
        """
        return resolve_name(self.reads)(spec, config, paths)

    def stand_in(self, requires: Mapping[str, Any], count: int) -> Any:
        """A data module of `count` made-up training samples, for the plan of a table whose data are not here: as `requires` of
        the table says (shape, classes ...)."""
        raise UserError(f"data.task={self.name}: no samples can be made up in the place of data that are not here")

    def foreseen(self, planned: Mapping[str, Any], data: Mapping[str, Any]) -> Foreseen:
        """What networks are looked at with while the data of a config `data` are not here; sizes are those of `planned` (extra.planned)."""
        raise UserError(f"data.task={self.name}: nothing is known of data that are not here", "give data.root")

    def reads_unlabelled(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """The node of a source that reads inputs without labels, but for `root`, their path, for `data.unlabelled=PATH`; it may ask for
        `like`, what the source of `data` returned. None where there is none."""
        return {"_target_": self.unlabelled} if self.unlabelled else None

    def sums(self, row: Mapping[str, Any]) -> Mapping[str, Sums]:
        """{metric: how rows of test samples (Task.rows) become it}, of metrics of which more is better. row: one of them. The AUC
        needs no entry: it is made from "target" and "probabilities" (learning.resampling)."""
        return {self.monitor: mean_of("right")} if "right" in row else {}

    def content_hash(self, source: Any, config: dict[str, Any]) -> str:
        """sha256 hex digest of all that a data set depends on, beside the keys of its config: with the content of a tokenizer that is given."""
        path = config[self.node]["tokenizer"] if self.tokenizers else None
        if path is None:
            return source.content_hash
        return hashlib.sha256(
            f"{source.content_hash} {resolve_name(self.tokenizers)(path).sha256}".encode()
        ).hexdigest()

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

    def prompted(self, key: str, prompt: str | None, system: str | None) -> dict[str, Any]:
        """Keys of data in which that of a teacher differs who reads other prompts than its students (`teacher.prompt`, `teacher.system`).
        key: where the teacher stands in the config. Raises UserError where there are no prompts, and for a template that is none."""
        said = "prompt" if prompt is not None else "system"
        raise UserError(f"{key}.{said}: data.task={self.name} has no prompts", "data.task=causal_lm has, of chats")

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
