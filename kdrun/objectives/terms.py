"""The weighted sum of terms that a stage minimises, built from `objective` in the config.

A term is a function with two kinds of parameters (see ce.py, kd.py): tensors, taken by name from what the task gives
(student_logits, teacher_logits, targets, mask ...), and keyword-only options, set in the config. It returns one value
per position, [B] or [B, L]. A function of the user's own is a term in the same way, named by `_target_`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kdrun import slots, targets
from kdrun.environment import resolved
from kdrun.problems import UserError, nearest

Tensors = Mapping[str, torch.Tensor | None]
Count = float | torch.Tensor | Mapping[str, float]
LABELS, IMAGES = "mask", "images"


@dataclass(frozen=True)
class Term:
    """One method with its weight.

    wants: tensors it must be given; may_want: those with a default, given where the task has them.
    """

    name: str
    weight: float
    function: Callable[..., torch.Tensor]
    wants: tuple[str, ...]
    may_want: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_teacher(self) -> bool:
        return any(name.startswith("teacher_") for name in self.wants)

    @property
    def pointwise(self) -> bool:
        """Whether each position's value depends on that position alone, said by `function.pointwise = True`.

        The term is then given the valid positions only, as one list [N, ...]: padding costs nothing and cannot leak.
        A term that does not say so gets [B, L, ...] with zeros at masked positions.
        """
        return getattr(self.function, "pointwise", False)

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies hidden states by an output layer itself: that product belongs to the network, and is computed
        as the network is (in its types, under its autocast). All other terms are computed in float32 or wider."""
        return any(name.endswith("_head") for name in (*self.wants, *self.may_want))

    @property
    def over(self) -> str:
        """What the values are per: valid positions of "mask" (labels), of "visual_mask" (image slots), or "images".

        Said by `function.over = "visual_mask"`. A term over "images" returns one value per sample, 0 where a sample has no
        image, and is given whole rows.
        """
        return getattr(self.function, "over", LABELS)

    def check_wants(self, given: Collection[str]) -> None:
        """Raises UserError where a tensor that the term must have is not among those that are given."""
        if missing := [name for name in self.wants if name not in given and name != "mask"]:
            raise UserError(
                f"objective.{self.name} wants {', '.join(missing)}, which this task does not give",
                f"given here: {', '.join(sorted(given))}",
            )

    def values(self, tensors: Tensors, positions: torch.Size | None) -> torch.Tensor:
        """float32, one value per position, computed in float32 or wider outside of autocast (but see `multiplies`).

        Raises UserError where tensors lack, the result has another shape, or the term changes a tensor that it is given.
        """
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        self.check_wants(given)
        chosen = {name: given.get(name) for name in self.wants}
        chosen |= {name: given[name] for name in self.may_want if name in given}
        before = versions(chosen.values())
        device = next((tensor.device.type for tensor in chosen.values() if tensor is not None), "cpu")
        whole = self.multiplies or not torch.is_autocast_enabled(device)
        with contextlib.nullcontext() if whole else torch.autocast(device, enabled=False):
            values = self.function(**chosen, **self.options)
        after = versions(chosen.values())
        if changed := [name for name, one, other in zip(chosen, before, after, strict=True) if one != other]:
            raise UserError(
                f"objective.{self.name} changes {', '.join(changed)} in place",
                "other terms are given the same tensors; use x / y instead of x.div_(y), x.clone() before a change",
            )
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        if not isinstance(values, torch.Tensor) or values.dim() == 0 or values.shape != (positions or values.shape):
            expected = "[batch] or [batch, length]" if positions is None else str(tuple(positions))
            raise UserError(
                f"objective.{self.name} returned {shape}, expected one value per position, {expected}",
                "a term leaves its mean or sum to kdrun, so that padding and accumulation change nothing",
            )
        return values.float()


