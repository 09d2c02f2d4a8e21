"""The tables of a sweep: people choose by them, so the column called validation is validation."""

from __future__ import annotations

import io
from types import SimpleNamespace

from plots.records import make_run

from kdrun.present.console import Console
from kdrun.sweep.board import Board, show_results
from kdrun.sweep.plan import Point, SweepPlan


def planned(tmp_path, status="done"):
    """Two jobs that are done; validation of the first is 11.11 %, test is another figure."""
    points = []
    for number, job in enumerate(("ab", "cd")):
        run = make_run(tmp_path, job * 32, seeds=1)
        for stage in run.record["stages"]:
            stage["val"]["best"] = {"accuracy": 0.1111}
        from kdrun.files import write_json

        write_json(run.dir / "record.json", run.record)
        words = [f"[/]lr={number}", "seed=0"]
        points.append(Point(number, words, SimpleNamespace(slug="x"), status, run.id, run.dir))
    return SweepPlan(
        "sweep-1", tmp_path / "sweeps" / "sweep-1", "grid", [], SimpleNamespace(command="kdrun -m"), points
    )


def printed(show, width=120):
    out = io.StringIO()
    show(Console(file=out, width=width))
    return out.getvalue()


def test_the_live_table_and_the_last_one_show_validation_as_validation(tmp_path):
    plan = planned(tmp_path)
    live = printed(lambda console: console.print(Board(plan, console)._render()))
    assert "validation" in live and live.count("11.11") == 2 and "91." not in live
    last = printed(lambda console: show_results(plan, console))
    heads = " ".join(last.splitlines()[:2]).split()
    assert "val" in heads and "test" in heads and last.count("11.11") == 2 and "[/]lr=0" in last


def test_an_event_that_cannot_be_shown_ends_no_sweep(tmp_path, monkeypatch):
    plan = planned(tmp_path)
    board = Board(plan, Console(file=io.StringIO()))
    board.event({"kind": "progress", "number": 0})  # without what it should have
    monkeypatch.setattr("kdrun.sweep.board.result", lambda point: 1 / 0)
    board.event({"kind": "end", "number": 0, "status": "done"})
    monkeypatch.setattr("kdrun.sweep.board.columns", lambda *a, **k: 1 / 0)
    assert str(board._render()) == ""
    show_results(plan, Console(file=io.StringIO()))
