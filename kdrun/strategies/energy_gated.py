"""strategy=energy_gated: proxies travel, and teach private networks as far as these agree with them (FedeKD, arXiv 2605.05553)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.federation.methods.options import GatedOptions
from kdrun.strategies.cast import Cast
from kdrun.strategies.clients import Federated, checked

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class EnergyGated(Federated, GatedOptions):
    """Each client keeps a private network of any make and sends only a proxy; the average of the proxies teaches the private
    networks, sample by sample, weighted by a gate on the disagreement of the two.

    backward_epochs, forward_epochs
                 of a round: the private network's, and the proxy's
    directions   both; forward: only private networks teach; backward: only the global proxy teaches. A network that is not
                 taught learns from labels alone, in as many steps
    order        which step of a round comes first (inferred)
    first_round  before it the global proxy has learned nothing. labels: private networks learn from labels alone; skip: they
                 do not learn (both inferred)
    energy       auto: disagreement for classes (symmetric divergence), squared_error for numbers; free_energy, entropy
    energy_norm  of the disagreement: by both entropies, or by log C (both readings of a digest of the paper)
    gate         logistic; hard: 1 below the mean, else 0; constant: 0.5, about the mean of the logistic gate, so that only
                 the choice of samples differs (another constant: gate=off with this backward_weight); off: 1
    beta         slope of the logistic gate
    temperature  of energy and distillation (inferred)
    statistics   of energies, by which they are normalised: of the batch, or running (for batches below 8)
    gate_grad    whether gradients flow through the gate (inferred: no)
    backward_weight, forward_weight
                 of what is taught, beside labels with 1 (inferred)
    """

    arms: ClassVar[dict[str, str]] = {
        **Federated.arms,
        "gate_off": "the same without a gate",
        "gate_constant": "the same with a constant gate of 0.5",
        "forward_only": "only private networks teach",
        "backward_only": "only the global proxy teaches",
    }

    variants: ClassVar = {
        "gate_off": {"gate": "off"},
        "gate_constant": {"gate": "constant"},
        "forward_only": {"directions": "forward"},
        "backward_only": {"directions": "backward"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checked("energy_gated", self._options())

    def run(self, lab: Lab, cast: Cast, role: str = "student") -> Result:
        return self.fitted(lab, self.federate(cast, role, "energy_gated", self._options()))

    def label(self, cast: Cast) -> str:
        return "clients, energy-gated"

    def budget(self) -> dict[str, Any]:
        return {"backward_epochs": self.backward_epochs, "forward_epochs": self.forward_epochs}

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(GatedOptions)}
