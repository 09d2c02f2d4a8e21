"""The study of a search: Optuna's samplers and pruner over an SQLite file that outlives the process.

A trial enters the file in one transaction with its parameters and its run, so that a search that is killed at any moment
finds every trial either whole or absent; a trial without an end is continued, never replaced. One that has ended has a checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrun.problems import UserError
from kdrun.sweep.objectives import MAXIMIZE, SweepObjective
from kdrun.sweep.space import Space

COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
IDENTITY, LATENCIES, DIGEST = "kdrun", "latencies", "sha256"
AGAIN = "remove it (mv {0} {0}.damaged): the same command draws the same trials again, and finds the jobs that are done"
POPULATION = 20
"""Of nsgaii: searches here are of tens of trials, and its first generation is drawn at random."""


class Study:
    """Trials by number. attributes of a trial: overrides, job_hash, run (id), folder, error, retry_of."""

    def __init__(
        self,
        path: Path,
        name: str,
        space: Space,
        objectives: Sequence[SweepObjective],
        *,
        sampler: str,
        seed: int,
        pruner: str,
        warmup_epochs: int,
        identity: dict[str, Any],
    ):
        with _quiet():
            import optuna

            self._optuna = optuna
            self.space, self.sampler, self.seed = space, sampler, seed
            self._ids: dict[int, int] = {}
            self._directions = [objective.direction for objective in objectives]
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_file(path)
            patient = {"connect_args": {"timeout": 60}}
            try:
                self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=patient)
            except Exception as error:  # whatever SQLAlchemy makes of a file that is something else
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"{path} cannot be used as the storage of a study: {reason}") from None
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                sampler=optuna.samplers.RandomSampler(),  # draws nothing: see draw()
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=warmup_epochs)
                if pruner == "median"
                else optuna.pruners.NopPruner(),
                directions=self._directions,
                load_if_exists=True,
            )
        self._agree(path, name, json.loads(json.dumps(identity)))
        for trial in self.trials():
            values = trial.values if state_of(trial) == COMPLETE else None  # Optuna gives a pruned one its last value
            digest = _digest(trial, trial.state, values)
            if state_of(trial) != RUNNING and trial.user_attrs.get(DIGEST, digest) != digest:
                raise UserError(f"{path} is damaged: trial {trial.number} is not what was written", AGAIN.format(path))

    def _agree(self, path: Path, name: str, identity: dict[str, Any]) -> None:
        """A study that was made for another search is refused: its trials would not be comparable."""
        theirs = self._study.user_attrs.get(IDENTITY)
        if theirs is None and not self.trials():
            self._study.set_user_attr(IDENTITY, identity)
        elif theirs != identity:
            keys = [key for key in identity if (theirs or {}).get(key) != identity[key]]
            differs = [f"{key}: {(theirs or {}).get(key)} there, {identity[key]} here" for key in keys[:3]]
            raise UserError(
                f"study {name} in {path} is of another search", *differs, "hydra.sweeper.study_name=NAME begins another"
            )

    @property
    def latencies(self) -> dict[str, float]:
        """Networks that were measured before -> milliseconds (see objectives.measure)."""
        return dict(self._study.user_attrs.get(LATENCIES, {}))

    @latencies.setter
    def latencies(self, found: dict[str, float]) -> None:
        self._study.set_user_attr(LATENCIES, found)

    def trials(self) -> list[Any]:
        """Optuna's frozen trials, by number."""
        return self._study.get_trials(deepcopy=False)

    def trial(self, number: int) -> Any:
        return self.trials()[number]

    def best(self) -> list[int]:
        """Numbers of the trials that no other one is at least as good as everywhere and better somewhere; the best of the first
        objective first. With one objective: the best trial, and those equal to it."""
        signs = [-1 if direction == MAXIMIZE else 1 for direction in self._directions]

        def order(trial: Any) -> tuple[list[float], int]:
            return [sign * value for sign, value in zip(signs, trial.values, strict=True)], trial.number

        return [trial.number for trial in sorted(self._study.best_trials, key=order)]

    def draw(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(parameters, notes of the sampler) of trial `number`, from all trials so far.

        Drawn in a copy in memory by a sampler seeded with (seed, number): what was asked before, in this process or in
        one that was killed, plays no part.
        """
        import numpy

        seed = int(numpy.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        samplers = self._optuna.samplers
        with _quiet():
            sampler = {
                "tpe": lambda: samplers.TPESampler(seed=seed),
                "random": lambda: samplers.RandomSampler(seed=seed),
                "nsgaii": lambda: samplers.NSGAIISampler(seed=seed, population_size=POPULATION),
            }[self.sampler]()
            copy = self._optuna.create_study(directions=self._directions, sampler=sampler)
            copy.add_trials(self.trials())
            drawn = copy.ask(self.space.distributions()).params
            return self.space.settled(drawn), copy.get_trials(deepcopy=False)[-1].system_attrs

    def add(self, drawn: dict[str, Any], notes: dict[str, Any], **attributes: Any) -> int:
        """A trial that runs from now on; its number."""
        trial = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params=drawn,
            distributions=self.space.distributions(),
            user_attrs=attributes,
            system_attrs=notes,
        )
        with _quiet():
            self._study.add_trial(trial)
        return len(self.trials()) - 1

    def report(self, number: int, epoch: int, value: float) -> None:
        """A validated epoch (from 0) of a running trial."""
        self._storage.set_trial_intermediate_value(self._id(number), epoch, value)

    def should_prune(self, number: int) -> bool:
        """Whether the trial is worse than the median of the finished ones at its last reported epoch."""
        with _quiet():
            return bool(self._study.pruner.prune(self._study, self._storage.get_trial(self._id(number))))

    def complete(self, number: int, values: Sequence[float]) -> None:
        self._tell(number, values=list(values))

    def prune(self, number: int) -> None:
        self._tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def note(self, number: int, **attributes: Any) -> None:
        """Change attributes of a trial without an end."""
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)

    def fail(self, number: int, error: str) -> None:
        self.note(number, error=error)
        self._tell(number, state=self._optuna.trial.TrialState.FAIL)

    def like(self, number: int, other: int) -> None:
        """The end of the same job in another trial is the end of this one too."""
        source = self.trial(other)
        for epoch, value in source.intermediate_values.items():
            self.report(number, epoch, value)
        state = state_of(source)
        if state == COMPLETE:
            self.complete(number, source.values)
        elif state == PRUNED:
            self.prune(number)
        else:
            self.fail(number, source.user_attrs.get("error", ""))

    def _tell(self, number: int, **end: Any) -> None:
        state = end.get("state", self._optuna.trial.TrialState.COMPLETE)
        values = None if "values" not in end else [float(value) for value in end["values"]]
        self.note(
            number, **{DIGEST: _digest(self.trial(number), state, values)}
        )  # a trial that has ended takes no more notes
        with _quiet():
            self._study.tell(number, **end)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            study = self._storage.get_study_id_from_name(self._study.study_name)
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        return self._ids[number]


def _check_file(path: Path) -> None:
    """Raises UserError where SQLite finds its file damaged."""
    if not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        reason = said.splitlines()[0]
        raise UserError(f"{path} cannot be used as the storage of a study: {reason}", AGAIN.format(path))


def _digest(trial: Any, state: Any, values: Sequence[float] | None) -> str:
    """sha256 of what a trial says that has ended, or is about to, with this state and these values."""
    attributes = {name: value for name, value in trial.user_attrs.items() if name != DIGEST}
    told = [trial.params, values, state.name, attributes, sorted(trial.intermediate_values.items())]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def state_of(trial: Any) -> str:
    """complete, pruned, failed or running."""
    return {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}.get(trial.state.name, RUNNING)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own log lines and its notices about experimental parts are not for our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        yield
