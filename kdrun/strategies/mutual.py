"""strategy=mutual: several networks are trained together and teach each other; none is trained before (arXiv 1706.00384)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.nodes import world_of
from kdrun.problems import UserError, closest, listed
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, mutual

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

SEEDS_APART = 1000
"""Seeds of networks of one make differ by this, so that they begin with other random weights."""

SHARED = ("epochs", "batch_size", "eval_batch_size")
"""Settings of a trainer that networks on the same batches have in common."""


@dataclass(frozen=True)
class Mutual(Strategy):
    """Deep mutual learning (Zhang et al. 2018, arXiv 1706.00384), sections 2.2 to 2.4: in each step every network takes a step of its
    own on the same batch, under labels and the mean over the other networks of KL(other || itself).

    peers  who is trained beside the student: a number of networks of its own make that begin with other random weights, or the
           names of assistants: [mid, small]. 1: the pair of the paper

    What is compared is said by the objective: `objective=mutual` has the paper's terms at T = 1. As in the paper's algorithm 1 the
    networks take their steps one after the other, the student first, and predictions of the others are computed anew for each: a later
    one is taught by what an earlier one became in this step. (The paper's code computes all predictions first.) A peer that teaches is
    in training mode, as it is when it learns; its normalisation statistics count a batch once. The result is the student's; the peers
    are further parts of it, each with the epoch that validation selects for it. `alone` has as many steps, and not their cost.
    """

    peers: int | list[str] = 1

    instead: ClassVar[dict[str, str]] = {
        "teacher": "the networks teach each other; strategy.peers says who they are",
        "assistants": "strategy.peers=[NAME] has an assistant trained beside the student",
        "pretrain": "the networks begin with random weights",
    }
    ranges: ClassVar = {
        "peers": (
            lambda peers: peers >= 1 if isinstance(peers, int) else 0 < len(peers) == len(set(peers)),
            "a number of at least 1, or names of assistants, each once: [mid, small]",
        )
    }

    def check(self, cast: Cast) -> None:
        devices, student = world_of(cast.config["hardware"]), cast.student
        if devices > 1:
            raise UserError(
                f"hardware.devices={devices}: strategy=mutual has a backward pass for each network, and gradients are averaged over "
                "ranks for one",
                "give hardware.devices=1",
            )
        if cast.config.get("pretrain"):
            raise UserError(
                "strategy=mutual has no first phase (pretrain), which the student alone would have",
                "give pretrain=null, or another strategy",
            )
        peers = self._peers(cast)
        for learner in (student, *peers.values()):
            if learner.config["weights"] is not None:
                raise UserError(
                    f"{learner.key}.weights: the networks of strategy=mutual begin with random weights and are trained together",
                    f"leave {learner.key}.weights out",
                )
        for name, peer in peers.items():
            if peer.data != student.data:
                raise UserError(
                    f"strategy.peers: assistants.{name} has data of its own, and all networks are trained on the same batches"
                )
            for key in SHARED:
                if peer.trainer[key] != student.trainer[key]:
                    raise UserError(
                        f"strategy.peers: {name} has trainer.{key}={peer.trainer[key]} and the student {student.trainer[key]}; all "
                        "networks are trained on the same batches"
                    )

    def run(self, lab: Lab, cast: Cast) -> Result:
        return lab.get(mutual(cast.student, self._peers(cast)))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, mutual with {listed(self._peers(cast))}"

    def _peers(self, cast: Cast) -> dict[str, Learner]:
        """Name -> who is trained beside the student."""
        student = cast.student
        if isinstance(self.peers, int):
            seeds: dict[str, Any] = {f"peer_{n}": student.seed + SEEDS_APART * n for n in range(1, self.peers + 1)}
            return {name: replace(student, seed=seed) for name, seed in seeds.items()}
        known = {learner.role: learner for learner in cast.assistants}
        for name in self.peers:
            if name not in known:
                raise UserError(
                    f"strategy.peers: no assistant {name!r}{closest(name, known)}; all: {listed(known) or 'none'}",
                    "assistants come with model=NAME; or give a number of networks of the student's make: strategy.peers=1",
                )
        return {name: known[name] for name in self.peers}
