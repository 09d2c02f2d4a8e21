"""Rounds per second of kdrun's federation against a hand-written PyTorch loop: same clients, networks, batches; one process.

    python scripts/bench_federated.py [--repeats 7] [--rounds 12] [--clients 10] [--cases mlp,cnn,large]

energy_gated with both directions. Prints one line per case, medians over interleaved repeats:
  mlp    digits, private mlp 64, proxy mlp 16
  cnn    digits, private cnn 16-32, proxy cnn 8-16
  large  28x28 pixels, 600 samples for each client, private mlp 256-128, proxy mlp 32
Both sides validate every client after every round; kdrun also checks, counts, and keeps the best round and its state.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from kdrun.domains.images.module import ImageDataModule
from kdrun.domains.images.source import Images
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.load import load_data
from kdrun.federation.assemble import assemble
from kdrun.federation.request import FederationRequest
from kdrun.federation.run import FederationRun
from kdrun.learning.report import Report
from kdrun.learning.teaching import Workshop
from kdrun.ledger.ledger import Ledger, clocks

BATCH, TEMPERATURE, SKIPPED = 32, 2.0, 2
OPTIMIZER = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9}
MLP, CNN = "kdrun.networks.mlp.MLP", "kdrun.networks.cnn.CNN"
CASES = {
    "mlp": ("digits", {"_target_": MLP, "hidden": [64]}, {"_target_": MLP, "hidden": [16]}),
    "cnn": ("digits", {"_target_": CNN, "widths": [16, 32]}, {"_target_": CNN, "widths": [8, 16]}),
    "large": ("pixels", {"_target_": MLP, "hidden": [256, 128]}, {"_target_": MLP, "hidden": [32]}),
}


def pixels(clients: int, each: int = 600, side: int = 28) -> ImageDataModule:
    """Random pixels: speed does not depend on what is on the images."""
    random, sizes = np.random.default_rng(0), {"train": clients * each, "val": clients * 60, "test": clients * 10}
    total = sum(sizes.values())
    images = Images(
        x=random.integers(0, 256, (total, 1, side, side), np.uint8),
        y=random.integers(0, 10, total),
        split=np.zeros(total, np.int8),
        ids=np.arange(total),
        classes=tuple(map(str, range(10))),
        name="bench",
        source_hash="0" * 64,
    )
    split = np.repeat(np.arange(3, dtype=np.int8), list(sizes.values()))
    return ImageDataModule(images, split, DataSpec("bench", images.classes, (1, side, side), sizes, (0.5,), (0.3,)))


class Clock(Report):
    """Notes when each round has been validated."""

    def __init__(self):
        self.ends: list[tuple[float, float]] = []

    def epoch(self, label, epoch, epochs, values):
        self.ends.append(now())

    def rates(self) -> tuple[float, float]:
        """Rounds a second of wall and of processor time, from the end of the first SKIPPED rounds to the end of the last."""
        return tuple(
            (len(self.ends) - SKIPPED) / (b - a) for a, b in zip(self.ends[SKIPPED - 1], self.ends[-1], strict=True)
        )


def now() -> tuple[float, float]:
    """Wall and processor time in seconds."""
    return time.perf_counter(), time.process_time()


def request(case: str, clients: int, rounds: int, folder: Path) -> FederationRequest:
    _, private, proxy = CASES[case]
    return FederationRequest(
        fingerprint="bench",
        label="bench",
        work=folder,
        data={"case": case},
        hardware={"device": "cpu", "devices": 1, "precision": "fp32"},
        seed=0,
        trainer={"batch_size": BATCH, "optimizer": OPTIMIZER, "clip": None, "checkpoint_seconds": 30.0},
        federation={
            "clients": clients,
            "partition": {"kind": "iid", "alpha": 1.0, "minimum": 8},
            "private": [private],
            "proxy": proxy,
            "method": "energy_gated",
            "options": {"temperature": TEMPERATURE},
            "rounds": rounds,
        },
    )


def kdrun_rounds(asked: FederationRequest, workshop: Workshop) -> tuple[float, float]:
    """See Clock.rates."""
    clock = Clock()
    FederationRun(asked, clock, assemble(asked, workshop), Ledger(clocks())).rounds()
    return clock.rates()


def hand_rounds(asked: FederationRequest, workshop: Workshop) -> tuple[float, float]:
    """The same of the loop that a person would write, with the very same samples and networks."""
    federation = assemble(asked, workshop)
    shards = [client.shards for client in federation.clients]
    data = [{split: next(shard.whole(1 << 20)) for split, shard in one.items()} for one in shards]
    private = [client.private for client in federation.clients]
    proxy = federation.clients[0].proxy
    state = {name: tensor.clone() for name, tensor in proxy.state_dict().items()}
    rounds, clock = asked.federation["rounds"], Clock()
    for round in range(rounds):
        sent = []
        for own, network in zip(data, private, strict=True):
            inputs, targets = own["train"]["inputs"], own["train"]["targets"]
            proxy.load_state_dict(state)
            proxy.eval()
            network.train()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
            for chosen in torch.randperm(len(targets)).split(BATCH):
                x, y = inputs[chosen], targets[chosen]
                logits = network(x)
                loss = functional.cross_entropy(logits, y)
                if round > 0:
                    with torch.no_grad():
                        taught = proxy(x)
                    trust, soft = gate(logits.detach(), taught), kl(taught, logits)
                    loss = loss + (trust * soft).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            network.eval()
            proxy.train()
            optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01, momentum=0.9)
            for chosen in torch.randperm(len(targets)).split(BATCH):
                x, y = inputs[chosen], targets[chosen]
                with torch.no_grad():
                    taught = network(x)
                logits = proxy(x)
                loss = functional.cross_entropy(logits, y) + kl(taught, logits).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            sent.append((len(targets), copy.deepcopy(proxy.state_dict())))
        total = sum(count for count, _ in sent)
        state = {
            name: sum(count / total * one[name] for count, one in sent).to(first.dtype)
            for name, first in sent[0][1].items()
        }
        scores = []
        for own, network in zip(data, private, strict=True):
            network.eval()
            with torch.no_grad():
                logits, targets = network(own["val"]["inputs"]), own["val"]["targets"]
                right = (logits.argmax(1) == targets).float().mean().item()
                scores.append((right, functional.cross_entropy(logits, targets).item()))
        clock.epoch("hand", round, rounds, {"accuracy": sum(right for right, _ in scores)})
    return clock.rates()


def kl(taught: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """[B]: T^2 KL(taught || logits)."""
    one, other = functional.log_softmax(logits / TEMPERATURE, -1), functional.log_softmax(taught / TEMPERATURE, -1)
    return TEMPERATURE**2 * functional.kl_div(one, other, reduction="none", log_target=True).sum(-1)


def gate(private: torch.Tensor, proxy: torch.Tensor) -> torch.Tensor:
    """[B]: logistic, of the symmetric divergence over both entropies, normalised over the batch."""
    log_p, log_q = functional.log_softmax(private / TEMPERATURE, -1), functional.log_softmax(proxy / TEMPERATURE, -1)
    p, q = log_p.exp(), log_q.exp()
    apart = 0.5 * ((p * (log_p - log_q)).sum(-1) + (q * (log_q - log_p)).sum(-1))
    energy = apart / (-(p * log_p).sum(-1) - (q * log_q).sum(-1) + 1e-8)
    return torch.sigmoid(-(energy - energy.mean()) / (energy.std(unbiased=False) + 1e-8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in options.cases.split(","):
        ours, hand = [], []
        with tempfile.TemporaryDirectory() as folder:
            digits = {"_target_": "kdrun.domains.images.shipped.digits.digits", "name": "digits"}
            module = load_data(digits, {"cache": folder}) if CASES[case][0] == "digits" else pixels(options.clients)
            workshop = Workshop(lambda config, module=module: module, Path(folder))
            asked = request(case, options.clients, options.rounds, Path(folder))
            for repeat in range(options.repeats):
                # Who comes first changes every time: a machine that others use drifts by more than the difference.
                for who in ("hand", "ours") if repeat % 2 else ("ours", "hand"):
                    (hand if who == "hand" else ours).append(
                        (hand_rounds if who == "hand" else kdrun_rounds)(asked, workshop)
                    )
        wall, processor = (statistics.median(a[k] / b[k] for a, b in zip(ours, hand, strict=True)) for k in (0, 1))
        rates = [statistics.median(one[0] for one in some) for some in (hand, ours)]
        print(
            f"{case}: hand {rates[0]:.2f}, kdrun {rates[1]:.2f} rounds a second; speed {wall:.3f} of the hand loop, "
            f"{processor:.3f} in processor time; hand loop from {min(hand)[0]:.2f} to {max(hand)[0]:.2f}"
        )


if __name__ == "__main__":
    main()
