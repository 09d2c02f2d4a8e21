"""The stages that a strategy asks for, where nothing is looked up or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StageRecorder:
    """A lab that only writes down what strategies ask for."""

    def __init__(self, networks: Any):
        self.networks, self.stages = networks, []

    def ask(self, config: Mapping[str, Any]) -> None:
        """The stages of a job: those of its strategy and of its controls."""
        from kdrun.strategies.cast import Cast
        from kdrun.targets import build

        strategy, cast = build(config["strategy"], "strategy"), Cast(config)
        strategy.run(self, cast)
        for name in strategy.controls:
            strategy.control(name, self, cast)

    def choose(self, what: str, candidates: Mapping[str, Any], *, worst: bool = False) -> str:
        """What depends on results is taken to be the first."""
        return next(iter(candidates))

    def parameters(self, learner: Mapping[str, Any], data: Mapping[str, Any]) -> int:
        return sum(self.networks.of(learner["network"]).counts.values())

    def get(self, stage: Any) -> Any:
        from kdrun.lab.stages.base import Result

        stage = stage.started(self.get)
        if stage not in self.stages:
            self.stages.append(stage)
        return Result(f"{stage.label} {self.stages.index(stage)}", stage, {})