@dataclass(frozen=True)
class Objective:
    """Terms and how they are put together: total = sum over terms of weight * (sum over valid positions / count)."""

    terms: tuple[Term, ...]

    @property
    def active(self) -> tuple[Term, ...]:
        """Terms whose weight is not 0; the others are never evaluated."""
        return tuple(term for term in self.terms if term.weight != 0)

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.active)

    @property
    def wanted(self) -> frozenset[str]:
        """Names of all tensors that active terms can use; a task need not make others."""
        return frozenset(name for term in self.active for name in (*term.wants, *term.may_want))

    def __call__(
        self, tensors: Tensors, count: Count, taught_only: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total (float32 scalar) and the raw, unweighted mean of each active term, both with their gradients.

        count: what a sum over positions is divided by: valid positions of the whole effective batch, over all
        accumulation steps and ranks, so that these can be split at will. A mapping where terms are over different
        positions (see Term.over). A term over none is left out of the result.
        taught_only: only terms that need a teacher, for the second of several.

        Masked positions are left out, or replaced by zeros where a term looks at more than one position, before it sees
        them: a NaN in padding would otherwise come back through the gradient (0 * NaN), even if its value were masked
        afterwards.
        """
        forms: dict[tuple[str, bool], Tensors] = {}
        raw = {}
        for term in self.active:
            if taught_only and not term.needs_teacher:
                continue
            number = count.get(term.over, 0) if isinstance(count, Mapping) else count
            if term.over != LABELS and not isinstance(count, Mapping):
                raise UserError(f"objective.{term.name} is over {term.over}, which this task does not have")
            if not number:
                continue
            mask = None if term.over == IMAGES else tensors.get(term.over)
            alone = mask is not None and term.pointwise
            form = (term.over, term.pointwise, term.multiplies)
            if form not in forms:
                change = _clean if mask is not None and not alone else _valid if alone else lambda tensor, mask: tensor
                forms[form] = {
                    name: tensor if name.endswith("_head") else _wide(change(tensor, mask), term.multiplies)
                    for name, tensor in tensors.items()
                    if name in self._used[form] or name == term.over
                }
            shape = None if term.over == IMAGES else _positions(forms[form], term.over)
            values = term.values(forms[form], shape)
            whole = mask is None or alone
            raw[term.name] = (values if whole else torch.where(mask, values, 0.0)).sum() / number
        return self.total(raw, tensors), raw

    def total(self, raw: Mapping[str, torch.Tensor], tensors: Tensors) -> torch.Tensor:
        """The weighted sum of raw values; where none is there, 0 with a gradient of 0 for what the student gave."""
        weighted = list(self.weighted(raw).values())
        if not any(value.requires_grad for value in weighted):
            weighted.append(_nothing(tensors))
        return functools.reduce(operator.add, weighted)

    def weighted(self, raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What each raw value adds to the total."""
        return {
            term.name: raw[term.name] if term.weight == 1 else term.weight * raw[term.name]
            for term in self.active
            if term.name in raw
        }

    @functools.cached_property
    def _used(self) -> dict[tuple[str, bool, bool], set[str]]:
        """(over, pointwise, multiplies) -> tensors that terms of that kind can use."""
        found: dict[tuple[str, bool, bool], set[str]] = {}
        for term in self.active:
            found.setdefault((term.over, term.pointwise, term.multiplies), set()).update(term.wants, term.may_want)
        return found


def build_objective(config: Mapping[str, Any], allowed: Collection[str] = ()) -> Objective:
    """The objective of a config: {name: {weight, options ..., _target_ (default kdrun.objectives.<name>.<name>)}}.

    allowed: packages of the user's own that targets may be from, beside those that are allowed here anyway (kdrun.slots).
    Raises UserError for a weight that is not a finite number >= 0, no term with a weight, an unknown option, or a target that
    is not such a function or that the user has not allowed.
    """
    with slots.allowing(allowed):
        terms = tuple(_term(name, dict(node)) for name, node in config.items())
    if not any(term.weight for term in terms):
        named = ", ".join(f"objective.{name}.weight" for name in config) or "the objective has no terms"
        raise UserError(f"nothing to minimise: give at least one term a weight above 0 ({named})")
    return Objective(terms)


def _term(name: str, node: dict[str, Any]) -> Term:
    target = node.pop("_target_", None) or f"kdrun.objectives.{name}.{name}"
    weight = node.pop("weight", 1.0)
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise UserError(f"objective.{name}.weight must be a finite number of at least 0, got {weight!r}")
    function = _function(target, name)
    if refused := slots.unsafe(node, target, f"objective.{name}"):
        raise UserError(*refused)
    node = resolved(node)
    tensors, options = {}, set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.name not in node:
            tensors[parameter.name] = parameter.default is parameter.empty
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            options.add(parameter.name)
            if parameter.default is parameter.empty and parameter.name not in node:
                raise UserError(f"objective.{name}.{parameter.name} has no default and no value")
        elif parameter.kind is parameter.VAR_KEYWORD:
            options |= set(node)
    for key in node:
        if key not in options:
            guess = nearest(key, [*options, "weight"])
            raise UserError(
                f"objective.{name} has no option {key!r}" + (f": did you mean {guess!r}?" if guess else ""),
                f"options of {target}: {', '.join(sorted(options)) or 'none'}",
            )
    wants = tuple(key for key, required in tensors.items() if required)
    return Term(name, float(weight), function, wants, tuple(key for key in tensors if key not in wants), node)


def _function(target: str, name: str) -> Callable[..., torch.Tensor]:
    try:
        found = targets.locate(target, "loss")
    except UserError as error:
        raise UserError(f"objective.{name}: {error.lines[0]}", *error.lines[1:]) from None
    if not callable(found) or isinstance(found, type):
        raise UserError(f"objective.{name}: {target} is a {type(found).__name__}, expected a function of tensors")
    return found


def _clean(tensor: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
    """`tensor` with zeros at masked positions; tensors that are not per position stay as they are."""
    if tensor is None or tensor is mask or tensor.shape[: mask.dim()] != mask.shape:
        return tensor
    spread = mask.reshape(mask.shape + (1,) * (tensor.dim() - mask.dim()))
    return torch.where(spread, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def _valid(tensor: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
    """The valid positions as one list [N, ...]; tensors that are not per position stay as they are."""
    if tensor is None or tensor is mask:
        return None
    return tensor[mask] if tensor.shape[: mask.dim()] == mask.shape else tensor


def versions(tensors: Iterable[Any]) -> list[int]:
    """How often each of the tensors has been changed in place, as far as torch counts it."""
    return [x._version if isinstance(x, torch.Tensor) and not x.is_inference() else 0 for x in tensors]


def _wide(tensor: torch.Tensor | None, as_it_is: bool) -> torch.Tensor | None:
    """In float32 where it is a float that is narrower."""
    if tensor is None or as_it_is or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _nothing(tensors: Tensors) -> torch.Tensor:
    """The scalar 0, with a gradient of 0 for what the student gave."""
    for name, tensor in tensors.items():
        if name.startswith("student_") and tensor is not None and tensor.requires_grad:
            return tensor.flatten()[:0].sum().float()
    return torch.zeros(())


def _positions(tensors: Tensors, over: str = LABELS) -> torch.Size | None:
    """The shape of one value per position, as far as the tensors tell."""
    if (mask := tensors.get(over)) is not None:
        return mask.shape
    for name in ("student_logits", "student_outputs", "student_hidden"):
        if (found := tensors.get(name)) is not None:
            return found.shape[:-1]
    return None
