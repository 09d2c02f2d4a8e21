"""A teacher's k most likely tokens per target position: computed in every step, or once and kept on disk.

    ids        uint16 or int32 [positions, k]
    log_probs  float16 [positions, k]

See rowcache.py for the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.data.host import on_host
from kdrun.data.module import POSITION, SAMPLE
from kdrun.domains.task import Prediction
from kdrun.learning import cache, positions
from kdrun.learning.rowcache import RowCache
from kdrun.learning.teacher import Around
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError


def wanted(objective: dict[str, Any]) -> int | None:
    """The largest k of an objective's config, or None where none of its terms with a weight wants only the top."""
    terms = [term for term in build_objective(objective).active if "teacher_top_ids" in term.wants]
    return max((int(term.options.get("k", 16)) for term in terms), default=None)


def check_told(name: str, network: torch.nn.Module, k: int | None) -> None:
    """Raises UserError where a network tells only some of its likeliest tokens (`tells` of them) and more are asked for; k: see `wanted`."""
    tells = getattr(network, "tells", None)
    if tells is not None and (k is None or k > tells):
        raise UserError(
            f"teacher {name} tells its {tells} likeliest tokens, the objective wants {'all' if k is None else k}",
            f"objective=word_kd_topk objective.kd_topk.k={min(tells, 16)}",
        )


def reduced(prediction: Prediction, k: int) -> Prediction:
    """The k most likely classes of every position: features top_ids [..., k] and top_log_probs float32 [..., k]."""
    log_probs = torch.log_softmax(prediction.dense().float(), -1)
    values, ids = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
    features = {"top_ids": ids, "top_log_probs": values}
    return Prediction(None, prediction.mask, features, captured=prediction.captured)


class TopTeacher(Around):
    """A live teacher that tells only its top."""

    def __init__(self, live: Any, k: int):
        super().__init__(live)
        self.k = k

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        return reduced(self.live.outputs(batch), self.k)


def cache_bytes(module, k: int) -> int:
    """Disk that the top of a teacher takes for the training samples of a module of sequences."""
    rows = int(_counts(module)(module.train_ids).sum())
    return rows * min(k, module.spec.vocabulary) * (2 + _id_type(module).itemsize) + 4 * len(module.train_ids)


def cache_size(module, objective: dict[str, Any], features: int = 0, number_format: str = "fp32") -> int | None:
    """Bytes that a teacher's outputs take for these data and this objective; None where they cannot be kept.

    features: width of the features that the objective compares; 0 where it compares none. number_format: of outputs of whole samples.
    """
    k = wanted(objective)
    built = build_objective(objective)
    if built.captures("teacher") or built.views:
        return None
    if module.cached_by == SAMPLE:
        if k is not None:
            raise UserError(
                "execution=topk (objective=word_kd_topk) is for text; for images objective.kd has all classes"
            )
        return cache.cache_bytes(module, features, number_format)
    if module.cached_by == POSITION and k is None:
        return None if _wants_hidden(objective) else positions.cache_bytes(module)
    return None if k is None else cache_bytes(module, k)


def _wants_hidden(objective: dict[str, Any]) -> bool:
    """Whether a term needs a teacher's states before the output layer, which are not kept."""
    return any(
        "teacher_hidden" in (*term.wants, *(term.may_want if term.options.get("of") == "hidden" else ()))
        for term in build_objective(objective).active
    )


def _counts(module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Ids of training samples -> positions of each at which a teacher teaches."""
    return positions.counts(module) if module.cached_by == POSITION else module.lengths


def _id_type(module) -> np.dtype:
    return np.dtype(np.uint16 if module.spec.vocabulary <= 1 << 16 else np.int32)


class TopCache(RowCache):
    """Rows for all training samples of a module of sequences: ids uint16 or int32, log_probs float16.

    Of a sentence at its first positions, as many as it has; of a conversation on images where a teacher teaches (positions.taught).
    """

    def __init__(self, folder: Path, module, k: int, parts: dict[str, Any], lazy: bool = False):
        self.module, self.k = module, min(k, module.spec.vocabulary)
        arrays = {"ids": (_id_type(module), self.k), "log_probs": (np.float16, self.k)}
        super().__init__(folder, module.train_ids, _counts(module), arrays, parts, lazy)

    def where(self, batch: dict[str, Any]) -> np.ndarray:
        """bool [b, L]: positions of a batch that have rows."""
        mask = on_host(batch, "mask")
        if self.module.cached_by == POSITION:
            return (mask | on_host(batch, "visual_mask")).numpy()
        rows = self.rows_of(on_host(batch, "ids"))
        return np.arange(mask.shape[1]) < self.counts[rows][:, None]

    def read(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """top_ids int64 and top_log_probs float32 [b, L, k] of a batch; zeros where there is no row."""
        rows, where = self.rows_of(on_host(batch, "ids")), self.where(batch)
        tokens = np.zeros((*where.shape, self.k), np.int64)
        values = np.zeros((*where.shape, self.k), np.float32)
        for place, row in enumerate(rows):
            stored = self.get(row)
            tokens[place, where[place]], values[place, where[place]] = stored["ids"], stored["log_probs"]
        return {"top_ids": torch.from_numpy(tokens), "top_log_probs": torch.from_numpy(values)}

    def compute(self, rows: np.ndarray, teacher: TopTeacher, device: torch.device, moved: Callable[..., Any]) -> None:
        batch = self.module.inputs(self.ids[torch.from_numpy(rows)])
        where = self.where(batch)
        said = teacher.outputs(moved(batch, device)).features
        top = {name: tensor.cpu().numpy() for name, tensor in said.items()}
        for place, row in enumerate(rows):
            here = where[place]
            self.put(row, ids=top["top_ids"][place, here], log_probs=top["top_log_probs"][place, here])

    def largest_error(self, teacher: TopTeacher, device: torch.device, count: int, seed: int, moved) -> float:
        """Largest absolute difference in a log-probability above -10 between `count` stored samples and the live teacher. Where a network tells
        a top alone (`tells`), a token that is in it no more counts as its last: nothing else is known of it."""
        ids = self.some(count, seed)
        batch = self.module.inputs(ids)
        stored, where = self.read(batch), torch.from_numpy(self.where(batch))
        said = torch.log_softmax(teacher.live.outputs(moved(batch, device)).dense().float(), -1).cpu()
        live = said.gather(-1, stored["top_ids"])
        if tells := getattr(teacher.live.network, "tells", None):
            live = live.maximum(said.topk(tells).values[..., -1:])
        return cache.largest_difference(live[where], stored["top_log_probs"][where], least=-10)


class CachedTop:
    """A teacher whose top is read from disk; its network need not be in memory."""

    def __init__(self, cache: TopCache, fingerprint: str, asked: int = 0):
        self.cache, self.fingerprint, self.samples = cache, fingerprint, asked
        self.device = torch.device("cpu")

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        found = self.cache.read(batch)
        if self.device.type != "cpu":
            found = {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}
        return Prediction(None, None, found)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> None:
        self.device = device

    def close(self) -> None:
        """Nothing is held."""
