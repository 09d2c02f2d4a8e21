"""The body of the mirror process: rows of metrics.jsonl to W&B, then summary and exit code. See `mirror`.

One row becomes one `log` call with the names `<stage>/<metric>`, `<stage>/epoch` and the step axis `<stage>/step`;
W&B's own step is left to W&B, because stages run one after another and steps that go backwards would be dropped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.tracking.flatten import flatten
from kdrun.tracking.metrics import KEYS, parse_row
from kdrun.tracking.mirror import CURSOR, EXIT_TIMEOUT, FOLDER, SETTINGS, STATE
from kdrun.tracking.record import DONE, INTERRUPTED, METRICS, RECORD, RUNNING

POLL_SECONDS = 1.0
CONFIRM_SECONDS = 5.0
"""A row counts as sent when W&B has had it this long: its own file is written every second or so."""

INIT_SECONDS = 60.0
REPLAY_SECONDS = 120.0
FIGURES_SHARE = 0.5
"""Part of the time for an answer that drawing may take: sending what was measured goes first."""


def main(arguments: list[str]) -> int:
    """`RUN_DIR --parent=PID` follows a run in training; `RUN_DIR --replay` writes a finished one to an offline folder."""
    folder, option = Path(arguments[0]), arguments[1]
    settings = read_json(folder / FOLDER / SETTINGS)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)  # two cores: the training goes first
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Handled, not ignored, so that W&B's service does not inherit it. The end comes through the pipe.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    end = End(folder, settings["timeout"])
    if option == "--replay":
        settings["mode"] = "offline"
        end.timeout = max(end.timeout, REPLAY_SECONDS)
        end.begin()
    else:
        end.watch(int(option.removeprefix("--parent=")))
    try:
        with one_at_a_time(folder, settings["timeout"]):
            push(folder, settings, end)
    except BaseException as error:
        write_state(folder, finished=False, problem=f"{type(error).__name__}: {error}")
        raise
    end.answered.set()
    return 0


class End:
    """The end of the run, seen through the pipe (standard input) or the parent's death; then our own deadline."""

    def __init__(self, folder: Path, timeout: float):
        self.folder, self.timeout = folder, timeout
        self.event = threading.Event()
        self.answered = threading.Event()
        # Nothing below us may read, or hold open, the pipe: W&B asks questions on standard input.
        self._pipe = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def watch(self, parent: int) -> None:
        """`parent` is told, not asked for: it may be dead before we are awake."""
        threading.Thread(target=self._watch, args=(parent,), daemon=True).start()

    def _watch(self, parent: int) -> None:
        # The parent's forked workers may hold a copy of the pipe's other end: closing alone is no proof, so there is a
        # word for the end, and a look at who our parent is.
        while os.getppid() == parent:
            readable, _, _ = select.select([self._pipe], [], [], 1.0)
            if readable:
                os.read(self._pipe, 100)
                break
        self.begin()

    def begin(self) -> None:
        self.event.set()
        threading.Thread(target=self._deadline, daemon=True).start()

    def _deadline(self) -> None:
        if not self.answered.wait(self.timeout):
            with contextlib.suppress(OSError):
                write_state(self.folder, finished=False, problem=f"no answer in {self.timeout:g} s")
            print(f"kdrun: W&B did not answer in {self.timeout:g} s", flush=True)
            os._exit(EXIT_TIMEOUT)


