"""What the lab asks of a federation: one stage, with everything that it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FederationRequest:
    """One federation to run.

    fingerprint  of the stage
    label        for rows and messages
    work         folder for its state and results
    federation   clients, partition {kind, alpha, minimum}, shift {strength}, private (network nodes, cycled over clients),
                 proxy (a network node), method, options, rounds, participation, aggregation {how, trim, clip_norm}, faults,
                 eval_every, engine (absent: all clients in this process; else see flower.start.start)
    data, trainer, hardware, energy, metrics
                 nodes of the config, with `hardware` resolved; of `trainer` what lab.stages.federate.Federate.TRAINER names
    """

    fingerprint: str
    label: str
    work: Path
    federation: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    energy: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON types, for another process."""
        return {**asdict(self), "work": str(self.work)}

    @classmethod
    def from_json(cls, node: dict[str, Any]) -> FederationRequest:
        values = {item.name: node[item.name] for item in fields(cls)}
        return cls(**values | {"work": Path(node["work"])})
