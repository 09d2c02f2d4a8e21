"""Flower's ClientApp: a message becomes a call to the client of this node, its answer the reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from kdrun.federation.flower.calls import WHO, Answer, versions
from kdrun.federation.flower.records import answer_records, call_of

FOLDER = "kdrun-client"
"""Folder of a client whose node names none, where its SuperNode was started."""


def client_app(settings: Mapping[str, Any] | None = None) -> ClientApp:
    """The app of all clients.

    settings  request (JSON text), paths (JSON text), threads and folder; None: request, paths and threads as the run's config
              has them, and of the node's own config folder, and cache instead of the server's
    The node's config says which client it is: partition-id, from 0.
    """
    app = ClientApp()

    def reply(message: Message, context: Context) -> Message:
        return Message(answer_records(_answer(message, context, settings)), reply_to=message)

    for register in (app.query(), app.train(), app.evaluate()):
        register(reply)
    return app


def _answer(message: Message, context: Context, settings: Mapping[str, Any] | None) -> Answer:
    node, given = context.node_config, context.run_config if settings is None else settings
    clients = json.loads(given["request"])["federation"]["clients"]
    number = node.get("partition-id")
    if not isinstance(number, int) or not 0 <= number < clients:
        return Answer(failure=f"its partition-id is {number}, clients are 0 to {clients - 1}")
    call = call_of(message.content)
    if call.what == WHO:
        return Answer({"client": number, "versions": versions()})
    from kdrun.federation.flower.node import answered  # with torch

    paths = json.loads(given["paths"])
    folder = given.get("folder")
    if settings is None:
        paths |= {"cache": node["cache"]} if "cache" in node else {}
        folder = Path(node.get("folder", FOLDER), json.loads(given["request"])["fingerprint"][:16])
    return answered(given["request"], paths, given["threads"], number, Path(folder).absolute(), call)


app = client_app()
