"""Flower's simulation: the server in a thread of this process, clients in processes of Ray on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.federation.request import FederationRequest
from kdrun.federation.run import played
from kdrun.learning.report import Report
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.learning.teaching import Workshop

LOGGERS = ("flwr", "ray")


def simulate(request: FederationRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """The outcome of the federation, played by Flower's run_simulation. Clients keep what is theirs below the work folder."""
    import torch

    with _logged():
        import ray
        from flwr.app import Context
        from flwr.serverapp import Grid, ServerApp
        from flwr.simulation import run_simulation

        from kdrun.federation.flower.client_app import client_app
        from kdrun.federation.flower.engine import assemble_remote

        folder, ended = Path(request.work) / "federation" / "clients", threading.Event()
        threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        paths = json.dumps(request.federation["engine"]["paths"])
        settings = {"request": json.dumps(request.to_json()), "paths": paths, "threads": threads, "folder": str(folder)}
        outcomes: list[dict[str, Any]] = []
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            put_together = partial(assemble_remote, grid=grid, report=report, ended=ended.is_set, folder=folder)
            outcomes.append(played(request, report, workshop, put_together))

        client = {"num_cpus": min(threads, cores), "num_gpus": int(request.hardware["device"] == "cuda")}
        report.note(
            f"Flower's simulation: {request.federation['clients']} clients, {cores // client['num_cpus']} at a time"
        )
        with _ray(ray, cores):
            try:
                run_simulation(
                    server,
                    client_app(settings),
                    request.federation["clients"],
                    backend_config={"client_resources": client},
                )
            finally:
                ended.set()  # the server's thread must not wait for clients that are gone
    return outcomes[0]


@contextlib.contextmanager
def _ray(ray: Any, cores: int) -> Iterator[None]:
    """Ray on this machine alone, with this process' path of modules; signals stay with whoever had them."""
    if ray.is_initialized():
        raise UserError(
            "strategy.engine=flower starts Ray, and this process is one of Ray's already",
            "launch the sweep otherwise: jobs=2, or hydra/launcher=submitit_local",
        )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    main = threading.current_thread() is threading.main_thread()
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
        for number, handler in handlers.items() if main else ():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()
        for number, handler in handlers.items() if main else ():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What Flower and Ray say goes the way of all log lines, and to no console of their own."""
    import flwr.supercore.logger  # noqa: F401 - it makes a console of its own when it is imported
    import ray  # noqa: F401

    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in LOGGERS}
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.setLevel(logging.INFO if name == "flwr" else logging.ERROR)
    try:
        yield
    finally:
        for name, (handlers, level) in before.items():
            logging.getLogger(name).handlers = handlers
            logging.getLogger(name).setLevel(level)
