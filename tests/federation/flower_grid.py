"""Flower's messages without Flower's processes: a Grid that calls the ClientApp at once, and keeps copies of all that passes."""

from __future__ import annotations

import copy
import json
import pickle
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from kdrun.federation.flower.client_app import client_app
from kdrun.federation.flower.engine import assemble_remote
from kdrun.federation.flower.records import call_of
from kdrun.federation.run import played

from .plays import Silent, request, workshop


@contextmanager
def identity():
    """Messages can only be made by somebody: Flower's runtime says who, here this does."""
    names = ("run_id", "task_id", "node_id")
    before = {name: getattr(TaskIdentity, f"_{name}", None) for name in names}
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 1
    yield
    for name, value in before.items():
        setattr(TaskIdentity, f"_{name}", value)


class Here(Grid):
    """numbers: partition-ids of the nodes. silent(call, number): whether a client never answers. broken: as for an error reply.

    Answers come in the opposite order of the questions, and node ids say nothing of clients.
    """

    def __init__(self, settings, numbers, silent=lambda call, number: False, broken=lambda call, number: False):
        self.app, self.settings = client_app(settings), settings
        self.nodes = {9000 - 17 * place: number for place, number in enumerate(numbers)}
        self.silent, self.broken = silent, broken
        self.down, self.up, self._replies, self._count = [], [], {}, 0

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        pushed = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"m{self._count}"
            pushed.append(f"m{self._count}")
            number = self.nodes[message.metadata.dst_node_id]
            message = pickle.loads(pickle.dumps(message))
            self.down.append((number, copy.deepcopy(message)))
            call = call_of(message.content)
            if self.silent(call, number):
                continue
            if self.broken(call, number):
                reply = Message(Error(0, "Traceback\n  x\nActorDiedError: the actor died"), reply_to=message)
            else:
                config = {} if number is None else {"partition-id": number, "num-partitions": len(self.nodes)}
                context = Context(7, message.metadata.dst_node_id, config, RecordDict(), {})
                reply = pickle.loads(pickle.dumps(self.app(message, context)))
            self.up.append((number, copy.deepcopy(reply)))
            self._replies[pushed[-1]] = reply
        return pushed

    def pull_messages(self, message_ids):
        return [self._replies.pop(name) for name in sorted(message_ids, reverse=True) if name in self._replies]


def asked(work: Path, method: str, timeout: float = 60.0, **options):
    engine = {"name": "flower", "superlink": None, "timeout": timeout, "paths": {"cache": str(work / "cache")}}
    return request(work, method, engine=engine, **options)


def settings_of(question, folder: Path):
    paths = json.dumps(question.federation["engine"]["paths"])
    return {"request": json.dumps(question.to_json()), "paths": paths, "threads": 1, "folder": str(folder)}


def grid_of(work: Path, method: str, numbers=None, timeout: float = 60.0, **options) -> Here:
    """silent and broken go to the grid, all other options to the federation."""
    own = {name: options.pop(name) for name in ("silent", "broken") if name in options}
    question = asked(work, method, timeout, **options)
    numbers = range(question.federation["clients"]) if numbers is None else numbers
    return Here(settings_of(question, work / "clients"), numbers, **own)


def play_flower(work: Path, method: str, report=None, grid=None, **options):
    """As plays.play, over a grid."""
    grid = grid or grid_of(work, method, **options)
    options = {name: value for name, value in options.items() if name not in ("silent", "broken", "numbers")}
    question, report = asked(work, method, **options), report or Silent()
    put_together = partial(assemble_remote, grid=grid, report=report, folder=work / "clients")
    with identity():
        return played(question, report, workshop(work / "cache"), put_together)
