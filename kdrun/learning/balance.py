"""Terms of an objective brought to gradients of one size (`trainer.balance`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from kdrun.objectives.terms import Objective


class Balance:
    """Factors on the weights of terms, so that a weight says how large the gradient of its term is beside that of the reference.

        factor = |gradient of the reference| / |gradient of the term|,  by the student's parameters, of the raw means

    Each `every` steps the norms are measured and factors hold until the next time: the static form of what GradNorm (arXiv
    1711.02257) learns. The reference is the first term that needs no teacher (that of labels), else the first, and has the factor
    1, so that the learning rate means what it did. A term without a gradient yet (of two networks that are equal) has 1, and is
    measured again in the next step, as is one that had no weight so far. The state is `factors`.
    """

    def __init__(self, every: int):
        self.every, self._measures = every, True
        self.factors: dict[str, float] = {}

    def fixed(self) -> Balance:
        """One with these factors, which stay."""
        other = Balance(self.every)
        other.factors, other._measures = self.factors, False
        return other

    def measure(
        self, objective: Objective, raw: Mapping[str, Tensor], step: int, norm: Callable[[Tensor], float]
    ) -> None:
        """Takes the factors of a step from the raw means of a part of its batch. norm: of a scalar's gradient, over all ranks."""
        weighted = [name for name, weight in objective.weights(step).items() if weight and name in raw]
        missing = any(name not in self.factors for name in weighted)
        if not self._measures or len(weighted) < 2 or not (missing or step % self.every == 0):
            return
        labels = [term.name for term in objective.active if term.name in weighted and not term.needs_teacher]
        reference = (labels or weighted)[0]
        norms = {name: norm(raw[name]) for name in weighted}
        if not norms[reference]:
            return
        self.factors |= {name: norms[reference] / found for name, found in norms.items() if found}

    def of(self, objective: Objective) -> list[float]:
        """The factor of each active term."""
        return [self.factors.get(term.name, 1.0) for term in objective.active]

    def applied(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw means times their factors."""
        return {name: value * self.factors.get(name, 1.0) for name, value in raw.items()}
