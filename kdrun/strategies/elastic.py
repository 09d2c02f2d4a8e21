"""strategy=elastic: nested students of several sizes in one training run, cut out of their parent (Star Elastic, arXiv 2605.07182)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.lab.stages.combine import Combine
from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

ELASTIC, SLICE = "kdrun.networks.elastic.Elastic", "kdrun.networks.elastic.Slice"
BUDGETS = [1.0, 0.7, 0.4]
ROUTER = "router"


@dataclass(frozen=True)
class Elastic(Strategy):
    """Star Elastic (Taghibakhshi et al. 2026, arXiv 2605.07182; Nemotron Elastic, arXiv 2511.16664): the teacher is the parent. Its units are
    ranked by what they give on training samples, a router chooses for each budget how many of them every layer keeps, and all students are
    trained in the parent's weights, one budget drawn for each step, taught by the parent as it was. Then each is cut out and stands alone.

    `student.budgets=[1.0,0.7,0.4]` says how large they are, as shares of the parent's cost.

    cost         what a budget is a share of: parameters; macs (multiply-adds of one sample); latency (of one sample, measured where the job
                 runs); of a language model also memory (of parameters, keys and values)
    axes         of a language model, what may be narrowed: embedding, ffn (experts where there are), heads, layers; null: all
    calibration  training samples by which units are ranked
    sampling     of budgets: uniform; biased: in proportion to their size; curriculum: uniform in the first half of training, then biased
    router       whether a router learns the widths of each layer; false: the same share everywhere (MatFormer, arXiv 2310.07707)
    router_rate  learning rate of the router; null: 0.01, the paper's, and 0.5 with SGD
    router_loss  weight of the router's loss, the distance of the expected cost from the budget (objective.budget)
    widths       shares of its units that a group of layers may keep

    The result is one network for each budget, at the last epoch: the choice of the router is not settled before.
    """

    cost: str = "parameters"
    axes: list[str] | None = None
    calibration: int = 1024
    sampling: str = "curriculum"
    router: bool = True
    router_rate: float | None = None
    router_loss: float = 1.0
    widths: list[float] | None = None

    arms: ClassVar[dict[str, str]] = {
        "alone": "each size alone",
        "separate": "each size distilled",
        "random": "nested, no router",
        "uniform": "nested, uniform",
        "biased": "nested, biased",
        "width": "nested, width alone",
        "depth": "nested, depth alone",
        "pruned": "each size, only cut",
        "untaught": "each size cut, on labels",
    }
    variants: ClassVar = {
        "random": {"router": False, "sampling": "uniform"},
        "uniform": {"sampling": "uniform"},
        "biased": {"sampling": "biased"},
        "width": {"axes": ["embedding", "ffn", "heads"]},
        "depth": {"axes": ["layers"]},
    }
    against: ClassVar[str] = "separate"
    instead: ClassVar[dict[str, str]] = {
        "student.network": "the students are cut out of the teacher; student.budgets says how large they are",
        "student.weights": "the students begin with the teacher's weights",
        "assistants": "the students are cut out of the teacher; student.budgets says how large they are",
    }
    choices: ClassVar = {
        "cost": ("parameters", "memory", "macs", "latency"),
        "sampling": ("curriculum", "uniform", "biased"),
    }
    ranges: ClassVar = {
        "widths": (
            lambda widths: len(widths) > 1 and widths[0] == 1 and all(0 < b < a for a, b in pairwise(widths)),
            "shares from 1.0 down, above 0: [1.0, 0.75, 0.5, 0.25]",
        ),
        "calibration": (lambda count: count >= 1, "at least 1"),
        "router_rate": (lambda rate: rate > 0, "above 0"),
        "router_loss": (lambda weight: weight > 0, "above 0; strategy.router=false has no router"),
    }

    def check(self, cast: Cast) -> None:
        budgets = self._budgets(cast)
        if budgets != sorted(set(budgets), reverse=True) or budgets[0] != 1 or len(budgets) < 2:
            raise UserError(
                f"student.budgets={budgets}: shares of the teacher's cost, from 1.0 down, at least two of them",
                "for example student.budgets=[1.0,0.7,0.4]",
            )
        for name in ("compile", "activation_checkpointing"):
            if cast.config["trainer"].get(name):
                raise UserError(
                    f"trainer.{name}={cast.config['trainer'][name]}: parts of a nested student change with each budget",
                    f"teacher.trainer.{name} is of its parent alone",
                )

    def label(self, cast: Cast) -> str:
        return f"nested students of {cast.teacher.config['name']}"

    def run(self, lab: Lab, cast: Cast, role: str = "student") -> Result:
        parent, ranked = self._ranked(lab, cast)
        nested = self._nested(cast)
        objective, groups = dict(cast.config["objective"]), dict(nested.trainer.get("groups") or {})
        if self.router:
            objective["budget"] = {"weight": self.router_loss}
            sgd = nested.trainer["optimizer"]["_target_"].endswith(".SGD")
            rate = (0.5 if sgd else 0.01) if self.router_rate is None else self.router_rate
            groups[ROUTER] = {"parameters": None, "lr": rate, "factor": None, "weight_decay": 0.0}
        stage = distil(
            nested, parent, start=ranked, role=f"{role}_nested", objective=objective, pretrain=False, groups=groups
        )
        trained = lab.get(stage)
        parts = {}
        for budget in self._budgets(cast):
            learner = self._slice(cast, budget, routed=self.router)
            parts[budget] = lab.get(self._evaluated(learner, trained, f"{role}_{budget:g}", "last"))
        return lab.get(self._together(cast, role, parts, parent))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """One arm, a network for each budget.

        alone     as large as one share of all widths gives, on labels from random weights, for as many steps each as `run` takes for all
        separate  cut from the parent at such widths and taught by it; the epochs of `run` are divided among the budgets
        random, uniform, biased: `run` with other options
        pruned    cut from the parent at such widths, not trained; untaught: then trained on labels as long as in `separate`
        """
        if name in self.variants:
            return super().control(name, lab, cast)
        if name == "alone" and self.cost == "latency":
            raise UserError(
                "strategy.cost=latency: how large a student alone would be is known once the teacher was timed",
                "leave alone out of strategy.controls; untaught begins with the teacher's weights and learns from labels",
            )
        parent, ranked = (None, None) if name == "alone" else self._ranked(lab, cast)
        budgets, parts = self._budgets(cast), {}
        epochs = max(1, cast.student.trainer["epochs"] // len(budgets))
        for budget in budgets:
            learner, role = self._slice(cast, budget), f"{name}_{budget:g}"
            if name == "alone":
                stage = supervised(learner, role=role, pretrain=False)
            elif name == "separate":
                stage = distil(learner, parent, start=ranked, role=role, pretrain=False, epochs=epochs)
            elif name == "untaught":
                stage = supervised(learner, start=ranked, role=role, epochs=epochs)
            else:
                stage = self._evaluated(learner, ranked, role)
            parts[budget] = lab.get(stage)
        return lab.get(self._together(cast, name, parts, parent if name == "separate" else None))

    def _ranked(self, lab: Lab, cast: Cast) -> tuple[Result, Result]:
        """The parent, and the same with its units ranked."""
        parent = lab.get(supervised(cast.teacher))
        node = {**self._node(cast), "router": False, "evaluated": 1.0, "sampling": "uniform"}
        return parent, lab.get(self._evaluated(self._learner(cast, "ranked", node), parent, "ranked"))

    def _budgets(self, cast: Cast) -> list[float]:
        return list(cast.config["student"].get("budgets") or BUDGETS)

    def _together(self, cast: Cast, role: str, parts: dict[float, Result], parent: Result | None) -> Combine:
        named = {f"budget {budget:g}": part for budget, part in parts.items()}
        return Combine(role, named, tuple(named), None, cast.config["seed"], parent)

    def _evaluated(self, learner: Learner, start: Result, role: str, epoch: str = "best") -> Any:
        """A stage that takes over weights and trains none."""
        return replace(supervised(learner, start=start, role=role), trainer=None, start_epoch=epoch)

    def _base(self, cast: Cast) -> dict[str, Any]:
        more = {} if self.widths is None else {"choices": self.widths}
        more |= {} if self.axes is None else {"axes": self.axes}
        return {"base": {**cast.teacher.config["network"], "_partial_": True}, "cost": self.cost, **more}

    def _node(self, cast: Cast) -> dict[str, Any]:
        more = {} if self.calibration == 1024 else {"calibration": self.calibration}
        return {"_target_": ELASTIC, **self._base(cast), "budgets": self._budgets(cast), **more}

    def _nested(self, cast: Cast) -> Learner:
        smallest = self._budgets(cast)[-1]
        node = {**self._node(cast), "router": self.router, "sampling": self.sampling, "evaluated": smallest}
        return self._learner(cast, "nested", node)

    def _slice(self, cast: Cast, budget: float, routed: bool = False) -> Learner:
        node = {"_target_": SLICE, **self._base(cast), "budget": budget, "routed": routed}
        return self._learner(cast, f"{budget:g}", node)

    def _learner(self, cast: Cast, name: str, node: dict[str, Any]) -> Learner:
        config = {"name": f"{cast.teacher.config['name']}_{name}", "network": node, "weights": None}
        return replace(cast.student, config={**cast.student.config, **config})
