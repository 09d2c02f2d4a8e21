"""kdrun from Python, for notebooks and scripts: the same runs, records and store as on the command line.

Functions take the words of the command line (`"strategy=vanilla"`, `"seeds=5"`). They print nothing unless asked to,
leave signal handlers, random generators and thread counts as they were, and raise `kdrun.UserError` for a mistake.
Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.parts import WHOLE, Part, epoch_of, headline_epoch, is_group, parts_of
from kdrun.present.verdict import verdict_of
from kdrun.problems import UserError, closest, listed
from kdrun.records import arms_of, own_arm

if TYPE_CHECKING:
    from torch import nn

    from kdrun.tracking.registry import RunInfo


@dataclass(frozen=True)
class RunView:
    """A run as its record shows it: what came out, what it cost, and where it is.

    id      as `kdrun runs` lists it
    path    its folder
    status  done, failed, interrupted ... (tracking/record.py)
    record  all of record.json
    """

    id: str
    path: Path
    status: str
    record: dict[str, Any]

    @classmethod
    def find(cls, run: str, outputs: str | Path = "outputs") -> RunView:
        """The run of this id, unique beginning of an id, beginning of a job hash, or "last". UserError otherwise."""
        from kdrun.tracking.registry import find_run

        return _view(find_run(outputs, run))

    @property
    def summary(self) -> dict[str, Any]:
        """Arms, differences, share of the gap closed; {} until there is a result."""
        return self.record.get("summary") or {}

    @property
    def verdict(self) -> str | None:
        """What the numbers say, in words."""
        return verdict_of(self.record)

    @property
    def config(self) -> dict[str, Any]:
        """The config of the first seed."""
        return self.record.get("config") or {}

    def config_of(self, seed: int | None) -> dict[str, Any]:
        """The config of a seed, in which the split may be another (`seeds.vary`); of the first where it is None or no seed of the run."""
        from kdrun.tracking.provenance import cells_of

        return {cell["seed"]: cell for cell in cells_of(self.record)}.get(seed, self.config)

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Every stage the run used: label, fingerprint, where it came from, validation and test metrics, cost."""
        return self.record.get("stages") or []

    def accuracy(self, arm: str | None = None, which: str | None = None) -> float | None:
        """Mean test metric over the seeds of an arm (default: the strategy's own), as a fraction; None if not known.

        which: "best" or "last" epoch; default: the one that the run is judged by (`summary["headline"]`)."""
        found = arms_of(self.record).get(arm or own_arm(self.record)) or {}
        return (found.get(which or headline_epoch(self.summary)) or {}).get("mean")

    def metrics(self, stage: str | None = None) -> Any:
        """Rows of metrics.jsonl (of one stage, as in "student/seed=0"): a DataFrame where pandas is, else dicts."""
        from kdrun.tracking.metrics import read_metrics
        from kdrun.tracking.record import METRICS

        return _table(list(read_metrics(self.path / METRICS, stage)))

    def report(self) -> Path:
        """Writes the page of the run, report.html in its folder: one file that needs nothing beside it."""
        from kdrun.plots.subject import find_subject
        from kdrun.report.page import write

        return write(find_subject(self.path.parent.parent, [self.id], tables=False))

    def __repr__(self) -> str:
        accuracy = self.accuracy()
        return f"<Run {self.id}: {self.status}" + ("" if accuracy is None else f", test {accuracy:.4f}") + ">"

    def _repr_html_(self) -> str:
        from kdrun.present.results import error_text, result_rows

        lines = [f"<b>{escape(self.id)}</b> {escape(self.status)}"]
        if error := self.record.get("error"):
            lines.append(escape(error_text(error)))
        if self.summary:
            head = "".join(f"<th>{name}</th>" for name in ("", "best epoch", "last epoch", "seeds"))
            rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in result_rows(self.summary)]
            lines.append("<table>" + "".join(f"<tr>{row}</tr>" for row in (head, *rows)) + "</table>")
        lines += [escape(self.verdict)] if self.verdict else []
        return "<br>".join(lines).replace("<br><table>", "<table>").replace("</table><br>", "</table>")


class RunFailed(RuntimeError):
    """A run ended with an error; `run` is its RunView, the traceback is at the end of its log."""

    def __init__(self, run: RunView) -> None:
        error = run.record.get("error") or {"type": "error", "message": "unknown"}
        super().__init__(f"{run.id} {run.status}: {error['type']}: {error['message']}\nlog: {run.path / 'run.log'}")
        self.run = run


