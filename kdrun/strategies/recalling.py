"""What holds a network to questions of earlier tasks without any sample of them: MoInCL (Pian et al. 2024, arXiv 2412.13050).

The equations of the paper could not be read; those here follow its abstract and its public reviews. What was inferred is marked so where it
is an option (strategies.continual).

Pseudo target generation (PTGM): inputs of the new task are asked questions of earlier types about the same modality; the network before answers,
and its answers are learned like labels.
Instruction-based distillation (IKD): the network before writes something to wordings of earlier types without any input; the new one is held to its
distribution over tokens there.

    L = L_task + w_p * mean of CE over answers of PTGM + w_i * mean of T^2 KL(before || new) over tokens of IKD
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdrun.lab.stages.generate import Generate
from kdrun.schema import Teacher, defaults
from kdrun.strategies.cast import distil, merged

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.fit import Fit
    from kdrun.strategies.cast import Cast

REPEATED = 0.5
"""Largest share of repeated words in a pseudo target (inferred; see data.filters)."""


@dataclass(frozen=True)
class Recalling:
    """Weights, and what is asked; see Continual. kept: of pseudo targets; tokens: most of what is written."""

    pseudo_weight: float
    kept: float
    instruction_weight: float
    temperature: float
    instructions: int
    tokens: int

    def stage(self, lab: Lab, cast: Cast, plain: Fit, old: list[str]) -> Fit | None:
        """`plain` with both terms; None where neither has anything to say. old: types of questions of the tasks before.

        Nothing is asked by PTGM where no task before was about the modality of this one.
        """
        start, student, node = plain.start, cast.student, cast.domain.divided[0]
        new = plain.data[node]["types"]
        modality_of = lab.known_of(student.stage(None)["data"])["modality_of"]
        here = {modality_of.get(name) for name in new}
        recalled = [name for name in old if modality_of.get(name) in here] if self.pseudo_weight else []
        instructed = old if self.instruction_weight else []
        if not recalled and not instructed:
            return None
        asks = {"recalled": recalled, "instructed": instructed, "instructions": self.instructions}
        data = merged({node: plain.data[node]}, {node: asks})
        of_asked = student.stage(merged(data, {node: {"answered": False}}))["data"]
        teaching = {**defaults(Teacher), "unchecked": True}  # of tasks that it has not learned it knows nothing
        answers = lab.get(
            Generate(
                f"{plain.role}_asked",
                of_asked,
                {"max_extra": self.tokens},
                plain.hardware,
                start.stage.seed,
                start,
                {key: teaching[key] for key in ("accuracy", "tolerance")},
                {"shortest": 1, "repeated": REPEATED, "likeliest": self.kept},
            )
        )
        terms = {name: {**term, "over": "own"} for name, term in plain.objective.items()}
        if recalled:
            terms["pseudo"] = {"_target_": "kdrun.objectives.ce.ce", "weight": self.pseudo_weight, "over": "recalled"}
        if not instructed:
            return replace(plain, data=student.stage(data)["data"], objective=terms, generated=answers)
        terms["instructions"] = {
            "_target_": "kdrun.objectives.kd.kd",
            "weight": self.instruction_weight,
            "temperature": self.temperature,
            "over": "instructed",
        }
        settings = {"objective": terms, "teaching": teaching, "data": data, "sees": {}}
        return replace(distil(student, start, start=start, role=plain.role, **settings), generated=answers)
