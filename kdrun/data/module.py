"""What data modules of all kinds have: a spec, splits with loaders, what may be cached; and one for sequences of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from kdrun.data.host import on_host
from kdrun.data.loader import BatchLoader
from kdrun.data.mixing import MixedLoader
from kdrun.data.stream import Subset
from kdrun.problems import UserError

LABELLED = "labelled"
"""The split of the training samples that have a label."""
SAMPLE, POSITION, TOP = "sample", "position", "top"
"""What a teacher's outputs are kept by (DataModule.cached_by)."""


class BatchView:
    """How a network is asked about batches of one data module when it sees their samples as another shows them."""

    aligned = False
    """Whether what it says is of other pieces of a sample than a student predicts, so that terms have to know which belong together."""
    displaced = False
    """Whether positions of a sample are elsewhere in its batches than in those of a student; `told` brings predictions back."""

    def __init__(self, module: Any):
        self.module = module

    def seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as the network sees it."""
        return {**batch, "inputs": self.module.inputs(on_host(batch, "ids"), batch["view"])}

    def told(self, prediction: Any, seen: dict[str, Any]) -> Any:
        """What it predicts for a batch that it has `seen`, at the positions of the student."""
        return prediction


class DataModule(LightningDataModule):
    """A loaded data set: samples with stable ids in splits, and their loaders.

    domain  the kind of data (domains.base.Domain)
    spec    what networks and tasks know of it (domains.spec.Spec)

    As a data module of a Lightning Trainer it takes `batch_size`, `eval_batch_size` and `seed` from its attributes.
    A subclass has `samples`, `inputs`, `_loader` (of the training samples) and `eval_loader`.
    """

    random = False
    """Whether training inputs are changed at random."""
    replayed = False
    """Whether the same random changes come again in every run, so that outputs for them can be stored."""
    views = 1
    """Number of replayed views."""
    further_views: tuple[str, ...] = ()
    """Names of further views of the same samples that training batches have beside "inputs"."""
    mixes = False
    """Whether training samples are mixed with others, so that each has two labels."""
    preflight_batch = 256
    """Batch size in which a teacher is measured before it teaches."""
    cached_by = SAMPLE
    """How outputs of a teacher are kept: one row per sample, all logits at each position that is taught, or, where that would be
    too much, the most likely ones of each position."""
    labelled_share: float | None = None
    """Share of each training batch that has labels, where not all samples have one; None: in proportion."""

    def __init__(self, domain: Any, spec: Any, batch_size: int = 128, eval_batch_size: int = 256) -> None:
        super().__init__()
        self.domain, self.spec = domain, spec
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, 0

    cache: str | None = None
    """Where what was found out about the samples is kept; None: nowhere."""
    kept_as: list[Any] | None = None
    """What decides all samples but tokenizers (keeping.KEPT_AS); None: not known."""

    selects = True
    """Whether validation can tell which epoch is best: its samples are not trained on."""

    @property
    def audit_key(self) -> list[Any] | None:
        """What decides the audit; None: not known."""
        return self.kept_as and [*self.kept_as, getattr(self.spec, "tokenizer", None)]

    def task(self, decoding: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None) -> Any:
        """What is learned from it (domains.task.Task).

        decoding: `trainer.decoding`, for tasks that generate. metrics: `metrics` of the config, beside those of the task; UserError
        for one that does not fit.
        """
        task = self.domain.task(self, decoding)
        return task.with_metrics(metrics) if metrics else task

    @property
    def train_ids(self) -> Tensor:
        """int64 [n], ids of the training samples in the order of the source."""
        return self.samples("train").ids

    def with_targets(self, split: str) -> str:
        """What of a split can be evaluated: of "train" LABELLED, where not all have a label."""
        return LABELLED if split == "train" and self.samples(split).labelled is not None else split

    def raw_targets(self, split: str) -> np.ndarray:
        """[n]: what is to be predicted of the samples of a split, as the source has it; [0] where targets are sequences."""
        return np.zeros(0)

    def trained(self, ids: Tensor) -> Tensor:
        """int64 [b]: positions in `train_ids` of training samples by id (int64 [b]). KeyError for an id that is not in training."""
        known, order = self._sorted_ids
        found = order[torch.searchsorted(known, ids).clamp_(max=len(known) - 1)]
        wrong = self.train_ids[found] != ids
        if wrong.any():
            raise KeyError(f"sample id {int(ids[wrong][0])} is not a training sample")
        return found

    @cached_property
    def _sorted_ids(self) -> tuple[Tensor, Tensor]:
        return torch.sort(self.train_ids)

    @property
    def extra_tests(self) -> tuple[str, ...]:
        """Names of further test sets, each a split like "test"."""
        return ()

    @property
    def before(self) -> tuple[str, ...]:
        """Those of them that a network which begins with weights is tested on before it is trained, too."""
        return ()

    @property
    def content(self) -> str:
        """Hash of the raw content: equal for two modules that show the same samples in two ways."""
        return ""

    def positions(self, split: str = "train") -> dict[str, int]:
        """What terms of an objective can be over (objectives.terms.Term.over) -> how many there are in a split."""
        return {"mask": 1}

    aligned_by: str | None = None
    """The tensor by which terms know what of a student and of a teacher belongs together, where these may predict other pieces of a
    sample (BatchView.aligned)."""

    def identified(self, split: str) -> tuple[Tensor, Tensor]:
        """(ids, targets) of the samples of a split, equal for two modules that show the same samples in two ways."""
        return self.identities(split), self.samples(split).targets

    def identities(self, split: str) -> Tensor:
        """int64 [n]: ids of what the samples of a split are made from."""
        return self.samples(split).ids

    def view_of(self, learned: DataModule) -> BatchView:
        """How a network that sees samples as this module shows them is asked about batches of `learned`."""
        return BatchView(self)

    def trained_on(self) -> dict[str, Any]:
        """What a network is trained on, in JSON types: "samples", those "labelled" where not all are, and what is special about them."""
        labelled = self.samples("train").labelled
        known = {} if labelled is None else {"labelled": int(labelled.sum())}
        return {"samples": self.spec.sizes["train"], **known}

    def audit(self) -> dict[str, Any]:
        """What was found in the data, in JSON types: "samples" per split, "notes", "summary" (one line)."""
        return {"samples": dict(self.spec.sizes), "notes": []}

    def files_beside(self) -> dict[str, bytes]:
        """Name -> content of files that whoever uses an exported network needs beside it, as a tokenizer."""
        return {}

    def relabelled(self, rows: list[dict[str, Any]]) -> DataModule:
        """The same data with generated targets (rows of Task.targets_of) in place of those of the training samples."""
        raise UserError(f"{self.spec.name}: training samples of these data take no generated targets")

    # What is computed once and kept on disk before batches are made: features of images, say.

    def features_missing(self) -> int:
        """How many images (or the like) that samples use have no features yet; nothing is computed."""
        kept = self.features_kept()
        return 0 if kept is None else kept[0].missing(np.array(sorted(kept[1]), np.int64))

    def prepare(self, told: Callable[[int], None] = lambda done: None) -> None:
        """Compute the features that are missing now, not when a batch first needs them; told(images done)."""
        if kept := self.features_kept():
            kept[0].build(np.array(sorted(kept[1]), np.int64), told)

    def features_kept(self) -> tuple[Any, set[int]] | None:
        """(their cache, with `folder`, `missing(numbers)`, `build(numbers, told)` and `bytes`; the numbers that samples use); None where none are kept."""
        return None

    def train_loader(
        self, batch_size: int, seed: int, rank: int = 0, world: int = 1, *, labels_only: bool = False
    ) -> BatchLoader:
        """The training samples, shuffled. batch_size is over all ranks, in the unit of the loader.

        labels_only: nothing can be learned of samples without labels, so that every batch is of those that have one; an epoch is as
        many steps either way.
        """
        loader = self._loader(batch_size, seed, rank, world)
        share = 1.0 if labels_only else self.labelled_share
        return loader if loader.samples.labelled is None or share is None else MixedLoader(loader, share)

    # For `trainer.fit(learner, datamodule=module)`.

    def _rank(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size} if self.trainer else {}

    def train_dataloader(self) -> Any:
        return self.train_loader(self.batch_size, self.seed, **self._rank())

    def val_dataloader(self) -> Any:
        return self.eval_loader("val", self.eval_batch_size, **self._rank())

    def test_dataloader(self) -> Any:
        return self.eval_loader("test", self.eval_batch_size, **self._rank())


class TokenModule(DataModule):
    """Sequences of tokens.

    samples  split -> its samples, as LOADER takes them
    coder    `decode(lists of ids) -> texts`: what stands before the first end token
    LOADER   a MaskedLoader
    """

    LOADER: type

    def __init__(
        self, domain: Any, spec: Any, samples: dict[str, Any], coder: Any, batch_size: int, eval_batch_size: int
    ):
        super().__init__(domain, spec, batch_size, eval_batch_size)
        self._samples, self._coder = samples, coder

    def samples(self, split: str) -> Any:
        """Ids and tokens of a split, in the order of the source."""
        if split == LABELLED:
            train = self._samples["train"]
            return Subset(train, np.flatnonzero(train.labelled.numpy()))
        return self._samples[split]

    def decode(self, rows: Iterable[Sequence[int] | Tensor]) -> list[str]:
        """Text of lists of ids (or of rows of a tensor): what stands before the first eos."""
        return self._coder.decode([row.tolist() if isinstance(row, Tensor) else row for row in rows])

    def _loader(self, batch_size: int, seed: int, rank: int, world: int) -> Any:
        return self.LOADER(self.samples("train"), batch_size, seed=seed, rank=rank, world=world)

    def eval_loader(self, split: str, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Every sample of the split (of "train" those with a label) exactly once over all ranks."""
        return self.LOADER(self.samples(self.with_targets(split)), batch_size, rank=rank, world=world)
