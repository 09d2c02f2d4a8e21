"""kdrun -m hydra/sweeper=optuna: a command becomes a search, checked whole before its first trial (see search_loop)."""

from __future__ import annotations

import contextlib
import json as text_of
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrun.problems import UserError
from kdrun.sweep.objectives import VALIDATION, SweepObjective, check_jobs, read_objectives
from kdrun.sweep.search_settings import SearchSettings, take_settings
from kdrun.sweep.space import Space, read_space

STUDY, LOCK, CONFIGS = "study.db", ".lock", "conf"


def search(
    overrides: Sequence[str],
    conf_dirs: Sequence[str] = (),
    *,
    jobs: int = 1,
    retry: bool = False,
    force: bool = False,
    quiet: bool = False,
    json: bool = False,
    command_arguments: Sequence[str] = (),
) -> int:
    """Run a search until it has the asked number of trials; what an earlier call did is not done again.

    Returns 0, 3 if a trial failed, or 130/143 after a signal, with everything stopped and kept. Raises UserError, before
    the first trial and before Optuna or torch is imported, for whatever is wrong with the command.
    retry: failed trials once more, each as a further trial. force: fit every stage of the trials that are left anew.
    """
    from importlib.util import find_spec

    from kdrun.job.compose import compose

    settings, words = take_settings(overrides)
    space = read_space(words, conf_dirs)
    composed = space.check(lambda words: compose(words, conf_dirs))
    objectives = read_objectives(settings.objective, settings.direction, composed)
    pruner = _pruner(settings, objectives)
    if jobs > 1 and any(objective.name == "latency" for objective in objectives):
        raise UserError(f"jobs={jobs}: latency cannot be measured while other trials use the machine", "jobs=1 can")
    if find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna needs optuna: pip install optuna")
    plan, identity, notes = _plan(space, composed, settings, objectives, pruner, conf_dirs, command_arguments)
    from kdrun.sweep.search_loop import SearchLoop
    from kdrun.sweep.search_result import StudyResult
    from kdrun.sweep.search_study import Study

    with _only_one(plan.folder):
        plan.conf_dirs = freeze_configs(plan.folder, conf_dirs)
        storage = Path(settings.storage) if settings.storage else plan.folder / STUDY
        study = Study(
            storage,
            settings.study_name or plan.id,
            space,
            objectives,
            sampler=settings.sampler,
            seed=settings.seed,
            pruner=pruner,
            warmup_epochs=settings.warmup_epochs,
            identity=identity,
        )
        result = StudyResult(
            plan, study, space, objectives, settings, conf_dirs, storage, notes, quiet=quiet, json=json
        )
        return SearchLoop(plan, study, space, objectives, result, settings, pruner, jobs, retry, force).run()


def _pruner(settings: SearchSettings, objectives: Sequence[SweepObjective]) -> str:
    """median where the epochs of trials can be compared: one objective, of validation."""
    possible = len(objectives) == 1 and objectives[0].kind == VALIDATION
    if settings.pruner == "median" and not possible:
        reason = (
            "with several objectives no trial can be called worse than another half-way"
            if len(objectives) > 1
            else f"{objectives[0].name} is not known before a trial has ended"
        )
        raise UserError(f"hydra.sweeper.pruner=median: {reason}", "use hydra.sweeper.pruner=none")
    return settings.pruner or ("median" if possible else "none")


def _plan(space: Space, jobs: Sequence[Any], settings: SearchSettings, objectives, pruner: str, conf_dirs, arguments):
    """(plan without points, what the search is, notes). How many trials and how long is no part of it: both may grow."""
    from kdrun.strategies.unused import refuse_unused
    from kdrun.sweep.plan import make_plan

    refuse_unused(jobs)
    check_jobs(objectives, jobs)
    identity = {
        "space": space.described(),
        "objectives": [objective.name for objective in objectives],
        "directions": [objective.direction for objective in objectives],
        "sampler": settings.sampler,
        "seed": settings.seed,
        "pruner": [pruner, settings.warmup_epochs] if pruner == "median" else [pruner],
        "configs": [job.hash[:12] for job in jobs],
    }
    place = {"study_name": settings.study_name, "storage": settings.storage}
    first = space.overrides(space.corners()[0])
    names = "-".join(key.rpartition(".")[2].lstrip("+") for key in space.parameters)
    plan = make_plan(
        [first],
        conf_dirs,
        kind="search",
        name=f"search-{names}",
        identity=text_of.dumps([identity, place], sort_keys=True),
        arguments=list(arguments),
        deep=False,
    )
    plan.points.clear()
    return plan, identity, list(_notes(space, objectives, jobs))


def _notes(space: Space, objectives: Sequence[SweepObjective], jobs: Sequence[Any]) -> Iterator[str]:
    """What a person should know before the first trial."""
    if len(objectives) > 1:
        yield "no pruning: of several objectives, no trial is worse than another half-way"
    shared = [key for key in space.parameters if key.startswith("trainer.")]
    if shared and any(job.choices.get("strategy") != "alone" for job in jobs):
        yield f"{shared[0]} is the teacher's too: trials train teachers of their own; student.{shared[0]} is the student's"


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another process runs this search now: {folder.name}", "watch it: kdrun status") from None
    try:
        yield
    finally:
        lock.release()


def freeze_configs(folder: Path, conf_dirs: Sequence[str]) -> list[str]:
    """Copies of all folders of options, from which every trial is composed: editing a file changes no later trial."""
    from kdrun.config import groups

    target = folder / CONFIGS
    if not target.is_dir():
        draft = folder / f"{CONFIGS}.writing"
        shutil.rmtree(draft, ignore_errors=True)
        for number, conf in enumerate(groups.conf_dirs(conf_dirs)[0]):
            if conf.package is None:  # a plugin is installed code, like kdrun itself
                shutil.copytree(conf.path, draft / str(number))
        draft.rename(target)
    return [str(path) for path in sorted(target.iterdir(), key=lambda path: int(path.name))]
