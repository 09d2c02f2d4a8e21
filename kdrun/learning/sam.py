"""Sharpness-aware minimisation (Foret et al., arXiv 2010.01412), over any optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor


class SAM(torch.optim.Optimizer):
    """Takes the base optimizer's step with the gradient of the loss at the weights w + rho g / |g|, g being the gradient at w
    (equations 2 and 3 of the paper, p = 2).

        base  parameters, lr -> the optimizer that takes the step. Its weight decay is not part of g
        lr    learning rate of the base optimizer
        rho   length of the ascent, over all parameters of the optimizer together; 0: the base optimizer's own step

    A step computes two gradients and costs twice as much. g is that of the whole batch, over all its parts and ranks: the
    "m-sharpness" of the paper's section 4.1, where each accelerator ascends by itself, is not what is minimised. Where g is 0
    nothing is added. Groups and state are those of the base optimizer, so its checkpoints are too.
    """

    passes = 2

    def __init__(self, params: Iterable[Any], base: Callable[..., torch.optim.Optimizer], lr: float, rho: float = 0.05):
        if rho < 0:
            raise ValueError(f"rho={rho}: the length of the ascent is at least 0")
        self.base, self.rho = base(params, lr=lr), rho
        if signature(self.base.step).parameters["closure"].default is Parameter.empty:
            raise ValueError(
                f"base={type(self.base).__name__}: an optimizer that asks for gradients itself has no step to give"
            )
        super().__init__(self.base.param_groups, self.base.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """closure: computes loss and gradients at the present weights. Returns the loss before the step."""
        with torch.enable_grad():
            loss = closure()
        trained = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        gradients = [each.grad for each in trained]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded parameters
        before = [each.clone() for each in trained]
        try:
            # The smallest number that is not denormal: a gradient of 0 gives 0, and any other one is divided by its norm.
            torch._foreach_add_(trained, torch._foreach_mul(gradients, self.rho / norm.clamp(min=1e-38)))
            with torch.enable_grad():
                closure()
        finally:  # w + e - e is not w in the last digit
            for each, value in zip(trained, before, strict=True):
                each.copy_(value)
        self.base.step()
        return loss