def push(folder: Path, settings: dict[str, Any], end: End) -> None:
    """Follow the run until its end. Raises what W&B raises."""
    record = read_json(folder / RECORD)
    attempt = len(record["attempts"])
    run, mode = start_wandb(folder, settings, record)
    figures = PushedFigures(run, folder)
    cursor = Cursor(folder, settings["id"])
    tail = Tail(folder / METRICS)
    steps: set[str] = set()
    sent = 0
    while True:
        over = end.event.is_set()  # looked at before reading: what was written before the end is read after it
        for row in tail.read():
            values = cursor.unsent(row)
            if not values:
                continue
            stage = row["stage"]
            if stage not in steps:
                steps.add(stage)
                run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            axes = {f"{stage}/{key}": row[key] for key in ("step", "epoch") if key in row}
            run.log({f"{stage}/{name}": value for name, value in values.items()} | axes)
            cursor.sent(row, values)
            sent += 1
        cursor.save(sure=False)
        if over:
            break
        end.event.wait(POLL_SECONDS)
    record = read_json(folder / RECORD)
    if record["status"] == DONE and record["stages"]:
        figures.log(FIGURES_SHARE * end.timeout)
    run.summary.update(flatten_summary(record) | card_summary(folder))
    log_cards(run, folder)
    exit_code = 0 if record["status"] == DONE else 1
    url, online_folder = (run.url, Path(run.dir).parent.name) if mode == "online" else (None, None)
    run.finish(exit_code=exit_code)
    if online_folder:
        from kdrun.tracking.sync import note_sent

        note_sent(folder, [online_folder])
    cursor.save(sure=True)
    write_state(folder, finished=True, mode=mode, exit_code=exit_code, rows=sent, attempt=attempt, url=url)


