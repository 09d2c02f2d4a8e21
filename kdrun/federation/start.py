"""Where a federation runs: all clients in this process, or as Flower apps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdrun.federation.assemble import assemble
from kdrun.federation.request import FederationRequest
from kdrun.federation.run import played
from kdrun.learning.report import Report

if TYPE_CHECKING:
    from kdrun.learning.teaching import Workshop


def run_federation(request: FederationRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """Run the federation of `request`; plain data in, plain data out (see outcome.outcome_of).

    The work folder then holds client-NN.best.safetensors and client-NN.last.safetensors of private networks, best.safetensors
    and last.safetensors of what travels (where weights travel), and metrics.jsonl.
    Raises: Interrupted after the state was saved; BadUpdate where faults.on_bad=stop; NoEffect for a part of a loss that does
    nothing.
    """
    if request.federation.get("engine"):
        from kdrun.federation.flower.start import start as start_flower

        return start_flower(request, report, workshop)
    return played(request, report, workshop, assemble)
