"""Begin a federation under Flower: in its simulation, or on a SuperLink. flwr is imported here only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.federation.request import FederationRequest
from kdrun.learning.report import Report
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.learning.teaching import Workshop

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by itself, and warns of until then
}
"""Nothing is reported to anybody; what a person has set stays."""


def start(request: FederationRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """The outcome of run_federation with clients as Flower apps.

    request.federation["engine"]: name (flower), superlink (None: Flower's simulation on this machine; HOST:PORT; or the name
    of a connection in Flower's own config), timeout (seconds that the server waits for answers) and paths (where data are).
    Raises UserError where Flower is not installed.
    """
    engine = request.federation["engine"]
    superlink = engine["superlink"]
    require(superlink)
    places = {name: str(Path(path).expanduser().absolute()) for name, path in engine["paths"].items()}
    request = replace(request, federation={**request.federation, "engine": {**engine, "paths": places}})
    # A connection in a person's own config is looked up in their own folder; else nothing is left there.
    own = superlink is not None and ":" not in superlink
    home = {} if own else {"FLWR_HOME": str(Path(request.work, "flower").absolute())}
    with environment({**QUIET, **home}):
        if superlink is None:
            from kdrun.federation.flower.simulation import simulate

            return simulate(request, report, workshop)
        from kdrun.federation.flower.deployment import deploy

        return deploy(request, report)


def require(superlink: str | None = None) -> None:
    """Raises UserError where what `strategy.engine=flower` needs is not installed. Imports nothing."""
    needed = ("flwr", "ray") if superlink is None else ("flwr",)
    if missing := [name for name in needed if find_spec(name) is None]:
        raise UserError(f"strategy.engine=flower needs {' and '.join(missing)}", "pip install 'flwr[simulation]'")


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """These variables, where they are not set; afterwards the environment is as it was."""
    before = dict(os.environ)
    for name, value in values.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
