"""strategy=clustered: clients send predictions, the server clusters them and teaches each cluster by a network of its own (COSMOS,
arXiv 2605.11165)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.federation.methods.options import ServerOptions
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, Learner
from kdrun.strategies.clients import Federated, checked, taken

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result
    from kdrun.lab.stages.federate import Federate

SERVER = "server"
KNOWN = {"clustering": "known", "threshold": None, "recluster": False}


@dataclass(frozen=True)
class Clustered(Federated, ServerOptions):
    """Clients of any make learn from labels and send class probabilities on public samples without labels. The server divides the
    clients by them, trains for each cluster a network that no client has (`assistants.server`) on the cluster's predictions, and
    sends its predictions back. Nothing else travels.

    backward_epochs, forward_epochs, server_epochs
                 of a round: passes of a client over its own samples, of a client over public ones, of the server over these (the
                 paper has 5 each, and 10 rounds)
    first_epochs of round 0, over a client's own samples, before anything is sent; null: backward_epochs
    public       share of each client's training samples that is public and has no labels; all arms do without their labels
    clustering   gap: by a threshold on distances between clusters, in the largest gap between them; greedy: by a threshold on
                 distances of clients that is given; kmeans: as many clusters as have the largest silhouette; known: the groups of
                 partition=groups, which no server knows (an upper bound); one: a single cluster
    threshold    of greedy: root mean squared distance of two clients' probability vectors, 0 to sqrt(2)
    recluster    in every round; else once, after round 0
    target       what the server learns of a cluster: mean, median by class, or on each sample the most confident client
    temperature  of the targets alone: p^(1/T); below 1 sharper
    smooth, smooth_noise, smooth_grad
                 weight of the squared change of probabilities under noise of this deviation, in units of the normalised input; false:
                 without gradient, as in the published code
    encoding, top_k
                 of the predictions that travel: float32, float16, or top_k: the k largest of each sample
    """

    clients: int = 10
    partition: str = "groups"
    alpha: float = 5.0
    rounds: int = 8
    backward_epochs: int = 3
    forward_epochs: int = 2
    server_epochs: int = 3
    first_epochs: int | None = 10
    public: float = 0.2

    arms: ClassVar[dict[str, str]] = {
        **Federated.arms,
        "one_cluster": "the same, one cluster",
        "known_clusters": "the same, known clusters (an upper bound)",
        "kmeans": "the same, clusters by k-means",
        "no_smoothing": "the same without smoothing",
    }

    variants: ClassVar = {
        "one_cluster": {**KNOWN, "clustering": "one"},
        "known_clusters": KNOWN,
        "kmeans": {**KNOWN, "clustering": "kmeans"},
        "no_smoothing": {"smooth": 0.0},
    }

    choices: ClassVar = {**Federated.choices, **ServerOptions.choices}
    ranges: ClassVar = {**Federated.ranges, "alpha": Federated.ranges["alpha"]}

    def __post_init__(self) -> None:
        super().__post_init__()
        checked("clustered", self._options())
        if self.partition != "groups" and (self.clustering == "known" or "known_clusters" in self.controls):
            raise UserError(
                f"strategy.partition={self.partition}: it makes no groups that could be known; strategy.partition=groups does"
            )

    def check(self, cast: Cast) -> None:
        super().check(cast)
        self.server(cast)

    def server(self, cast: Cast) -> Learner:
        """Whose network the server trains."""
        for learner in cast.assistants:
            if learner.role == SERVER:
                return learner
        raise UserError(
            "strategy=clustered: there is no assistants.server, whose network the server trains for each cluster",
            "teacher@assistants.server=resnet8 gives one",
        )

    def private(self, cast: Cast) -> list[Learner]:
        return [learner for learner in super().private(cast) if learner.role != SERVER]

    def federate(self, cast: Cast, role: str, method: str, options: dict[str, Any]) -> Federate:
        """As of all federations, with the server's network; samples that are public under this strategy have no labels in any arm."""
        stage = super().federate(cast, role, method, options)
        if method == "clustered":
            stage.federation[SERVER] = self.server(cast).identity["network"]
        if not taken(method, {"public": self.public}):
            stage.federation["partition"]["withheld"] = self.public
        return stage

    def run(self, lab: Lab, cast: Cast, role: str = "student") -> Result:
        return self.fitted(lab, self.federate(cast, role, "clustered", self._options()))

    def label(self, cast: Cast) -> str:
        return "clients, taught by clusters"

    def budget(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("backward_epochs", "forward_epochs", "first_epochs", "public")}

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(ServerOptions)}