def run(
    *overrides: str,
    conf_dirs: Sequence[str] = (),
    quiet: bool = True,
    force: bool = False,
    jobs: int | str | None = None,
) -> RunView:
    """Run one job, as `kdrun KEY=VALUE ...` does, and return it when it is done.

    conf_dirs: further folders of options. quiet=False shows bars and the panel. force: fit every stage anew. jobs: stages at a time
    ("auto", which is the default: as many as there are GPUs, or cores).
    Raises UserError, or RunFailed where the run ended with an error. KeyboardInterrupt comes through once the state is
    saved: the same call goes on.
    """
    from kdrun.job.compose import compose
    from kdrun.job.opening import waiting_text
    from kdrun.run import run_job
    from kdrun.strategies.unused import refuse_unused
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance, write_start
    from kdrun.tracking.registry import plan_run, read_run, when_free

    job = compose(overrides, conf_dirs)
    refuse_unused([job])
    resolve_mode(job.config["tracker"])
    outputs, told = job.config["paths"]["outputs"], list[Path]()

    def wait(folder: Path) -> None:
        if not told and not quiet:
            print(waiting_text(folder))
        told.append(folder)
        time.sleep(0.5)

    planned = when_free(lambda: plan_run(outputs, job.config["name"], job.hash, alone=True), wait)
    if isinstance(planned, Path):  # another process finished it meanwhile
        return _view(read_run(planned))
    try:
        write_start(planned, job, Provenance.collect(overrides))
    finally:
        planned.close()
    with _undisturbed():
        tell = (lambda event: None) if quiet else None
        try:
            many = None if jobs is None else str(jobs)
            code = run_job(job, force=force, folder=planned.dir, tell=tell, jobs=many)
        except SystemExit as end:  # stopped while it waited for another process
            code = int(end.code or 0)
    view = _view(read_run(planned.dir))
    if code == 0:
        return view
    _raise_if_stopped(code)
    if code == UserError.code:
        raise UserError(*view.record["error"]["message"].splitlines())
    raise RunFailed(view)


def plan(*overrides: str, conf_dirs: Sequence[str] = (), why: bool = False) -> dict[str, Any]:
    """What `kdrun plan KEY=VALUE ... --json` prints: stages, what is in the store, what the rest would cost."""
    from kdrun.job.compose import compose
    from kdrun.job.plan import make_plan
    from kdrun.strategies.unused import refuse_unused

    job = compose(overrides, conf_dirs)
    refuse_unused([job])
    with _undisturbed():
        return make_plan(job, why=why)


def sweep(
    *overrides: str,
    conf_dirs: Sequence[str] = (),
    jobs: int | str = 1,
    retry: bool = False,
    force: bool = False,
    quiet: bool = True,
) -> list[RunView]:
    """Run the jobs of `kdrun -m KEY=A,B ...` and return all of them in order, those that failed too (see `status`).

    jobs: processes at a time, or "auto". What is done is not run again; retry: what failed is.
    """
    from kdrun.config.compose import split_sweep
    from kdrun.config.overrides import without_engine
    from kdrun.processes.pool import jobs_of
    from kdrun.sweep.execute import execute
    from kdrun.sweep.plan import make_plan

    engine = without_engine(overrides)
    if engine.sweeper:
        raise UserError("a search is started from the command line: kdrun -m hydra/sweeper=optuna ...")
    if engine.launcher:
        from kdrun.sweep.launchers import check

        check(engine.launcher, engine.settings)
    processes = jobs_of(str(jobs))
    with _undisturbed():
        sweep_plan = make_plan(
            split_sweep(engine.words, conf_dirs),
            conf_dirs,
            arguments=["-m", *overrides],
            elsewhere=bool(engine.launcher),
        )
        how: dict[str, Any] = {"retry": retry, "force": force, "quiet": quiet, "silent": quiet, "jobs": processes}
        code = execute(sweep_plan, launcher=engine.launcher, settings=engine.settings, **how)
    _raise_if_stopped(code)
    from kdrun.tracking.registry import read_run

    return [_view(read_run(point.folder)) for point in sweep_plan.points if point.folder]


