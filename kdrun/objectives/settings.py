"""A term of a config, read: its loss, its weight, what its values are per, how it is computed and what it captures.

    over        labels | image_slots: the positions whose values are averaged; own | recalled | instructed: the part of labels that is of samples
                of the data, of questions that were asked again, of wordings without an input (data.questions)
    execution   dense: from all logits; chunked: from hidden states, a few positions at a time (chunk, memory_mb);
                topk: from the teacher's k likeliest classes, which can be cached for text
    student, teacher   module paths of each network (lists of as many; globs), or `output:NAME`, for losses that compare features
    logits             `output:NAME`: what the term is given of the student in the place of its logits
    only               numbers of classes: the term is given the logits of these alone, of both networks; labels have to be of them
    view               strong: the term looks at the second view of each sample (data.augment.strong)
    adaptor, resize    how the student's features are brought to the sizes of the teacher's (learning/adaptor.py)

A loss with an option of one of these names keeps it for itself. `function.settings = {...}` are other defaults of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kdrun import losses, slots, targets
from kdrun.environment import resolved
from kdrun.networks.capture import OUTPUT
from kdrun.objectives.objective_term import CapturePairs, Term
from kdrun.problems import UserError, listed, nearest
from kdrun.term_weights import read_weight

OVER = {
    "labels": "mask",
    "image_slots": "visual_mask",
    "own": "own_mask",
    "recalled": "recalled_mask",
    "instructed": "instructed_mask",
}
ADAPTORS = ("auto", "none", "linear", "conv", "conv_bn_relu")
RESIZES = ("auto", "pool", "interpolate", "none")
VIEWS = ("strong",)
EACH, LISTS = ("student_features", "teacher_features"), ("student_captured", "teacher_captured")


def read_term(name: str, node: Mapping[str, Any]) -> Term:
    """The term `objective.NAME` of a config. Raises UserError that names the key for everything that does not fit."""
    target, node = losses.resolve(name, node)
    weight = read_weight(node.pop("weight", 1.0), f"objective.{name}.weight")
    function = _located(target, name)
    if refused := slots.unsafe(node, target, f"objective.{name}"):
        raise UserError(*refused)
    node = resolved(node)
    parameters = _parameters(function)
    settings = {
        key: node.pop(key) if key in node and key not in parameters else default
        for key, default in {**losses.SETTINGS, **getattr(function, "settings", {})}.items()
    }
    computed, allowed, node = _executed(name, function, settings["execution"], parameters, node)
    tensors = _tensors(computed, node)
    options = _options(name, target, computed, allowed, node)
    pairs = _pairs(name, tensors, settings)
    if pairs is not None:
        tensors = {key: required for key, required in tensors.items() if key not in (*EACH, *LISTS)}
    wants = tuple(key for key, required in tensors.items() if required)
    may_want = tuple(key for key in tensors if key not in wants)
    logits, only = _logits(name, tensors, settings["logits"]), _only(name, tensors, settings["only"])
    view = settings["view"]
    if view is not None and view not in VIEWS:
        raise UserError(f"objective.{name}.view must be {' or '.join([*VIEWS, 'null'])}, got {view!r}")
    term = Term(name, weight, computed, wants, may_want, options, pairs=pairs, logits=logits, only=only, view=view)
    term = term if computed is function else replace(term, loss=function)
    return _moved(term, settings["over"])


def _located(target: str, name: str) -> Any:
    try:
        located = targets.locate(target, "loss")
    except UserError as error:
        raise UserError(f"objective.{name}: {error.lines[0]}", *error.lines[1:]) from None
    called = _call(located) if isinstance(located, type) else located
    if not callable(called):
        raise UserError(
            f"objective.{name}: {target} is a {type(located).__name__}, expected a function of tensors, or a class with a "
            "`forward` or `__call__` of tensors"
        )
    return located


def _call(loss: type) -> Callable[..., Any] | None:
    """What instances of a class do with tensors."""
    calls = ("forward", "__call__")
    return next((vars(kind)[call] for call in calls for kind in loss.__mro__ if call in vars(kind)), None)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """Options of a function or of a class, by name."""
    parameters = inspect.signature(function).parameters
    if isinstance(function, type):
        return parameters
    return {key: parameter for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def _executed(
    name: str, function: Any, execution: str, parameters: Mapping[str, inspect.Parameter], node: dict[str, Any]
) -> tuple[Any, list[str] | None, dict[str, Any]]:
    """(what computes the loss, its options where they are not all that its signature has, their values) for an execution."""
    if execution == "dense":
        return function, None, node
    ways = getattr(function, "executions", {})
    if execution not in ways:
        raise UserError(
            f"objective.{name}.execution={execution}: this loss has {listed(['dense', *ways])}"
            if execution in losses.EXECUTION_OPTIONS
            else f"objective.{name}.execution must be one of {listed(losses.EXECUTION_OPTIONS)}, got {execution!r}"
        )
    further = losses.EXECUTION_OPTIONS[execution]
    defaults = {key: item.default for key, item in parameters.items() if item.default is not item.empty}
    values = {**defaults, **further, **node}
    if execution == "topk" and values.get("temperature", 1.0) != 1:
        raise UserError(
            f"objective.{name}.execution=topk: the likeliest classes tell the divergence at temperature 1 only, not "
            f"{values['temperature']}",
            f"objective.{name}.temperature=1",
        )
    accepted = inspect.signature(ways[execution]).parameters
    for key in [key for key in parameters if key not in accepted]:
        if values.pop(key, defaults.get(key)) != defaults.get(key):
            raise UserError(
                f"objective.{name}.{key}={node[key]} does not go with execution={execution}",
                f"objective.{name}.execution=dense",
            )
    return ways[execution], [key for key in (*parameters, *further) if key in accepted], values


def _tensors(function: Any, node: Mapping[str, Any]) -> dict[str, bool]:
    """Tensors that the loss takes, by name -> whether it needs them."""
    called = _call(function) if isinstance(function, type) else function
    parameters = list(inspect.signature(called).parameters.values())
    if isinstance(function, type):
        parameters = parameters[1:]
        node = {}
    return {
        parameter.name: parameter.default is parameter.empty
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.name not in node
    }


def _options(name: str, target: str, function: Any, allowed: list[str] | None, node: dict[str, Any]) -> dict[str, Any]:
    """The options of a term. Raises UserError for one that is unknown, or missing."""
    options = set(allowed or ())
    for parameter in inspect.signature(function).parameters.values() if allowed is None else ():
        if parameter.kind is parameter.VAR_KEYWORD:
            options |= set(node)
        elif parameter.kind is parameter.KEYWORD_ONLY or parameter.name in node or isinstance(function, type):
            options.add(parameter.name)
        missing = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if missing and parameter.name not in node and not isinstance(function, type):
            raise UserError(f"objective.{name}.{parameter.name} has no default and no value")
    for key in node:
        if key not in options:
            guess = nearest(key, [*options, *losses.SETTINGS, "weight"])
            raise UserError(
                f"objective.{name} has no option {key!r}" + (f": did you mean {guess!r}?" if guess else ""),
                f"options of {target}: {', '.join(sorted(options)) or 'none'}",
            )
    return node


def _pairs(name: str, tensors: Mapping[str, bool], settings: Mapping[str, Any]) -> CapturePairs | None:
    """What is captured for a term; None where it takes no features, or the features that its task gives."""
    each = any(key in tensors for key in EACH)
    takes = EACH if each else LISTS if any(key in tensors for key in LISTS) else ()
    chosen = {who: _paths(name, who, settings[who]) for who in ("student", "teacher")}
    if not takes or not any(chosen.values()):
        if any(chosen.values()):
            key = "student" if chosen["student"] else "teacher"
            raise UserError(
                f"objective.{name}.{key}: this loss compares no features",
                f"losses that take {listed(EACH)} or {listed(LISTS)} do",
            )
        if takes == LISTS:
            raise UserError(
                f"objective.{name} compares what is captured of the networks and names nothing",
                f"give objective.{name}.student=PATH objective.{name}.teacher=PATH, with module paths such as layer3",
            )
        return None
    for who, other, key in (("student", "teacher", takes[0]), ("teacher", "student", takes[1])):
        if key in tensors:
            chosen[who] = chosen[who] or chosen[other]
        elif chosen[who]:
            raise UserError(f"objective.{name}.{who}: this loss looks at nothing of the {who}")
    for key, words in (("adaptor", ADAPTORS), ("resize", RESIZES)):
        if settings[key] not in words:
            raise UserError(f"objective.{name}.{key} must be one of {listed(words)}, got {settings[key]!r}")
    return CapturePairs(chosen["student"], chosen["teacher"], each, settings["adaptor"], settings["resize"])


def _paths(name: str, who: str, value: Any) -> tuple[str, ...]:
    paths = [value] if isinstance(value, str) else value or []
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"objective.{name}.{who} must be a module path, a list of them, or output:NAME, got {value!r}")
    return tuple(paths)


def _logits(name: str, tensors: Mapping[str, bool], value: Any) -> str | None:
    """The output of the student's task that the term is given in the place of its logits."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.removeprefix(OUTPUT) or not value.startswith(OUTPUT):
        raise UserError(
            f"objective.{name}.logits must be output:NAME, with a name that the student gives, got {value!r}"
        )
    if "student_logits" not in tensors:
        raise UserError(f"objective.{name}.logits={value}: this term takes no logits of the student")
    return value


def _only(name: str, tensors: Mapping[str, bool], value: Any) -> tuple[int, ...] | None:
    """The classes whose logits the term is given."""
    if value is None:
        return None
    numbers = isinstance(value, list | tuple) and all(type(number) is int and number >= 0 for number in value)
    if not numbers or len(set(value)) < max(len(value), 2):
        raise UserError(
            f"objective.{name}.only must be numbers of at least two classes, each once, got {value!r}",
            "as in only: [0, 1, 2]; null is all",
        )
    if "student_logits" not in tensors:
        raise UserError(f"objective.{name}.only={value}: this term takes no logits of the student")
    return tuple(value)


def _moved(term: Term, over: str | None) -> Term:
    """The term over the positions that its settings say."""
    if over is None:
        return term
    if over not in OVER:
        raise UserError(f"objective.{term.name}.over must be one of {listed(OVER)}, got {over!r}")
    if not term.pointwise:
        raise UserError(f"objective.{term.name}.over={over}: its values are not those of single positions")
    return replace(term, moved=OVER[over])
