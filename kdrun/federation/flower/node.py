"""A client on a machine of its own: the same client, whose state lies in a folder of its own between calls. No flwr."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shutil
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from kdrun.federation.assemble import Setting
from kdrun.federation.client import Client
from kdrun.federation.engine import answer, save_private
from kdrun.federation.faults import Failure
from kdrun.federation.flower.calls import FIT, TEST, Answer, Call
from kdrun.federation.kept import MANIFEST, Kept
from kdrun.federation.messages import Broadcast
from kdrun.federation.request import FederationRequest
from kdrun.files import Damaged, read_json
from kdrun.learning.firststep import NoEffect
from kdrun.learning.teaching import Workshop
from kdrun.problems import UserError

STAYS = ("running",)
"""Of client.numbers, what is nobody else's business."""


def answered(text: str, paths: dict[str, str], threads: int, number: int, folder: Path, call: Call) -> Answer:
    """The answer of client `number` of the federation whose request is this JSON text.

    paths    where data are on this machine, see domains.load.load_data
    threads  of torch in this process: the order of a sum over threads changes its last bits
    folder   under which the clients of this machine keep what is theirs
    What went wrong is an answer too, without what an exception may say of the samples.
    """
    torch.set_num_threads(threads)
    own = folder / f"client-{number:02d}"
    own.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(own / "lock"):
            return _node(text, json.dumps(paths), number, own)(call)
    except (NoEffect, UserError) as error:
        lines = error.lines if isinstance(error, UserError) else [str(error)]
        return Answer(ended=(type(error).__name__, *lines))
    except Exception as error:
        logging.getLogger("kdrun").exception("client %d failed", number)
        with open(own / "errors.log", "a", encoding="utf-8") as file:
            file.write(f"round {call.round}, {call.what}:\n{traceback.format_exc()}\n")
        return Answer(failure=f"it failed: {type(error).__name__} (errors.log in its folder says more)", chance=True)


@lru_cache(maxsize=1)
def _setting(text: str, paths: str) -> Setting:
    from kdrun.domains.load import load_data

    places = json.loads(paths)
    return Setting(
        FederationRequest.from_json(json.loads(text)),
        Workshop(lambda config: load_data(config, places), Path("outputs")),
    )


@lru_cache(maxsize=256)
def _node(text: str, paths: str, number: int, folder: Path) -> Node:
    return Node(_setting(text, paths), number, folder, json.loads(text)["fingerprint"])


@dataclass(frozen=True)
class Past:
    """What a client had after a round in which it worked. turn: of the call for it."""

    turn: int
    numbers: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, client: Client, turn: int) -> Past:
        tensors = client.tensors().get("private", {})
        return cls(turn, copy.deepcopy(client.numbers()), {name: tensor.clone() for name, tensor in tensors.items()})


class Node:
    """Answers calls for one client. Every answer is a function of the call and of what is in the folder.

    What the client has (its private network, numbers) is kept once for every round in which it worked. A call for a round
    begins with the last of these before (or at) it, so that a server that goes back to an earlier round, and a call that
    comes twice, get the same answers. Of older rounds only what the best round and the last saved one need is kept. What is
    tested is left beside it: client-NN.last.safetensors and client-NN.best.safetensors.

    setting  what the request of the federation says
    number   of the client
    folder   its own; nothing in it leaves this machine
    stage    fingerprint of the federation
    """

    def __init__(self, setting: Setting, number: int, folder: Path, stage: str):
        self.setting, self.client, self.folder, self.stage = setting, setting.client(number), folder, stage
        self._first = Past.of(self.client, 0)

    def __call__(self, call: Call) -> Answer:
        client = self.client
        kept, rounds, turn = self._open(call)
        if call.turn < turn:
            return Answer(failure="its answer was no longer waited for", chance=True)
        if call.what == FIT:  # what it did in a round that is played again, and after it, is no more
            rounds = {round: past for round, past in rounds.items() if round < call.round}
        self._go_back(self._at(rounds, call.round))
        found, metrics = None, None
        if call.what == FIT:
            fits = client.fits
            found = answer(client, self.setting.faults, Broadcast(call.round, call.arrays))
            if client.fits > fits:
                rounds[call.round] = Past.of(client, call.turn)
        if call.split:
            client.best = self._at(rounds, call.best).tensors
            metrics = client.evaluate(call.split, call.arrays or None, best=call.which == "best")
        if call.split == TEST and client.private is not None:  # it is through: the networks are for whoever owns them
            node, spec = self.setting.private[client.number], self.setting.module.spec
            save_private(self.folder, client.number, client.private, client.best, spec, node)
        _save(kept, _needed(rounds, call), call.turn)
        if isinstance(found, Failure):
            return Answer(self._facts(), metrics=metrics, failure=found.reason)
        return Answer(self._facts(), found, metrics)

    def _open(self, call: Call) -> tuple[Kept, dict[int, Past], int]:
        """(the folder, what it holds by round, the turn of the last call)."""
        identity = {"stage": self.stage, "run": call.run, "client": self.client.number}
        state = self.folder / "state"
        with contextlib.suppress(Damaged, KeyError, TypeError):
            if (state / MANIFEST).is_file() and read_json(state / MANIFEST)["identity"] != identity:
                shutil.rmtree(state)
        kept = Kept(state, identity)
        known, problems = kept.load()
        if problems:  # the server goes on from what this client had, so that to begin again would give other numbers
            raise Damaged(
                f"client {self.client.number}: {'; '.join(problems)}",
                "kdrun run with --force begins the federation again",
            )
        numbers, parts = known or ({"rounds": {}, "turn": 0}, {})
        rounds = {
            int(round): Past(turn, own, parts.get(f"round-{round}", {}))
            for round, (turn, own) in numbers["rounds"].items()
        }
        return kept, rounds, numbers["turn"]

    def _at(self, rounds: dict[int, Past], round: int) -> Past:
        """What the client had after `round`: that of the last round up to it in which it worked, else its beginning."""
        return rounds.get(_last(rounds, round), self._first)

    def _go_back(self, past: Past) -> None:
        """What grows with every call, also with those that change nothing, begins at 0: the server adds it up, and goes back
        with its own sums (engine.Shadow.told)."""
        numbers = {**copy.deepcopy(past.numbers), "evaluated": 0, "phases": {}}
        self.client.restore(numbers, {"private": past.tensors})

    def _facts(self) -> dict[str, Any]:
        client = self.client
        numbers = {name: value for name, value in client.numbers().items() if name not in STAYS}
        samples = {split: len(shard) for split, shard in client.shards.items()}
        return {"client": client.number, "samples": samples, "numbers": numbers}


def _last(rounds: dict[int, Past], round: int) -> int | None:
    return max((known for known in rounds if known <= round), default=None)


def _needed(rounds: dict[int, Past], call: Call) -> dict[int, Past]:
    """What may still be asked for: the best round, the beginning of the first round that may come again, and all after it."""
    fixed = {_last(rounds, call.best), _last(rounds, call.saved - 1)}
    return {round: past for round, past in rounds.items() if round >= call.saved or round in fixed}


def _save(kept: Kept, rounds: dict[int, Past], turn: int) -> None:
    numbers = {"turn": turn, "rounds": {round: [past.turn, past.numbers] for round, past in rounds.items()}}
    kept.save(numbers, {f"round-{r}": (str(past.turn), past.tensors) for r, past in rounds.items() if past.tensors})