class PushedFigures:
    """The figures of the run, as files in its folder and as images at W&B. What goes wrong is said in the mirror's log
    and changes nothing else: figures can be drawn again from the record at any time.
    """

    def __init__(self, run: Any, folder: Path):
        import wandb

        self.run, self.folder = run, folder
        self.image = getattr(wandb, "Image", None)
        self._paths: list[Path] = []
        if self.image is not None:  # matplotlib takes a while to import: do it while the run is busy, not at its end
            self._guarded(self._import)

    def log(self, seconds: float) -> None:
        """Draw and log; what is not drawn after `seconds` is left out."""
        if self.image is None:
            return
        thread = threading.Thread(target=self._guarded, args=(self._draw,), daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            print(
                f"kdrun: no figures at W&B, they take longer than {seconds:g} s; kdrun plot {self.folder.name}",
                flush=True,
            )
        elif self._paths:
            self._guarded(self._send)

    def _import(self) -> None:
        from kdrun.plots.figures import have_matplotlib

        if not have_matplotlib():
            self.image = None
            return
        import kdrun.plots.paper  # noqa: F401

    def _draw(self) -> None:
        from kdrun.plots.figures import write_figures
        from kdrun.plots.subject import Subject
        from kdrun.tracking.registry import read_run

        info = read_run(self.folder)
        self._paths, _ = write_figures(Subject("run", info.id, self.folder, [(info.id, info)], info.record or {}))

    def _send(self) -> None:
        images = {f"plots/{path.stem}": self.image(os.fspath(path)) for path in self._paths if path.suffix == ".png"}
        self.run.log(images)

    @staticmethod
    def _guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            print("kdrun: no figures at W&B:", flush=True)
            traceback.print_exc()


@contextlib.contextmanager
def one_at_a_time(folder: Path, seconds: float) -> Iterator[None]:
    """Wait for the mirror of the attempt before this one, which may still be ending, but not for ever.

    W&B names its folders by the second: where there is one already, the next begins in a later second.
    """
    import filelock

    lock = filelock.FileLock(folder / FOLDER / ".lock")
    with contextlib.suppress(filelock.Timeout):
        lock.acquire(timeout=seconds)
    if any((folder / "wandb").glob("*run-*")):
        time.sleep(1.1)
    try:
        yield
    finally:
        lock.release()


def flatten_summary(record: dict[str, Any]) -> dict[str, Any]:
    """`teacher/best`, `arms/student/best/mean`, `gap_closed/best` ...: W&B groups columns by slashes.

    W&B turns a NaN in a summary into nothing; its own word for it, which history rows get, keeps it visible.
    """
    flat = flatten(record.get("summary") or {}, separator="/")
    summary = {name: non_finite(value) for name, value in flat.items() if value is not None}
    return summary | {"status": INTERRUPTED if record["status"] == RUNNING else record["status"]}


def card_summary(folder: Path) -> dict[str, Any]:
    """`card/local/fp32/p99_ms` ... of the scorecards that the run has."""
    from kdrun.hardware.card.cards import flat, read_cards

    return {name: non_finite(value) for name, value in flat(read_cards(folder)).items()}


def log_cards(run: Any, folder: Path) -> None:
    """The scorecards as a table, one row for each network, target and precision."""
    from kdrun.hardware.card.cards import COLUMNS, read_cards, rows

    cards = read_cards(folder)
    if cards:
        import wandb

        data = [[non_finite(value) for value in row] for row in rows(cards)]
        run.log({"cards": wandb.Table(columns=list(COLUMNS), data=data, allow_mixed_types=True)})


def non_finite(value: Any) -> Any:
    """ "NaN", "Infinity" or "-Infinity" for such a number, anything else as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def start_wandb(folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> tuple[Any, str]:
    """(W&B run, mode). A server that cannot be reached turns online into offline; nothing is asked, captured or saved
    besides what we log: no console, code, git, host name, machine metadata or usage."""
    import wandb

    def start(mode: str) -> Any:
        return wandb.init(
            dir=os.fspath(folder),
            id=settings["id"],
            resume="allow",
            name=settings["name"],
            project=settings["project"],
            entity=settings["entity"],
            group=settings["group"],
            tags=settings["tags"] or None,
            mode=mode,
            config=flatten({**(record["config"] or {}), "seeds": record["seeds"]}),
            settings=wandb.Settings(
                console="off",
                silent=True,
                host="",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_transaction_log_flush_interval=2,
                init_timeout=INIT_SECONDS,
            ),
        )

    if settings["mode"] == "online":
        try:
            return start("online"), "online"
        except Exception as error:
            print(f"kdrun: W&B is not reachable ({error}); going offline", flush=True)
            with contextlib.suppress(Exception):
                wandb.teardown(exit_code=1)
    return start("offline"), "offline"


class Cursor:
    """What earlier attempts have sent: stage -> metric -> highest step.

    Kept by step, not by line: every attempt writes metrics.jsonl anew, and a resumed stage repeats the steps after its
    checkpoint."""

    def __init__(self, folder: Path, identity: str):
        self.path = folder / FOLDER / CURSOR
        self.identity = identity
        try:
            stored = read_json(self.path)
        except (OSError, ValueError):
            stored = {}
        self.before: dict[str, dict[str, int]] = stored.get("steps", {}) if stored.get("id") == identity else {}
        self.steps = {stage: dict(metrics) for stage, metrics in self.before.items()}
        self._candidate = json.dumps(self.steps)
        self._saved = self._candidate
        self._since = time.monotonic()

    def unsent(self, row: dict[str, Any]) -> dict[str, Any]:
        before = self.before.get(row["stage"], {})
        return {
            name: value
            for name, value in row.items()
            if name not in KEYS and value is not None and row["step"] > before.get(name, -1)
        }

    def sent(self, row: dict[str, Any], names: dict[str, Any]) -> None:
        steps = self.steps.setdefault(row["stage"], {})
        for name in names:
            steps[name] = max(row["step"], steps.get(name, -1))

    def save(self, sure: bool) -> None:
        """`sure`: W&B has finished, all of it counts. Otherwise what had been logged CONFIRM_SECONDS ago."""
        if not sure and time.monotonic() - self._since < CONFIRM_SECONDS:
            return
        current = json.dumps(self.steps)
        text = current if sure else self._candidate
        if text != self._saved:
            write_json(self.path, {"id": self.identity, "steps": json.loads(text)})
            self._saved = text
        self._candidate, self._since = current, time.monotonic()


class Tail:
    """New whole lines of a file that is being appended to."""

    def __init__(self, path: Path):
        self.path = path
        self.position = 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        return [parse_row(json.loads(line)) for line in whole.splitlines()]


def write_state(folder: Path, **state: Any) -> None:
    """What became of the mirror, for `kdrun show` and `kdrun sync`."""
    write_json(folder / FOLDER / STATE, state)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
