"""What using a teacher asks for on every use, also where its student is in the store: how it sees samples, and that it is fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from kdrun.config.trees import without
from kdrun.lab.stages.base import BEST, Result, Stage
from kdrun.learning.fitness import UnfitTeacher, check_guess, check_stated
from kdrun.problems import UserError
from kdrun.schema import Data, irrelevant


def as_trained(stage: Stage, workshop: Any) -> Stage:
    """A stage that only evaluates weights, on inputs normalised as these were trained on, as far as their file says it.

    Raises UserError where the config says otherwise, or normalises what the data do not.
    """
    given, key = stage.stated.get("normalize"), stage.stated.get("key", stage.role)
    if stage.trainer is not None and given is None:
        return stage
    from kdrun.networks.inputs import moments_of, same, shown

    if given is not None and moments_of(workshop.data(stage.data).spec) is None:
        raise UserError(
            f"{key}.normalize: networks for data={stage.data['name']} are given no pixels or numbers that it could change",
            "leave it out",
        )
    if stage.trainer is not None or stage.learner["weights"] is None:
        return stage
    from kdrun.networks.weights import read_metadata

    learned = moments_of(read_metadata(stage.learner["weights"]))
    if learned is None:
        return stage
    if given is not None:
        if not same(moments_of(given), learned):
            raise UserError(
                f"{key}.normalize={shown(given)}: {stage.learner['weights']} was trained with {shown(learned)}",
                f"leave {key}.normalize out: the file says how its inputs are normalised",
            )
        return stage
    ours = moments_of(workshop.data(stage.data).spec)
    if ours is None or same(ours, learned):
        return stage
    return replace(stage, data={**stage.data, "normalize": learned})


def check_accuracy(stage: Stage) -> None:
    """Raises UnfitTeacher where the record of one of the stage's teachers is below the accuracy that the config states."""
    if stage.teaching.get("unchecked"):
        return
    for number, teacher in enumerate(stage.teachers):
        said = stage.teaching if number == 0 else getattr(teacher.stage, "stated", {})
        reached = (teacher.record.get("val") or {}).get(BEST) or {}
        if said.get("accuracy") is None or "accuracy" not in reached:
            continue
        name = teacher.stage.learner["name"]
        try:
            check_stated(name, "accuracy", reached["accuracy"], said["accuracy"], said["tolerance"], "validation")
        except UnfitTeacher as error:
            raise UnfitTeacher("\n".join([str(error), *otherwise(teacher)])) from None


def check_noted(stage: Stage, result: Result) -> None:
    """Raises UnfitTeacher where a finished stage was taught by what is no better than a guess, as a control may be."""
    notes = result.record.get("teacher") or {}
    if stage.teachers and not stage.teaching.get("unchecked"):
        for teacher, noted in zip(stage.teachers, [notes, *(notes.get("also") or ())], strict=False):
            check_guess(teacher.stage.learner["name"], noted)


def otherwise(result: Result) -> list[str]:
    """Lines to tell where weights that were brought do far better under another normalisation; none where they do not."""
    found = result.record.get("otherwise")
    if found is None:
        return []
    from kdrun.networks.inputs import typed

    metric = "" if found["metric"] == "accuracy" else f"{found['metric']} "
    key = result.stage.stated.get("key", result.stage.role)
    return [
        f"{key} {result.stage.learner['name']}: {metric}{found['given']:.4f} on {found['samples']} validation samples, "
        f"{found['value']:.4f} with inputs normalised to {found['name']}; to use that:",
        typed(f"{key}.normalize", found),
    ]


def settle_teaching(stage: Stage, workshop: Any) -> dict[str, Any]:
    """`teaching` with source decided and checked; `fill` is None when nothing is cached."""
    from kdrun.data.module import SAMPLE
    from kdrun.learning.topk import cache_size

    teaching = stage.teaching
    if (mode := teaching.get("mode", "eval")) != "eval":
        if teaching["source"] == "cached":
            why = "depends on its batch" if mode == "batch_stats" else "differs each time"
            raise UserError(
                f"teacher.mode={mode}: what the teacher says of a sample {why} and cannot be kept",
                "give teacher.source=online, or teacher.mode=eval",
            )
        teaching = {**teaching, "source": "online"}
    if teaching["source"] == "online" and not stage.sees:
        return {**teaching, "fill": None}
    module = workshop.data(stage.data)
    recurring = not module.random or module.replayed
    if stage.sees and module.cached_by != SAMPLE:
        if teaching["source"] == "cached":
            raise UserError(
                "teacher.source=cached: what a teacher with data of its own says of tokens is not kept",
                "give teacher.source=online, or leave teacher.data and teacher.prompt out",
            )
        teaching = {**teaching, "source": "online"}
    if stage.sees and not recurring:
        shown = ", ".join(f"data.{key}={value}" for key, value in stage.sees.items())
        raise UserError(
            f"the teacher sees the samples with {shown}: random crops and flips would differ from the student's",
            "replay the augmentation: data.augment.seed=0 data.augment.views=4, or leave it out",
        )
    if teaching["source"] == "online":
        return {**teaching, "fill": None}
    size = cache_size(module, stage.objective, workshop.feature_width(stage), teaching.get("cache_format", "fp32"))
    if size is None:
        if teaching["source"] == "cached":
            raise UserError(
                "teacher.source=cached: what this objective needs of a teacher (whole distributions, states before the "
                "output layer, what is captured of its modules, or says of a second view) is not kept",
                "use teacher.source=online; for text, objective=word_kd_topk keeps the likeliest tokens",
            )
        return {**teaching, "source": "online", "fill": None}
    size /= 1e9
    fits = size <= teaching["cache_limit_gb"]
    if teaching["source"] == "cached":
        if not recurring:
            raise UserError(
                "teacher.source=cached: outputs of randomly augmented inputs cannot be reused",
                "replay the augmentation (data.augment.seed=0 data.augment.views=4) or use teacher.source=online",
            )
        if not fits:
            raise UserError(
                f"teacher.source=cached: the outputs would take {size:.1f} GB, "
                f"teacher.cache_limit_gb is {teaching['cache_limit_gb']}"
            )
    source = "cached" if recurring and fits else "online"
    if source == "cached" and teaching["fill"] == "first_epoch" and module.labelled_share is not None:
        raise UserError(
            f"teacher.fill=first_epoch: with data.labelled_share={module.labelled_share:g} not every sample is in the first epoch",
            "give teacher.fill=pass",
        )
    return {**teaching, "source": source, "fill": teaching["fill"] if source == "cached" else None}


def evaluated(data: dict[str, Any]) -> dict[str, Any]:
    """A data config without what decides only which samples are trained on, and how their inputs are normalised."""
    return without(data, ("normalize", *irrelevant(Data, "training", task=data.get("task"))))


def check_own_data(stage: Stage, workshop: Any) -> None:
    """Raises UserError where a teacher's own data (`teacher.data`) have other samples in validation or test than those of
    its students, train on these, or give its outputs another meaning."""
    beside, key = stage.stated.get("beside"), stage.stated.get("key", stage.role)
    if beside is None:
        return
    try:
        workshop.check_evaluation(stage.data, beside)
    except UserError as error:
        if error.lines[0].startswith("data."):  # a key of data: it was typed as the teacher's
            raise UserError(*(re.sub(r"^data\.", f"{key}.data.", line) for line in error.lines)) from None
        raise UserError(f"{key}.data: {error.lines[0]}", *error.lines[1:]) from None
