"""The server's side of Flower: calls go through a Grid, and what comes back is put in the order of the clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from kdrun.federation.assemble import Federation, Setting
from kdrun.federation.client import Client, summed
from kdrun.federation.faults import Failure
from kdrun.federation.flower.calls import EVALUATE, FIT, WHO, Answer, Call, versions
from kdrun.federation.flower.records import answer_of, call_records
from kdrun.federation.messages import Arrays, Broadcast, Update
from kdrun.federation.request import FederationRequest
from kdrun.learning.firststep import NoEffect
from kdrun.learning.report import Interrupted, Report
from kdrun.learning.teaching import Workshop
from kdrun.problems import UserError

TYPES = {WHO: "query", FIT: "train", EVALUATE: "evaluate"}
"""Flower's type of message for each kind of call."""
EARLY = "val"
POLL, WHO_SECONDS, WAIT_TOLD = 0.1, 120.0, 20.0
"""Seconds between two looks for answers; for an answer to who one is; before it is told that clients are waited for."""
ENDS = {error.__name__: error for error in (NoEffect, UserError)}
"""Exceptions of a client that end the run, as they do in one process."""


class Shadow(Client):
    """What the server knows of a client elsewhere: what it said of itself in numbers. Its private network here is one of
    the same make with other weights, for sizes and FLOPs, and it has no samples."""

    def __init__(self, setting: Setting, number: int, form: Any):
        nothing = {split: range(0) for split in ("train", "val", "test")}
        super().__init__(number, nothing, setting.client_loop(number), setting.method, form, setting.proxy)

    def told(self, facts: Mapping[str, Any] | None) -> None:
        """Takes in what the client said last."""
        if facts and "numbers" in facts:
            numbers = {**self.numbers(), **facts["numbers"]}
            numbers["evaluated"] += self.evaluated
            numbers["phases"] = summed(self.phases, numbers["phases"])
            self._know(facts["samples"], numbers)

    def _know(self, samples: Mapping[str, int], numbers: dict[str, Any]) -> None:
        self.shards = {split: range(count) for split, count in samples.items()}
        self.restore(numbers, {"private": self._state["private"]})

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Knows again what `facts` gave."""
        self._know(facts["samples"], facts["numbers"])

    def facts(self) -> dict[str, Any]:
        """All that it knows."""
        return {"samples": {split: len(shard) for split, shard in self.shards.items()}, "numbers": self.numbers()}


def assemble_remote(
    request: FederationRequest,
    workshop: Workshop,
    grid: Grid,
    report: Report,
    ended: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
) -> Federation:
    """As assemble.assemble, with clients that are reached through `grid`; see FlowerEngine for the rest."""
    setting = Setting(request, workshop)
    forms: dict[str, Any] = {}
    clients = []
    for number in range(setting.rules.clients):
        node = setting.private[number]
        if setting.method.JUDGED == "private" and repr(node) not in forms:
            forms[repr(node)] = setting.network(node, "form")
        clients.append(Shadow(setting, number, forms.get(repr(node))))
    config = request.federation
    every, rounds = config.get("eval_every") or 1, setting.rules.rounds

    def due(round: int) -> bool:
        return setting.method.JUDGED == "private" and ((round + 1) % every == 0 or round + 1 == rounds)

    engine = FlowerEngine(grid, clients, report, config["engine"]["timeout"], due, ended, folder)
    return setting.federation(clients, engine)


class FlowerEngine:
    """Calls clients by Flower messages; see engine.Engine.

    timeout  seconds after which an answer is no longer waited for
    due      whether clients can be validated after their work in a round, before the server has combined it
    ended    whether what carries the messages has ended
    folder   under which all clients keep what is theirs, where that is on this machine and this run's own
    """

    elsewhere = True

    def __init__(
        self,
        grid: Grid,
        clients: Sequence[Shadow],
        report: Report,
        timeout: float,
        due: Callable[[int], bool] = lambda round: False,
        ended: Callable[[], bool] = lambda: False,
        folder: Path | None = None,
    ):
        self.grid, self.clients, self.report, self.timeout = grid, clients, report, timeout
        self.due, self.ended, self.folder = due, ended, folder
        self._early: tuple[int, dict[int, Any]] = (-1, {})
        self.incidents: list[list[Any]] = []
        self._run = uuid4().hex
        self._best, self._saved, self._turn = -1, 0, 0
        self._round = 0
        self._nodes: dict[int, int] = {}  # node by client
        self._known: set[int] = set()  # nodes that have said who they are
        self._met, self._began = False, time.monotonic()

    def fit(self, broadcasts: Mapping[int, Broadcast]) -> Iterator[tuple[int, Update | Failure]]:
        """Where a private network will be validated after this round, that is asked for in the same message."""
        if not broadcasts:
            return
        self._round = round = next(iter(broadcasts.values())).round
        split, before = EARLY if self.due(round) else "", len(self.incidents)
        found = self._ask(FIT, {client: one.arrays for client, one in broadcasts.items()}, split=split)
        if len(broadcasts) > 1 and len(self.incidents) - before == len(broadcasts):
            # Not one machine, but what all have in common: rounds without anybody would be played to the end.
            raise RuntimeError(f"no client could work in round {round}: {self.incidents[-1][2]}")
        self._early = (round, {number: one.metrics for number, one in found.items() if isinstance(one, Answer)})
        for number, answer in sorted(found.items()):
            yield number, answer if isinstance(answer, Failure) else answer.update

    def evaluate(
        self, clients: Iterable[int], split: str, arrays: Arrays | None = None, best: bool = False
    ) -> dict[int, dict[str, float] | Failure]:
        early = split == EARLY and not best and self._early[0] == self._round and self.due(self._round)
        known, which = self._early[1] if early else {}, "best" if best else "last"
        asked = [number for number in clients if number not in known]
        found = self._ask(EVALUATE, dict.fromkeys(asked, arrays or {}), split=split, which=which) if asked else {}
        found = {number: one if isinstance(one, Failure) else one.metrics for number, one in found.items()}
        return {number: found[number] if number in found else dict(known[number]) for number in clients}

    def keep(self, round: int) -> None:
        self._best = round

    def saved(self, round: int) -> None:
        self._saved = round

    def leave(self, folder: Path, spec: Any, nodes: Sequence[dict[str, Any]]) -> None:
        """Clients wrote them into their own folders when they were tested; those that lie on this machine are moved."""
        for path in sorted(self.folder.glob("client-*/*.safetensors")) if self.folder else ():
            path.replace(folder / path.name)

    # kept between tries, see kept.py

    def numbers(self) -> dict[str, Any]:
        facts = [client.facts() for client in self.clients]
        own = {"run": self._run, "best": self._best, "round": self._round, "incidents": self.incidents}
        return {**own, "facts": facts}

    def parts(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Nothing: clients keep what is theirs."""
        return {}

    def restore(self, numbers: dict[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
        self._run, self._best, self._round = (numbers[name] for name in ("run", "best", "round"))
        self.incidents = numbers["incidents"]
        for client, facts in zip(self.clients, numbers["facts"], strict=True):
            client.recall(facts)

    # messages

    def _ask(self, what: str, arrays: Mapping[int, Arrays], **call: Any) -> dict[int, Answer | Failure]:
        """The answer of each client to its arrays, Failure where there is none: it is not there, said so, or took too long."""
        self._meet(list(arrays), time.monotonic() + self.timeout)
        until = time.monotonic() + self.timeout
        there = {self._nodes[number]: sent for number, sent in arrays.items() if number in self._nodes}
        replies = self._exchange(self._call(what, **call), there, until)
        found: dict[int, Answer | Failure] = {}
        for number in arrays:
            if number not in self._nodes:
                found[number] = self._missed(number, "it is not connected")
            elif (reply := replies.get(self._nodes[number])) is None:
                found[number] = self._missed(number, f"no answer in {self.timeout:g} seconds")
            elif reply.has_error():
                found[number] = self._missed(number, f"Flower says: {_line(reply.error.reason)}")
            else:
                found[number] = self._told(number, answer_of(reply.content))
        return found

    def _told(self, number: int, answer: Answer) -> Answer | Failure:
        if answer.ended:
            raise _ended(answer)
        self.clients[number].told(answer.facts)
        if answer.failure is None:
            return answer
        return self._missed(number, answer.failure) if answer.chance else Failure(answer.failure)

    def _missed(self, number: int, reason: str) -> Failure:
        self.incidents.append([number, self._round, reason])
        self.report.note(f"client {number}, round {self._round}: {reason}")
        return Failure(reason)

    def _call(self, what: str, **call: Any) -> Call:
        self._turn = max(self._turn + 1, time.time_ns())
        rest = {"round": self._round, "best": self._best, "saved": self._saved, **call}
        return Call(what, self._run, self._turn, **rest)

    def _meet(self, wanted: Sequence[int], until: float) -> None:
        """Finds out which client is at which node. At first all are waited for, later nobody is."""
        tried: set[int] = set()
        told = False
        while True:
            there = set(self.grid.get_node_ids())
            self._nodes = {number: node for number, node in self._nodes.items() if node in there}
            new = there - self._known - tried
            asked: dict[int, Arrays] = {node: {} for node in sorted(new)}
            replies = self._exchange(self._call(WHO), asked, min(until, time.monotonic() + WHO_SECONDS))
            for node, reply in replies.items():
                self._introduced(node, reply)
            tried |= set(replies)
            missing = sorted(set(wanted) - set(self._nodes))
            if not missing or self._met or time.monotonic() > until:
                self._met = True
                return
            if not told and time.monotonic() - self._began > WAIT_TOLD:
                told = True
                self.report.note(f"waiting for clients {', '.join(map(str, missing))} to connect")
            self._pause()

    def _introduced(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self.report.note(f"a node did not say who it is: {_line(reply.error.reason)}")
            return
        self._known.add(node)
        answer = answer_of(reply.content)
        number = answer.facts["client"] if answer.facts else None
        if answer.ended:
            raise _ended(answer)
        if number is None:
            self.report.note(f"a node is not called: {answer.failure}")
            return
        if number in self._nodes:
            self.report.note(f"client {number} is at two nodes; the one that came last is called")
        others = {name: found for name, found in answer.facts["versions"].items() if found != versions()[name]}
        if others:
            told = ", ".join(f"{name} {found} (here {versions()[name]})" for name, found in others.items())
            self.report.note(f"client {number} has {told}: its results may differ in their last bits")
        self._nodes[number] = node

    def _exchange(self, call: Call, arrays: Mapping[int, Arrays], until: float) -> dict[int, Message]:
        """Sends one call to all nodes, each with its arrays; the replies by node, of those that came in time."""
        left = max(until - time.monotonic(), POLL)
        records: dict[int, RecordDict] = {}  # many nodes are sent the same arrays
        waiting, replies = {}, {}
        for node, sent in arrays.items():
            if id(sent) not in records:
                records[id(sent)] = call_records(replace(call, arrays=sent))
            message = Message(records[id(sent)], node, TYPES[call.what], ttl=left)
            waiting |= dict.fromkeys(self.grid.push_messages([message]), node)
        while waiting and time.monotonic() < until:
            for reply in self.grid.pull_messages(list(waiting)):
                replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
            if waiting:
                self._pause()
        return replies

    def _pause(self) -> None:
        if self.report.stop_requested():
            raise Interrupted  # the round is played again from its beginning, which is saved
        if self.ended():
            raise RuntimeError("Flower ended before the federation did; what it said is in the log")
        time.sleep(POLL)


def _ended(answer: Answer) -> Exception:
    """What ended a client's work and concerns all of them."""
    kind, *lines = answer.ended
    return ENDS[kind](*lines) if kind in ENDS else RuntimeError(" ".join(answer.ended))


def _line(reason: str) -> str:
    """The last line of what may be a whole traceback."""
    lines = [line.strip() for line in str(reason).strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing"
