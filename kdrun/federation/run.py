"""Run one federation as a stage: clients, rounds, selection by validation, test read once; it can go on after any client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdrun.checksums import mended
from kdrun.federation.assemble import Federation
from kdrun.federation.faults import Failure
from kdrun.federation.kept import Kept
from kdrun.federation.loop import Loop, load
from kdrun.federation.outcome import means, outcome_of
from kdrun.federation.request import FederationRequest
from kdrun.files import write_atomic, write_json
from kdrun.learning.firststep import NoEffect
from kdrun.learning.fit import monitored
from kdrun.learning.report import Interrupted, Report
from kdrun.ledger.ledger import Ledger
from kdrun.ledger.spending import EVALUATE, TRAIN
from kdrun.networks.weights import save_weights

if TYPE_CHECKING:
    from kdrun.learning.teaching import Workshop

NOTE_SECONDS = 5.0
"""How often a try writes down what it has taken, as in learning.callbacks."""


def played(
    request: FederationRequest,
    report: Report,
    workshop: Workshop,
    put_together: Callable[[FederationRequest, Workshop], Federation],
) -> dict[str, Any]:
    """The outcome of all rounds of a federation as `put_together` gives it."""
    with workshop.open_ledger(request.work, request.hardware, request.energy) as ledger:
        federation = put_together(request, workshop)
        running = FederationRun(request, report, federation, ledger)
        running.rounds()
        return running.finish()


class FederationRun:
    """One federation from its first round, or from where it was left, to its outcome."""

    def __init__(self, request: FederationRequest, report: Report, federation: Federation, ledger: Ledger):
        self.request, self.report, self.federation, self.ledger = request, report, federation, ledger
        self.work, self.label = request.work, request.label
        trainer, task = request.trainer, federation.task
        self.monitor = trainer.get("monitor") or task.MAIN
        monitored({"monitor": self.monitor, "mode": trainer.get("mode") or task.METRICS.get(self.monitor)}, task)
        self.every = request.federation.get("eval_every") or 1
        self.seconds = trainer.get("checkpoint_seconds", 30.0)
        fallback = not federation.engine.elsewhere  # clients on other machines keep what goes with the last state alone
        self.kept = Kept(self.work / "federation", {"stage": request.fingerprint}, fallback)
        self.rows: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.played: list[dict[str, Any]] = []
        self.val: dict[str, list[dict[str, float]]] = {}  # "best" and "last": each client's metrics
        self.best: int | None = None
        self.best_arrays: dict[str, np.ndarray] = {}
        self._saved = time.monotonic()
        self._answered = False  # whether any client did when all were last asked for their metrics
        for client in federation.clients:
            client.spending = ledger.energy

    def rounds(self) -> None:
        """Plays all rounds that are left."""
        server = self.federation.server
        self._resume()
        self.ledger.energy.enter(TRAIN)
        count, total = server.rules.clients, server.rules.rounds * server.rules.clients
        self.report.stage(self.label, total, server.round * count + len(server.done), unit="client")
        while server.round < server.rules.rounds:
            for _ in server.collect():
                self.report.advance(server.round * count + len(server.done))
                self.ledger.energy.note(NOTE_SECONDS)
                self._maybe_save()
            self._end(server.close())
            self.report.advance(server.round * count)
            if server.round < server.rules.rounds:
                self._maybe_save()

    def _end(self, found: dict[str, Any]) -> None:
        """After a round: evaluation where it is due, the best so far, one row."""
        federation, round = self.federation, found["round"]
        self.played.append(found)
        row = {"stage": self.label, "step": self.steps, "epoch": round}
        row |= {f"train/{name}": value for name, value in found["metrics"].items()}
        row |= {f"train/{name}": found[name] for name in ("called", "came", "bytes_up", "bytes_down")}
        row |= {"train/clipped": len(found["clipped"])} if "clipped" in found else {}
        if (round + 1) % self.every == 0 or round + 1 == federation.server.rules.rounds:
            values = self._evaluated("val")
            self.val["last"] = values
            mean = means(values, federation.task)
            if self._better(mean[self.monitor]):
                self.best, self.val["best"] = round, values
                federation.engine.keep(round)
                self.best_arrays = dict(federation.server.arrays)
            self.history.append({"epoch": round, "step": self.steps, **mean})
            row |= {f"val/{name}": value for name, value in mean.items()}
            self.report.epoch(self.label, round, federation.server.rules.rounds, mean)
        self.rows.append(row)
        self.report.rows([row])

    def _evaluated(self, split: str, which: str = "last") -> list[dict[str, float]]:
        """Each client's metrics; nan where a client did not answer, which is noted where it is left out."""
        federation, server = self.federation, self.federation.server
        arrays = server.arrays if which == "last" else self.best_arrays
        sent = arrays if federation.shared else None
        phase = self.ledger.energy.enter(EVALUATE)
        found = federation.engine.evaluate(range(len(federation.clients)), split, sent, best=which == "best")
        self.ledger.energy.enter(phase)
        self._answered = any(not isinstance(values, Failure) for values in found.values())
        for client, values in found.items():
            if isinstance(values, Failure):
                server.left_out[client].append((server.round - 1, f"not evaluated: {values.reason}"))
                found[client] = dict.fromkeys(federation.task.METRICS, float("nan"))
        return [found[client] for client in sorted(found)]

    def _better(self, value: float | None) -> bool:
        best = None if self.best is None else means(self.val["best"], self.federation.task)[self.monitor]
        if value is None or best is None:
            return self.best is None or value is not None
        return value > best if self.federation.task.METRICS[self.monitor] == "max" else value < best

    @property
    def steps(self) -> int:
        """Optimisation steps of all networks so far."""
        return sum(loop.counted["steps"] for loop in self._loops())

    def _loops(self) -> list[Loop]:
        return [*(client.loop for client in self.federation.clients), self.federation.server.resources.loop]

    def _maybe_save(self) -> None:
        stop = self.report.stop_requested()
        between = self.federation.engine.elsewhere and not self.federation.server.done
        if stop or between or time.monotonic() - self._saved >= self.seconds:
            self.save()
        if stop:
            raise Interrupted

    def save(self) -> None:
        """The state as it is, between two clients or two rounds."""
        server, engine = self.federation.server, self.federation.engine
        numbers = {
            "server": server.numbers(),
            "clients": engine.numbers(),
            "rows": [json.dumps(row) for row in self.rows],  # as text: their keys stay in order
            **{name: getattr(self, name) for name in ("history", "played", "val", "best")},
            "ledger": self.ledger.state(),
        }
        parts = {**server.parts(), **engine.parts()}
        if self.best_arrays:
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in self.best_arrays.items()}
            parts["global-best"] = (str(self.best), tensors)
        self.kept.save(numbers, parts)
        engine.saved(server.round)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        found, problems = self.kept.load()
        if problems:
            mended(
                f"{self.label}: {'; '.join(problems)}; it {'starts again' if found is None else 'continues from the state before'}"
            )
        if found is None:
            return
        numbers, parts = found
        self.federation.server.restore(numbers["server"], parts)
        self.federation.engine.restore(numbers["clients"], parts)
        self.rows = [json.loads(row) for row in numbers["rows"]]
        for name in ("history", "played", "val", "best"):
            setattr(self, name, numbers[name])
        self.best_arrays = {name: tensor.numpy() for name, tensor in parts.get("global-best", {}).items()}
        self.ledger.resume(numbers["ledger"])
        self.report.rows(self.rows)

    def finish(self) -> dict[str, Any]:
        """Test of the best and of the last round, weights, and the outcome."""
        federation, training = self.federation, self.ledger.totals()
        first_step = self._first_step()
        test = {"last": self._evaluated("test")}
        last_is_best = self.best == federation.server.rules.rounds - 1
        test["best"] = test["last"] if last_is_best else self._evaluated("test", "best")
        outcome = outcome_of(self, test, first_step, training)
        if self._answered and outcome["val"]["last"].get("loss", 0.0) is None:
            outcome["diverged"] = (
                f"after {len(self.played)} rounds no client has a finite loss: the federation diverged"
            )
        outcome |= {"incidents": federation.engine.incidents} if federation.engine.incidents else {}
        outcome["cost"] |= {"cpu_seconds": None} if federation.engine.elsewhere else {}
        row = {"stage": self.label, "step": self.steps, "epoch": federation.server.rules.rounds - 1}
        row |= {f"test/{name}_{w}": value for w in ("best", "last") for name, value in outcome["test"][w].items()}
        self.report.rows([row])
        self._leave(outcome, [*self.rows, row])
        return outcome

    def _first_step(self) -> dict[str, Any]:
        """{term: value and gradient at its first use, of the first client that used it}. Raises NoEffect for one that no
        client could use in more than one round."""
        seen: dict[str, Any] = {}
        for loop in self._loops():
            seen = {**loop.seen, **seen}
        unseen = [name for name in self.federation.method.terms if name not in seen]
        if unseen and any(found["came"] for found in self.played[1:]):
            raise NoEffect(f"the {' and '.join(unseen)} term was 0 in every step of every client: it did nothing")
        return seen

    def _leave(self, outcome: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Weights, metrics.jsonl and outcome.json in the work folder."""
        federation, spec = self.federation, self.federation.module.spec
        write_atomic(self.work / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_json(self.work / "outcome.json", outcome)
        if federation.method.JUDGED == "private":
            federation.engine.leave(self.work, spec, federation.nodes["private"])
        if (proxy := federation.server.resources.network) is not None:
            for which, arrays in (("last", federation.server.arrays), ("best", self.best_arrays)):
                load(proxy, arrays)
                save_weights(proxy, self.work / f"{which}.safetensors", spec, federation.nodes["proxy"])
