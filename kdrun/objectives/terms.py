"""The weighted sum of terms that a stage minimises, built from `objective` in the config.

A term is a function with two kinds of parameters (see ce.py, kd.py): tensors, taken by name from what the task gives
(student_logits, teacher_logits, targets, mask ...), and keyword-only options, set in the config. It returns one value
per position, [B] or [B, L]. A class whose constructor takes the options, and whose `forward` or `__call__` the tensors, is a
loss with state (see objective_term.Term.begin). A loss of the user's own is a term in the same way, named by `_target_`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from kdrun import slots
from kdrun.objectives.inside import inside_of, mean_inside
from kdrun.objectives.objective_term import IMAGES, LABELLED, LABELS, Tensors, Term
from kdrun.objectives.settings import read_term
from kdrun.problems import UserError
from kdrun.term_weights import Length

Count = float | torch.Tensor | Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """Terms and how they are put together: total = sum over terms of weight * (sum over valid positions / count).

    length: of the stage, for weights over fractions of it or over epochs; None where it is not known yet.
    """

    terms: tuple[Term, ...]
    length: Length | None = None

    @functools.cached_property
    def active(self) -> tuple[Term, ...]:
        """Terms whose weight is not always 0; the others are never evaluated."""
        return tuple(term for term in self.terms if term.largest_weight != 0)

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.active)

    def asks_teacher(self, step: int | None) -> bool:
        """Whether a term that has weight in a step can use what the teacher says. Never where no term needs a teacher."""
        weighted = [term for term in self.active if term.weight_at(step, self.length)]
        return self.needs_teacher and any(term.needs_teacher or term.may_use_teacher for term in weighted)

    @functools.cached_property
    def views(self) -> dict[str, str]:
        """Further views of the samples that active terms look at -> the first of these terms."""
        return {term.view: term.name for term in reversed(self.active) if term.view is not None}

    @property
    def shown(self) -> int:
        """In how many views the samples of a batch are shown, to the student and to its teachers."""
        return 1 + len(self.views)

    @functools.cached_property
    def figures(self) -> Objective | None:
        """What losses say of a step beside their values (see Term.figures), as an objective of which only raw means are asked."""
        terms = tuple(figure for term in self.active for figure in term.figures)
        return Objective(terms, self.length) if terms else None

    @property
    def needs_labels(self) -> bool:
        """Whether nothing is learned of samples without a label."""
        return all(term.needs_labels for term in self.active)

    @property
    def wanted(self) -> frozenset[str]:
        """Names of all tensors that active terms can use; a task need not make others."""
        outputs = (
            f"{who}_{path.removeprefix('output:')}"
            for who in ("student", "teacher")
            for path in self.captures(who)
            if path.startswith("output:")
        )
        return frozenset([name for term in self.active for name in (*term.wants, *term.may_want)]) | set(outputs)

    def captures(self, who: str) -> dict[str, str]:
        """What active terms capture of the inside of the "student" or the "teacher": path -> key of the config that names it."""
        return {path: key for term in reversed(self.active) for path, key in term.captures(who).items()}

    def takes(self, name: str) -> bool:
        """Whether an active term can use a tensor of this name that the task gives."""
        return any(name in (*term.wants, *term.may_want) for term in self.active)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Terms that are modules, with parameters or memory; only after `begin`."""
        return {term.name: term.function for term in self.active if isinstance(term.function, nn.Module)}

    def begin(
        self, length: Length | None = None, supplied: Callable[[Term], Mapping[str, Any]] = lambda term: {}
    ) -> Objective:
        """The objective of one stage: weights know its length, and terms that have state begin without any.

        supplied: of a term, the arguments that its class may ask for by name (losses.SUPPLIED).
        """
        return Objective(
            tuple(term.begin(supplied(term)) if term.largest_weight else term for term in self.terms), length
        )

    def __call__(
        self, tensors: Tensors | Sequence[Tensors], count: Count
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total (float32 scalar) and the raw, unweighted mean of each active term, both with their gradients.

        tensors: by name; of several teachers those with each of them, and terms that need a teacher are means over all.
        count: what a sum over positions is divided by: valid positions of the whole effective batch, over all
        accumulation steps and ranks, so that these can be split at will. A mapping where terms are over different
        positions (see Term.over). A term over none is left out of the result.

        tensors["step"] is the number of steps before this one: a term whose weight is 0 there is left out. Without it all are
        computed, each with the largest of its weights. tensors["captured"] has what terms capture (learning/adaptor.py), tensors["outputs"] what
        the student gives beside its logits. What there is of a further view is below its name (see Term.view).
        """
        several = () if isinstance(tensors, Mapping) else tensors
        tensors = several[0] if several else tensors
        raw, step, by_name = {}, tensors.get("step"), isinstance(count, Mapping)
        for number, shown in enumerate(several or (tensors,)):
            forms: dict[tuple, Tensors] = {}
            for term in self.active:
                given = shown if term.view is None else shown[term.view]
                if (number and not term.needs_teacher) or not term.weight_at(step, self.length):
                    continue
                over = term.counted(given)
                positions = count.get(over, 0) if by_name else count
                if over != LABELS and not by_name:
                    raise UserError(f"objective.{term.name} is over {over}, which this task does not have")
                if not positions:
                    continue
                mask = None if over == IMAGES else given.get(over)
                if over == LABELLED and not _any(mask, over, given):  # of this part of the batch; others have some
                    raw.setdefault(term.name, _nothing(given))
                    continue
                if (inside := inside_of(term, given)) is None:
                    seen, shape = self._seen(term, term.reading(given), mask, forms)
                    values = term(seen, shape)
                else:
                    values = mean_inside(term, given, inside)
                    shape = values.shape
                if mask is not None and shape == mask.shape and (inside is not None or not term.pointwise):
                    values = torch.where(mask, values, 0.0)
                # One operation less to go back through, where a batch is computed in one part and everything in it counts.
                mean = values.mean() if positions == values.numel() else values.sum() / positions
                raw[term.name] = raw[term.name] + mean if number else mean
        if several:
            taught = {term.name for term in self.active if term.needs_teacher}
            raw = {name: value / len(several) if name in taught else value for name, value in raw.items()}
        return self.total(raw, tensors), raw

    def _seen(
        self, term: Term, tensors: Tensors, mask: torch.Tensor | None, forms: dict[tuple, Tensors]
    ) -> tuple[Tensors, torch.Size | None]:
        """The tensors as a term is given them, and the shape of its values; forms: those of terms before it, by kind.

        Masked positions are left out, or replaced by zeros where a term looks at more than one position, before it sees
        them: a NaN in padding would otherwise come back through the gradient (0 * NaN), even if its value were masked
        afterwards.
        """
        over = term.counted(tensors)
        form = (over, term.pointwise, term.multiplies, term.logits, term.only, term.view)
        # A sample without a label is left out as if the batch were smaller, also for terms that look at all samples of it.
        alone = term.pointwise or (over == LABELLED and mask.dim() == 1)
        change = _unchanged if mask is None else _valid if alone else _clean
        places = tensors.get("places")
        if change is _valid and places is not None and over in places:
            change = partial(_valid_at, places.of(over))
        if form not in forms:
            used = self._used[term.over, term.pointwise, term.multiplies]
            forms[form] = {
                name: tensor if name.endswith("_head") else _wide(change(tensor, mask), term.multiplies)
                for name, tensor in tensors.items()
                if name in used or name == over
            }
        seen = forms[form]
        if term.pairs is not None:
            both = tensors["captured"][term.name]
            captured = tuple([_wide(change(x, mask), term.multiplies) for x in part] for part in both)
            seen = {**seen, "captured": captured}
        return seen, None if over == IMAGES else _positions(seen if mask is not None else tensors, over)

    def total(self, raw: Mapping[str, torch.Tensor], tensors: Tensors | Sequence[Tensors]) -> torch.Tensor:
        """The weighted sum of raw values; where none is there, 0 with a gradient of 0 for what the student gave."""
        tensors = tensors if isinstance(tensors, Mapping) else tensors[0]
        weighted = list(self.weighted(raw, tensors.get("step")).values())
        if not any(value.requires_grad for value in weighted):
            weighted.append(_nothing(tensors))
        return functools.reduce(operator.add, weighted)

    def weighted(self, raw: Mapping[str, torch.Tensor], step: int | None = None) -> dict[str, torch.Tensor]:
        """What each raw value adds to the total of a step."""
        weights = self.weights(step)
        return {
            name: raw[name] if weight == 1 else weight * raw[name] for name, weight in weights.items() if name in raw
        }

    def weights(self, step: int | None = None) -> dict[str, float]:
        """The weight of each active term in a step."""
        return {term.name: term.weight_at(step, self.length) for term in self.active}

    @functools.cached_property
    def _used(self) -> dict[tuple[str, bool, bool], set[str]]:
        """(over, pointwise, multiplies) -> tensors that terms of that kind can use."""
        used: dict[tuple[str, bool, bool], set[str]] = {}
        for term in self.active:
            used.setdefault((term.over, term.pointwise, term.multiplies), set()).update(term.wants, term.may_want)
        return used


def build_objective(config: Mapping[str, Any], allowed: Collection[str] = ()) -> Objective:
    """The objective of a config: {name: {weight, settings ..., options ..., _target_ (default: see losses.resolve)}}.

    allowed: packages of the user's own that targets may be from, beside those that are allowed here anyway (kdrun.slots).
    Raises UserError for a weight that is not one, no term with a weight, an unknown option, or a target that is no such
    function or class, or that the user has not allowed.
    """
    with slots.allowing(allowed):
        terms = tuple(read_term(name, node) for name, node in config.items())
    if not any(term.largest_weight for term in terms):
        named = ", ".join(f"objective.{name}.weight" for name in config) or "the objective has no terms"
        raise UserError(f"nothing to minimise: give at least one term a weight above 0 ({named})")
    return Objective(terms)


def _unchanged(tensor: Any, mask: None) -> Any:
    return tensor


def _clean(tensor: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
    """`tensor` with zeros at masked positions; tensors that are not per position stay as they are."""
    if not isinstance(tensor, torch.Tensor) or tensor is mask or tensor.shape[: mask.dim()] != mask.shape:
        return tensor
    spread = mask.reshape(mask.shape + (1,) * (tensor.dim() - mask.dim()))
    return torch.where(spread, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def _valid(tensor: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
    """The valid positions as one list [N, ...]; tensors that are not per position stay as they are."""
    if tensor is None or tensor is mask:
        return None
    if not isinstance(tensor, torch.Tensor) or tensor.shape[: mask.dim()] != mask.shape:
        return tensor
    return tensor[mask]


def _valid_at(places: torch.Tensor, tensor: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
    """As `_valid`, where the mask is true at these places: no device has to look for them."""
    if tensor is None or tensor is mask:
        return None
    if not isinstance(tensor, torch.Tensor) or tensor.shape[: mask.dim()] != mask.shape:
        return tensor
    return tensor.flatten(0, mask.dim() - 1).index_select(0, places)


def _any(mask: torch.Tensor, over: str, tensors: Tensors) -> bool:
    """Whether a mask is true anywhere."""
    places = tensors.get("places")
    return bool(mask.any()) if places is None or over not in places else len(places.of(over)) > 0


def _wide(tensor: Any, as_it_is: bool) -> Any:
    """In float32 where it is a float that is narrower."""
    if as_it_is or not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _nothing(tensors: Tensors) -> torch.Tensor:
    """The scalar 0, with a gradient of 0 for what the student gave."""
    for name, tensor in tensors.items():
        if name.startswith("student_") and isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            return tensor.flatten()[:0].sum().float()
    return torch.zeros(())


def _positions(tensors: Tensors, over: str = LABELS) -> torch.Size | None:
    """The shape of one value per position, as far as the tensors tell."""
    if (mask := tensors.get(over)) is not None:
        return mask.shape
    for name in ("student_logits", "student_outputs", "student_hidden"):
        if (output := tensors.get(name)) is not None:
            return output.shape[:-1]
    return None