def runs(outputs: str | Path = "outputs", **filters: Any) -> Any:
    """The runs that fit the filters of `kdrun runs`, newest first: a DataFrame where pandas is, else a list of dicts.

    filters: `status="failed"`, `since="2d"`, `strategy="vanilla"`, `seed=[0, 1]`; dotted keys as
    `**{"trainer.epochs": 5}`.
    """
    from kdrun.tracking.filters import as_text, select
    from kdrun.tracking.overview import overview
    from kdrun.tracking.registry import list_runs

    def text(value: Any) -> str:
        return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else as_text(value)

    found = select(list_runs(outputs), [f"{key}={text(value)}" for key, value in filters.items()], Path(outputs))
    rows = []
    for view in map(overview, found):
        result = view.pop("result")
        for which in ("best", "last"):
            mean = result[which] or {}
            view |= {which: mean.get("mean"), f"{which}_sd": mean.get("sd")}
        rows.append(view)
    return _table(rows)


def load(
    run: str | RunView,
    arm: str = "student",
    seed: int | None = None,
    which: str | None = None,
    outputs: str | Path = "outputs",
    targets: Sequence[str] = (),
    conf_dirs: Sequence[str] = (),
    part: str | None = None,
) -> nn.Module:
    """A trained network of a run, on the CPU, in eval mode.

    run    an id, "last", or a RunView
    arm    "student" (the strategy's own result), a control such as "alone", or "teacher"
    seed   default: the first of the run
    which  "best" (the epoch that validation chose) or "last"; default: the one that the run is judged by, of a teacher "best"
    part   of an arm that is several networks, the one that is wanted: the name of a view, "client 3" ...
    targets, conf_dirs  packages of your own that the network may be from, and folders whose kdrun.yaml names such; needed for a run
           that you did not start here yourself

    `network.kdrun` says what its inputs are: {"data", "classes", "shape": [C, H, W], "mean", "std" of pixels in 0..1, per
    channel, "run", "stage", "fingerprint", "which"}. Raises UserError where the run has no such network, or where its
    files are not those that were stored.
    """
    from kdrun.config.allowed import agreed
    from kdrun.hardware.exports.subjects import load_network
    from kdrun.slots import allowing
    from kdrun.tracking.registry import RunInfo

    if which not in (None, "best", "last"):
        raise UserError(f"which={which!r}: expected best or last")
    view = run if isinstance(run, RunView) else RunView.find(run, outputs)
    packages, variables = agreed(view.path.resolve().parent.parent, conf_dirs)
    with allowing([*targets, *packages], variables):
        chosen = part_of(view, arm, seed, part)
        info = RunInfo(view.id, view.path, view.record, view.status)
        which = which or epoch_of(view.record, chosen.stage["role"])
        return load_network(info, dict(chosen.stage), which, chosen.weights(which))


def part_of(view: RunView, arm: str, seed: int | None, part: str | None) -> Part:
    """The network of an arm: the last stage of its role, since where a strategy fits several that is its result."""
    roles = list(dict.fromkeys(stage["role"] for stage in view.stages))
    if arm == "student" and arm not in roles and "alone" in roles:
        arm = "alone"  # the own result of a strategy without a teacher
    if arm not in roles:
        problem = f"{view.id} ({view.status}) has no stage '{arm}'"
        raise UserError(problem + closest(arm, roles), f"it has: {listed(roles) or 'none yet'}")
    found = {stage["seed"]: stage for stage in view.stages if stage["role"] == arm}
    if seed is None:
        seed = next(iter(found))
    if seed not in found:
        raise UserError(f"{arm} of {view.id} has no seed {seed}; it has: {listed(map(str, found))}")
    parts = parts_of(found[seed], view.stages)
    if part is None and not is_group(found[seed]):
        return Part(WHOLE, found[seed], {})
    if part is None and len(parts) == 1:
        return next(iter(parts.values()))
    if part is None:
        raise UserError(f"{arm} of {view.id} is several networks together; part= names one of them: {listed(parts)}")
    if part not in parts:
        raise UserError(f"{arm} of {view.id} has no part '{part}'{closest(part, parts)}", f"it has: {listed(parts)}")
    return parts[part]


def _view(info: RunInfo) -> RunView:
    return RunView(info.id, info.dir, info.status, info.known_record())


def _raise_if_stopped(code: int) -> None:
    if code == 130:
        raise KeyboardInterrupt
    if code > 128:
        raise SystemExit(code)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Random generators and the number of threads are afterwards as they were: a run sets both."""
    import torch

    from kdrun.learning import seeds

    state, threads = seeds.capture(), torch.get_num_threads()
    try:
        yield
    finally:
        seeds.restore(state)
        torch.set_num_threads(threads)


def _table(rows: list[dict[str, Any]]) -> Any:
    """A DataFrame where pandas is installed, else the rows."""
    try:
        from pandas import DataFrame
    except ImportError:
        return rows
    return DataFrame(rows)
