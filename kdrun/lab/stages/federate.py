"""The stage in which clients learn together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun import losses
from kdrun.defaults import canonical, canonical_objective
from kdrun.federation.methods.options import METHODS, options_of
from kdrun.federation.request import FederationRequest
from kdrun.lab.fingerprint import device, domain_modules, identity, kept, targets_in, versions
from kdrun.lab.stages.base import Execution, Look, Stage
from kdrun.present.units import magnitude
from kdrun.protocol import refuse_published

if TYPE_CHECKING:
    from kdrun.lab.fingerprint import FingerprintContext


@dataclass(frozen=True)
class Federate(Stage):
    """Clients that learn together, each from samples of its own, over rounds: one stage, resumed after any client.

    learner     {"name", "network": node of what travels}, for labels
    federation  everything else that decides, in JSON types: see kdrun.federation.request.FederationRequest
    trainer     the settings TRAINER of a trainer, and accumulate, groups and schedule where clients use them
    """

    TRAINER: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "eval_batch_size",
        "optimizer",
        "clip",
        "monitor",
        "mode",
        "checkpoint_seconds",
    )

    role: str
    learner: dict[str, Any]
    federation: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    hardware: dict[str, Any]
    seed: int
    metrics: dict[str, Any] = field(default_factory=dict)
    objective: ClassVar[None] = None
    told: ClassVar[tuple[str, ...]] = ("clients", "bytes", "clusters")

    @property
    def taught(self) -> bool:
        return self.federation["method"] != "local"

    @property
    def networks(self) -> list[dict[str, Any]]:
        server = self.federation.get("server")
        return [*self.federation["private"], self.federation["proxy"], *([] if server is None else [server])]

    def parts(self, context: FingerprintContext) -> dict[str, Any]:
        """Epochs of the trainer have no part in it."""
        refuse_published(self.data, "the round by which a federation is judged")
        method = METHODS[self.federation["method"]][0].partition(".")[0]
        modules = ["kdrun.federation.run", f"kdrun.federation.methods.{method}", *domain_modules(self.data)]
        modules += targets_in(self.federation, self.data, self.trainer, self.metrics)
        trainer = [key for key in self.trainer if key not in ("eval_batch_size", "checkpoint_seconds")]
        federation = canonical(kept(self.federation, "federation"), numbers=True)
        if "objective" in federation:
            modules += [losses.resolve(name, node)[0] for name, node in self.federation["objective"].items()]
            federation["objective"] = canonical_objective(self.federation["objective"], numbers=True)
        options = options_of(self.federation["method"], self.federation.get("options") or {})
        later = [name for name in options.added if getattr(options, name) is None]
        federation["options"] = {name: value for name, value in asdict(options).items() if name not in later}
        return {
            "federation": federation,
            "data": identity(self.data, context),
            "trainer": canonical({key: self.trainer[key] for key in trainer}, numbers=True),
            "seed": self.seed,
            "code": context.sources.versions(modules),
            "versions": versions("torch", "lightning"),
            "device": device(self.hardware, context),
            **({"metrics": canonical(self.metrics, numbers=True)} if self.metrics else {}),
        }

    def parts_after(self, tree: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
        """Machines or lines that failed make another result than that of `tree`: it cannot be repeated."""
        return {**tree, "incidents": outcome["incidents"]} if outcome.get("incidents") else tree

    def plan(self, look: Look) -> dict[str, Any]:
        from kdrun.federation.plan import planned

        found = planned(self, look.module)
        return {
            "learner": self.learner["name"],
            "network": self.learner["network"]["_target_"],
            "weights": None,
            "teacher": None,
            "start": None,
            "objective": {},
            "terms": {},
            "untrained": [],
            "epochs": found["rounds"],
            "parameters": sum(private["parameters"] for private in found["private"]),
            "trainable": found["parameters"],
            "flops": None,
            "federation": found,
            "about": _about(found),
            "estimate": {
                "seconds": None,
                "steps": found["steps"],
                "samples": None,
                "flops": None,
                "method": "not estimated",
            },
        }

    def run(self, execution: Execution) -> dict[str, Any]:
        from kdrun.federation.start import run_federation

        names = ("label", "federation", "data", "trainer", "hardware", "seed", "metrics")
        settings = {name: getattr(self, name) for name in names}
        request = FederationRequest(execution.fingerprint, work=execution.work, energy=execution.energy, **settings)
        outcome = run_federation(request, execution.report, execution.workshop)
        if outcome.get("diverged"):  # it goes on when clients go wrong; what is left in the end is no result
            raise FloatingPointError(outcome["diverged"])
        return outcome


def _about(found: dict[str, Any]) -> list[str]:
    """Lines for people on a planned federation."""
    partition, samples = found["partition"], sorted(found["partition"]["samples"])
    how = partition["kind"] + (f", alpha {partition['alpha']:g}" if partition["kind"] != "iid" else "")
    networks = ", ".join(f"{one['network'].rpartition('.')[2]} {one['parameters']:,}" for one in found["private"])
    said = f"predictions on {found['public']:,} public samples travel"
    travels = {None: "nothing travels", "predictions": said}.get(
        found["travels"], f"a {found['travels']} network of {magnitude(found['parameters'])} parameters travels"
    )
    sent = f", about {magnitude(found['bytes'])}B in all (estimate)" if found["bytes"] else ""
    return [
        f"{found['clients']} clients ({how}): {samples[0]:,} to {samples[-1]:,} training samples each",
        f"private networks, parameters: {networks}",
        f"{found['rounds']} round{'s' * (found['rounds'] != 1)}, at most {found['steps']:,} steps of clients; {travels}{sent}",
    ]
