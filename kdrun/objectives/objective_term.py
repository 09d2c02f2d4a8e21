"""One term of an objective: a loss with its weight, its settings, and what it compares."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from kdrun.networks.capture import OUTPUT
from kdrun.problems import UserError, closest, listed
from kdrun.term_weights import Length, WeightSchedule

Tensors = Mapping[str, Any]
LABELS, IMAGES, LABELLED = "mask", "images", "labelled"
FROM_BATCH = ("ids", "step", "epoch", "mixed_targets", "mixed_share")
"""What a loss may ask for beside tensors of the task: sample ids int64 [B], the number of steps and of epochs done, and of samples that are mixed
with others (data.augment.mixup) the labels of those int64 [B] and the share of the samples themselves float [B]."""


@dataclass(frozen=True)
class CapturePairs:
    """What a term compares of the inside of both networks.

    student, teacher: module paths, globs of them, or `output:NAME`; see networks/capture.py. Either may be empty.
    each: the loss is called for one pair at a time (student_features, teacher_features) and its values are averaged, or added
    where it says `pairs = "sum"`; else once, with lists (student_captured, teacher_captured).
    adaptor, resize: how the student's are brought to the sizes of the teacher's; see learning/adaptor.py.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    each: bool = True
    adaptor: str = "auto"
    resize: str = "auto"

    @property
    def adapts(self) -> bool:
        """Whether layers of both are compared in pairs; a loss that is given lists without an adaptor may take unlike numbers."""
        free = not self.each and self.adaptor == self.resize == "none"
        return bool(self.student and self.teacher) and not free


