"""Small real federations for the tests: digits, tiny networks, a few rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdrun.domains.load import load_data
from kdrun.federation.request import FederationRequest
from kdrun.federation.start import run_federation
from kdrun.learning.report import Report
from kdrun.learning.teaching import Workshop

DIGITS = {"_target_": "kdrun.domains.images.shipped.digits.digits", "name": "digits"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}


def mlp(*hidden: int, dropout: float = 0.0) -> dict[str, Any]:
    return {"_target_": "kdrun.networks.mlp.MLP", "hidden": list(hidden), "dropout": dropout}


CNN = {"_target_": "kdrun.networks.cnn.CNN", "widths": [4, 8]}


class Silent(Report):
    """Keeps what it is told. stop_at: after which call of stop_requested to ask for a stop."""

    def __init__(self, stop_at: int | None = None):
        self.stop_at, self.asked, self.told, self.epochs = stop_at, 0, [], []

    def rows(self, rows):
        self.told += rows

    def epoch(self, label, epoch, epochs, values):
        self.epochs.append(epoch)

    def stop_requested(self):
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


def request(
    work: Path, method: str, *, options=None, trainer=None, data=None, seed=0, **federation
) -> FederationRequest:
    work.mkdir(parents=True, exist_ok=True)
    return FederationRequest(
        fingerprint="f" * 8,
        label=method,
        work=work,
        data={**DIGITS, **(data or {})},
        hardware={"device": "cpu", "devices": 1, "precision": "fp32", "channels_last": False},
        seed=seed,
        trainer={
            "batch_size": 32,
            "eval_batch_size": 512,
            "optimizer": SGD,
            "clip": None,
            "monitor": "accuracy",
            "mode": "max",
            "checkpoint_seconds": 1e9,
            **(trainer or {}),
        },
        federation={
            "clients": 3,
            "partition": {"kind": "label", "alpha": 0.5, "minimum": 8},
            "private": [mlp(32)],
            "proxy": mlp(8),
            "method": method,
            "options": options or {},
            "rounds": 2,
            **federation,
        },
    )


def workshop(cache: Path | str = "cache") -> Workshop:
    torch.set_num_threads(1)
    return Workshop(lambda config: load_data(config, {"cache": str(cache)}), Path("outputs"))


def play(work: Path, method: str, report: Report | None = None, **options) -> dict[str, Any]:
    return run_federation(request(work, method, **options), report or Silent(), workshop(work / "cache"))


def plain(outcome: dict[str, Any]) -> dict[str, Any]:
    """The outcome without what a clock says and how often it was begun."""
    clients = [{name: value for name, value in one.items() if name != "seconds"} for one in outcome["clients"]]
    return {**{name: value for name, value in outcome.items() if name != "cost"}, "clients": clients}
