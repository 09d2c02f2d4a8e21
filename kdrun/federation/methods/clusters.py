"""What methods share that divide clients into clusters by their predictions on public samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kdrun.federation import clusters, predictions
from kdrun.federation.client import Client
from kdrun.federation.loop import Loop
from kdrun.federation.messages import Arrays, Broadcast, Expected, Update, refusal
from kdrun.federation.methods.base import ServerResources
from kdrun.federation.methods.digest import Digest
from kdrun.learning import seeds
from kdrun.problems import UserError

SEMANTICS = 2

CLUSTER, COLLAPSED, SERVERS = "cluster", "collapsed", "servers"
"""What the server holds of each round: int64 [rounds, clients], the cluster of each client (-1: none yet) and 1 where it names one
class for all public samples; int64 [rounds], networks of the server that do so or diverged."""
NOBODY = -1


class Clusters(Digest):
    """Clients send class probabilities on public samples and are taught by those of their cluster.

    The server's round: it divides the clients that answered, once or, with `recluster`, in every round; the predictions of a cluster are
    combined, and `taught` makes of them what its members are sent. A client that answers first after the division joins the cluster
    whose predictions are nearest to its own.
    """

    def suits(self, regression: bool, width: int | None = None) -> None:
        if regression:
            raise UserError("clients are compared by class probabilities; targets are numbers here")
        if width is not None and self.options.encoding == "top_k" and self.options.top_k > width:
            raise UserError(f"top_k={self.options.top_k}: there are {width} classes")

    # clients

    def target(self, client: Client, broadcast: Broadcast):
        if not broadcast.arrays:
            return None
        return torch.from_numpy(predictions.decode(broadcast.arrays, len(client.loop.task.spec.classes))).log()

    def answer(self, client: Client):
        return self._encoded(probabilities(client.loop, "private", client.private, client.public))

    def _encoded(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return predictions.encode(rows, self.options.encoding, self.options.top_k)

    # the server

    def initial(self, resources):
        """Nothing; the method keeps what it needs to read messages."""
        self.width = resources.width
        return {}

    def expected(self, arrays: Arrays, resources: ServerResources) -> Expected:
        return predictions.expected(len(resources.public), resources.width, self.options.encoding, self.options.top_k)

    def refusal(self, update: Update, expected: Expected) -> str | None:
        return refusal(update, expected) or predictions.unlikely(update.arrays, self.width)

    def sent(self, arrays: Arrays, client: int) -> Arrays:
        rows = arrays.get(f"taught/{arrays[CLUSTER][-1][client]}") if CLUSTER in arrays else None
        return {} if rows is None else self._encoded(rows)

    def combine(self, arrays, updates, how, trim, round, resources):
        rows = {client: predictions.decode(updates[client].arrays, resources.width) for client in sorted(updates)}
        before = arrays[CLUSTER][-1] if CLUSTER in arrays else np.full(resources.clients, NOBODY)
        labels = self.divided(arrays, before, rows, resources)
        held: dict[str, np.ndarray] = {}
        failed = 0
        for cluster in sorted(set(labels.tolist()) - {NOBODY}):
            members = np.flatnonzero(labels == cluster)
            came = [rows[client] for client in members.tolist() if client in rows]
            parent = most_common(before[members])
            if came:
                target = combined(np.stack(came), self.options.target)
                made, diverged = self.taught(target, held_by(arrays, parent), cluster, round, resources)
                failed += diverged or collapsed(made["taught"])
            else:  # nobody of it answered
                made = held_by(arrays, parent)
            held |= {f"{name}/{cluster}": array for name, array in made.items()}
        alone = np.zeros(resources.clients, np.int64)
        alone[[client for client, own in rows.items() if collapsed(own)]] = 1
        grown = {CLUSTER: labels, COLLAPSED: alone, SERVERS: np.asarray(failed, np.int64)}
        return held | {name: _grown(arrays.get(name), row) for name, row in grown.items()}

    def divided(self, arrays: Arrays, before: np.ndarray, rows: Mapping[int, np.ndarray], resources: ServerResources):
        """int64 [clients]: the cluster of each from now on. before: as they were; rows: predictions by client, of those that came."""
        options, came = self.options, list(rows)
        if options.clustering in ("one", "known"):
            return clusters.cluster(np.zeros((resources.clients, 1, 1)), options.clustering, groups=resources.groups)
        labels = before.copy()
        if options.recluster or (before == NOBODY).all():
            labels[came] = clusters.cluster(
                np.stack([rows[client] for client in came]),
                options.clustering,
                options.threshold,
                seed=seeds.derive(resources.loop.seed, "clusters") % 2**32,
            )
            for client in sorted(set(np.flatnonzero(before != NOBODY).tolist()) - set(came)):
                # It goes where most of those went with whom it was together.
                labels[client] = most_common(labels[came][before[came] == before[client]])
            return clusters.numbered(labels, NOBODY)
        for client in came:
            if labels[client] == NOBODY:
                known = sorted(set(before.tolist()) - {NOBODY})
                away = [np.square(rows[client] - arrays[f"taught/{cluster}"]).sum() for cluster in known]
                labels[client] = known[int(np.argmin(away))]
        return labels

    def taught(
        self, target: np.ndarray, before: Arrays, cluster: int, round: int, resources: ServerResources
    ) -> tuple[dict[str, np.ndarray], bool]:
        """({"taught": float32 [U, C], what members of a cluster are sent; what else is kept for it}, whether a training diverged).

        target: the combined predictions of its members [U, C]; before: what was kept of the cluster."""
        return {"taught": target}, False

    def said(self, arrays: Arrays) -> dict[str, float]:
        if CLUSTER not in arrays:
            return {}
        return {"clusters": float(count(arrays[CLUSTER][-1])), "collapsed": float(arrays[COLLAPSED][-1].sum())}

    def outcome(self, arrays: Arrays, resources: ServerResources) -> dict[str, Any]:
        """{"clusters": {
        rule       by which clients were divided
        of         cluster of each client after the last round, -1: none
        groups     hidden group of each client, None where the partition made none
        agreement  adjusted Rand index of both, None where there are no groups
        count      clusters after the last round; counts: after each
        collapsed  {client: rounds in which it named one class for all public samples}; servers: the same of the server's
                   networks, of all clusters together
        message    bytes of one answer, by encoding}}"""
        if CLUSTER not in arrays:
            return {}
        labels, groups = arrays[CLUSTER][-1], resources.groups
        known = labels != NOBODY
        alone = arrays[COLLAPSED].sum(axis=0)
        return {
            "clusters": {
                "rule": self.options.clustering,
                "of": labels.tolist(),
                "groups": None if groups is None else list(groups),
                "agreement": None if groups is None else clusters.agreement(labels[known], np.asarray(groups)[known]),
                "count": count(labels),
                "counts": [count(row) for row in arrays[CLUSTER]],
                "collapsed": {str(client): int(alone[client]) for client in np.flatnonzero(alone)},
                "servers": int(arrays[SERVERS].sum()),
                "message": predictions.sizes(
                    len(resources.public), resources.width, min(self.options.top_k, resources.width)
                ),
            }
        }


def probabilities(loop: Loop, role: str, network: Any, public: Any) -> np.ndarray:
    """float32 [U, C] of a network on public samples."""
    return torch.softmax(loop.table(role, network, public), -1).cpu().numpy()


def combined(rows: np.ndarray, how: str) -> np.ndarray:
    """float32 [U, C] of probabilities [n, U, C]: their mean; their median by class, made to sum to 1; or, sample by sample, those
    of the client with the largest probability (`confident`)."""
    if how == "confident":
        surest = rows.max(axis=2).argmax(axis=0)
        return rows[surest, np.arange(rows.shape[1])]
    wide = rows.astype(np.float64)
    middle = wide.mean(axis=0) if how == "mean" else np.median(wide, axis=0)
    return (middle / middle.sum(axis=1, keepdims=True)).astype(np.float32)


def collapsed(rows: np.ndarray) -> bool:
    """Whether predictions [U, C] name the same class for all samples."""
    named = rows.argmax(axis=1)
    return bool((named == named[0]).all())


def most_common(labels: np.ndarray) -> int:
    """The cluster that most of these have, of several the first; -1 where none has any."""
    numbers = Counter(label for label in sorted(labels.tolist()) if label != NOBODY)
    return numbers.most_common(1)[0][0] if numbers else NOBODY


def held_by(arrays: Arrays, cluster: int) -> dict[str, np.ndarray]:
    """What is kept of a cluster, by name."""
    end = f"/{cluster}"
    return {name.removesuffix(end): array for name, array in arrays.items() if name.endswith(end)}


def count(labels: np.ndarray) -> int:
    """Of clusters."""
    return len(set(labels.tolist()) - {NOBODY})


def _grown(rows: np.ndarray | None, row: np.ndarray) -> np.ndarray:
    return row[None] if rows is None else np.concatenate([rows, row[None]])