@dataclass(frozen=True)
class Term:
    """One loss with its weight.

    function: of tensors by name, or a module called in the same way, or the class of one, which `begin` calls.
    wants: tensors it must be given; may_want: those with a default, given where the task has them.
    options: of the function, or of the class. loss: whose declarations (`pointwise`, `over`) hold where `function` is another way to
    compute it. moved: what the values are per, where the settings say another than the loss. pairs: what it compares of the
    inside of both networks. logits: `output:NAME` of the student's task, which it is given as `student_logits`. only: the classes whose
    logits it is given; None: all. view: the name of the view of each sample that it looks at (data.augment.strong); None: the first.
    """

    name: str
    weight: float | WeightSchedule
    function: Any
    wants: tuple[str, ...]
    may_want: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    loss: Any = None
    moved: str | None = None
    pairs: CapturePairs | None = None
    logits: str | None = None
    only: tuple[int, ...] | None = None
    view: str | None = None

    @property
    def largest_weight(self) -> float:
        return self.weight.largest if isinstance(self.weight, WeightSchedule) else self.weight

    def weight_at(self, step: int | None, length: Length | None) -> float:
        """The weight of a step; the largest of all where `step` is None. length: of the stage."""
        if step is None or not isinstance(self.weight, WeightSchedule):
            return self.largest_weight
        return self.weight.at(step, length)

    @cached_property
    def needs_teacher(self) -> bool:
        return any(name.startswith("teacher_") for name in self.wants) or bool(self.pairs and self.pairs.teacher)

    @cached_property
    def may_use_teacher(self) -> bool:
        return any(name.startswith("teacher_") for name in self.may_want)

    @cached_property
    def needs_labels(self) -> bool:
        """Whether it asks for `targets`: where not all samples have a label, its mean is over those that do."""
        return "targets" in (*self.wants, *self.may_want)

    def counted(self, given: Collection[str]) -> str:
        """What the values are per in a batch that says this (see `over`): LABELLED positions where not all have a label."""
        return LABELLED if self.needs_labels and self.over == LABELS and LABELLED in given else self.over

    @cached_property
    def figures(self) -> tuple[Term, ...]:
        """What its loss says of a step beside its value, as terms that nothing is minimised of: `function.figures = {NAME: function}`, functions of
        the same tensors without options, whose means are recorded as TERM_NAME."""
        figures = getattr(self.loss or self.function, "figures", {})
        return tuple(
            replace(self, name=f"{self.name}_{name}", function=function, options={}, loss=None, **_asked(function))
            for name, function in figures.items()
        )

    @cached_property
    def pointwise(self) -> bool:
        """Whether its values are those of single positions, said by `function.pointwise = True`: each depends on that position alone, or
        on all of the batch where `whole_batch` is said as well.

        The term is then given the valid positions only, as one list [N, ...]: padding costs nothing and cannot leak.
        A term that does not say so gets [B, L, ...] with zeros at masked positions.
        """
        return getattr(self.loss or self.function, "pointwise", False)

    @property
    def whole_batch(self) -> bool:
        """Whether each value depends on all samples of the batch (of all ranks), said by `function.whole_batch = True`: the loss of
        a part of the batch is then another loss."""
        return getattr(self.loss or self.function, "whole_batch", False)

    @property
    def zero_at_equality(self) -> bool:
        """Whether it is 0 for a student that says what its teacher says; one that is not says `function.zero_at_equality = False`."""
        return getattr(self.loss or self.function, "zero_at_equality", True)

    @cached_property
    def multiplies(self) -> bool:
        """Whether it multiplies hidden states by an output layer itself: that product belongs to the network, and is computed
        as the network is (in its types, under its autocast). All other terms are computed in float32 or wider."""
        return any(name.endswith("_head") for name in (*self.wants, *self.may_want))

    @cached_property
    def over(self) -> str:
        """What the values are per: valid positions of "mask" (labels), of "visual_mask" (image slots), or "images".

        Said by the setting `over`, or by `function.over = "visual_mask"`. A term over "images" returns one value per sample, 0
        where a sample has no image, and is given whole rows.
        """
        return self.moved or str(getattr(self.loss or self.function, "over", LABELS))

    def captures(self, who: str) -> dict[str, str]:
        """What it compares of the "student" or the "teacher" beside their logits: path -> key of the config that names it."""
        paths = dict.fromkeys(getattr(self.pairs, who) if self.pairs else (), f"objective.{self.name}.{who}")
        if self.logits is not None and who == "student":
            paths[self.logits] = f"objective.{self.name}.logits"
        return paths

    def reading(self, tensors: Tensors) -> Tensors:
        """The tensors with the output of the student that it compares in the place of its logits, and with the classes that it looks at.

        tensors["outputs"]: what the student gives beside its logits, by name. Raises UserError where an output or a class is not there.
        """
        tensors = self._output(tensors)
        if self.only is None:
            return tensors
        found = {name: tensors[name] for name in ("student_logits", "teacher_logits") if tensors.get(name) is not None}
        for logits in found.values():
            if max(self.only) >= logits.shape[-1]:
                raise UserError(f"objective.{self.name}.only: there is no class {max(self.only)} of {logits.shape[-1]}")
        chosen = {name: logits[..., list(self.only)] for name, logits in found.items()}
        if self.needs_labels and tensors.get("targets") is not None and found:
            width = next(iter(found.values())).shape[-1]
            places = torch.full(
                (width,), width, dtype=torch.int64
            )  # of another class: out of range, which a loss refuses
            places[list(self.only)] = torch.arange(len(self.only))
            chosen["targets"] = places.to(tensors["targets"].device)[tensors["targets"]]
        return {**tensors, **chosen}

    def _output(self, tensors: Tensors) -> Tensors:
        if self.logits is None:
            return tensors
        name, outputs = self.logits.removeprefix(OUTPUT), tensors.get("outputs", {})
        if name not in outputs:
            raise UserError(
                f"objective.{self.name}.logits={self.logits}: the student gives no {name}{closest(name, outputs)}",
                f"beside its logits it gives: {listed(outputs) if outputs else 'nothing'}",
            )
        return {**tensors, "student_logits": outputs[name]}

    def begin(self, supplied: Mapping[str, Any]) -> Term:
        """The term with its module made where it has a class; supplied: arguments that the class may ask for by name.

        Raises UserError where it asks for something else without a default.
        """
        if not isinstance(self.function, type):
            return self
        arguments = dict(self.options)
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name in supplied and name not in arguments:
                arguments[name] = supplied[name]
            missing = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            if missing and name not in arguments:
                raise UserError(
                    f"objective.{self.name}.{name} has no default and no value",
                    f"kdrun itself gives: {', '.join(sorted(supplied))}",
                )
        return replace(self, function=self.function(**arguments), options={})

    def check_wants(self, given: Collection[str]) -> None:
        """Raises UserError where a tensor that the term must have is not among those that are given."""
        if missing := [name for name in self.wants if name not in given and name not in ("mask", *FROM_BATCH)]:
            raise UserError(
                f"objective.{self.name} wants {', '.join(missing)}, which this task does not give",
                f"given here: {', '.join(sorted(given))}",
            )

    def __call__(self, tensors: Tensors, positions: torch.Size | None) -> torch.Tensor:
        """float32, one value per position, computed in float32 or wider outside of autocast (but see `multiplies`).

        Raises UserError where tensors lack, the result has another shape, or the term changes a tensor that it is given.
        """
        calls, results = self._calls(tensors), []
        for call in calls:
            given = list(_tensors(call.values()))
            before = versions(given)
            device = given[0].device.type if given else "cpu"
            whole = self.multiplies or not torch.is_autocast_enabled(device)
            with contextlib.nullcontext() if whole else torch.autocast(device, enabled=False):
                values = self.function(**call, **self.options)
            if versions(given) != before:
                raise self._changed(call, given, before)
            if not isinstance(values, torch.Tensor) or not values.dim() or values.shape != (positions or values.shape):
                raise self._of_other_shape(values, positions)
            results.append(values.float())
        if len(results) == 1:
            return results[0]
        added = getattr(self.loss or self.function, "pairs", "mean") == "sum"
        return torch.stack(results).sum(0) if added else torch.stack(results).mean(0)

    @property
    def shipped(self) -> bool:
        """Whether the loss is one of kdrun's."""
        return (self.loss or self.function).__module__.startswith("kdrun.")

    def _calls(self, tensors: Tensors) -> list[dict[str, Any]]:
        """What the function is given in each of its calls."""
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        self.check_wants(given)
        chosen = {name: given.get(name, 0 if name in ("step", "epoch") else None) for name in self.wants}
        chosen |= {name: given[name] for name in self.may_want if name in given}
        if self.pairs is None:
            return [chosen]
        return [{**chosen, **captured} for captured in self._captured(given, self.pairs)]

    def _captured(self, given: Tensors, pairs: CapturePairs) -> list[dict[str, Any]]:
        """What was captured, by parameter name, for each call of the function."""
        students, teachers = given["captured"]
        if not pairs.each:
            lists = {"student_captured": students, "teacher_captured": teachers}
            return [{name: tensors for name, tensors in lists.items() if tensors}]
        sides = {"student_features": students, "teacher_features": teachers}
        sides = {name: tensors for name, tensors in sides.items() if tensors}
        return [dict(zip(sides, pair, strict=True)) for pair in zip(*sides.values(), strict=True)]

    def _changed(self, call: dict[str, Any], tensors: list[torch.Tensor], before: list[int]) -> UserError:
        written = {id(x) for x, count in zip(tensors, before, strict=True) if versions([x]) != [count]}
        changed = [name for name, value in call.items() if any(id(x) in written for x in _tensors([value]))]
        return UserError(
            f"objective.{self.name} changes {', '.join(changed)} in place",
            "other terms are given the same tensors; use x / y instead of x.div_(y), x.clone() before a change",
        )

    def _of_other_shape(self, values: Any, positions: torch.Size | None) -> UserError:
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        expected = "[batch] or [batch, length]" if positions is None else str(tuple(positions))
        return UserError(
            f"objective.{self.name} returned {shape}, expected one value per position, {expected}",
            "a term leaves its mean or sum to kdrun, so that padding and accumulation change nothing",
        )


def labelled_positions(batch: Mapping[str, Any], mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """{LABELLED: bool, the shape of positions} of a batch not all of whose samples have a label; else {}. mask: positions that count."""
    if LABELLED not in batch:
        return {}
    labelled = batch[LABELLED]
    return {LABELLED: labelled if mask is None else mask & labelled.reshape(-1, *[1] * (mask.dim() - 1))}


def versions(tensors: Iterable[Any]) -> list[int]:
    """How often each of the tensors has been changed in place, as far as torch counts it."""
    return [0 if not isinstance(x, torch.Tensor) or x.is_inference() else x._version for x in tensors]


def _tensors(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    """The tensors among these and in lists among these."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list):
            yield from _tensors(value)


def _asked(function: Any) -> dict[str, Any]:
    """The tensors that a function of tensors alone takes."""
    parameters = inspect.signature(function).parameters.values()
    wants = tuple(each.name for each in parameters if each.default is each.empty)
    return {"wants": wants, "may_want": tuple(each.name for each in parameters if each.name not in wants)}
