from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import kdrun
from kdrun.present.console import Console, columns, facts, harmless, show_page
from kdrun.present.tables import print_table

HOSTILE = ("mlp[w4]", "[/]", "[red]x[/red]", "$x_{$", "a|b", "<script>", "=1+1", "x_y%&", ":smile:", "\\", "{}")


def printed(*shown, width=100, **how):
    out = io.StringIO()
    console = Console(file=out, width=width, **how)
    for one in shown:
        console.print(one)
    return out.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_string_is_printed_as_it_is(name):
    table = Table(name)
    table.add_row(name)
    shown = printed(name, table, facts([(name, name)]), columns((name,), [(name,)]))
    assert shown.count(name) == 7, shown


def test_no_string_moves_the_cursor_or_ends_a_line():
    shown = printed("a\x1b[2Jb\x07c\x9bd\re", force_terminal=True)
    assert "\x1b" not in shown and "\x07" not in shown and "\r" not in shown and "\x9b" not in shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_of_a_wide_table_is_cut(width):
    names = ["of each part", *(f"method {place}, predictions on public samples" for place in range(9))]
    rows = [(f"client {row}", *(f"{row}{place}.{row}{place} %" for place in range(9))) for row in range(3)]
    lines = printed(columns(names, rows), width=width).splitlines()
    assert max(map(len, lines)) <= width
    for row in rows:
        figures = [line.removeprefix(row[0]).split("%") for line in lines if line.startswith(row[0])]
        assert tuple(f"{one.strip()} %" for line in figures for one in line[:-1]) == row[1:]
    if width == 200:
        assert sum(line.startswith("client 0") for line in lines) == 1


def test_what_is_copied_is_whole_at_any_width():
    out, command = io.StringIO(), "kdrun show " + "long-name-" * 20
    show_page(
        Console(file=out, width=40), "[/] title", ["text"], [("details", command), ("record", "/a b/" + "c" * 90)]
    )
    lines = out.getvalue().splitlines()
    assert f"details  {command}" in lines and f"record   /a b/{'c' * 90}" in lines
    assert "[/] title" in lines[0]


def test_a_table_that_is_too_wide_has_ids_and_commands_on_lines_of_their_own(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    name = "vanilla-resnet14-resnet8_w2-digits-f02962d0"
    rows = [{"run": name, "status": "failed", "why": "ValueError: [/]", "go on with": f"kdrun rerun {name}"}]
    print_table(rows, copied=("run", "go on with"))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in sys.stdout.getvalue().splitlines()]
    assert name in lines and f"  kdrun rerun {name}" in lines and "  failed  ValueError: [/]" in lines


def test_what_cannot_be_shown_stops_nothing(caplog):
    @harmless
    def show():
        raise ValueError("no")

    assert show() is None and "could not be shown" in caplog.text

    @harmless
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_nothing(tmp_path):
    words = (
        "trainer.epochs=1 seed=0 teacher=mlp_64 student=mlp_8 data.limit.train=200 hardware=cpu tracker=none card=false"
    )
    take, give = os.pipe()
    os.close(take)
    done = subprocess.run(  # a real interpreter, which looks at what it could not write once more when it ends
        [sys.executable, "-m", "kdrun", *words.split(), f"paths.outputs={tmp_path}"],
        stdout=give, stderr=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(kdrun.__file__).parents[1])},
    )  # fmt: skip
    os.close(give)
    (record,) = tmp_path.glob("runs/*/record.json")
    assert '"status": "done"' in record.read_text() and done.returncode == 0, done.stderr


def test_there_is_one_door_to_the_terminal():
    """No other file makes a console of rich's own, and none turns markup on."""
    root = Path(kdrun.__file__).parent
    for path in root.rglob("*.py"):
        if path == root / "present" / "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in ("rich", "rich.console", "rich.markup"):
                names = {alias.name for alias in node.names}
                assert not names & {"Console", "print", "get_console", "render", "escape"}, path
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "TextColumn":
                assert any(k.arg == "markup" and k.value.value is False for k in node.keywords), path
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_markup":
                raise AssertionError(path)


def test_a_table_that_is_too_wide_breaks_pairs_of_figures_and_cuts_none():
    import io

    from rich.console import Console as Plain

    from kdrun.present.console import columns

    page = io.StringIO()
    row = ("grade1_mlp_64_sft/seed=0", "1cb67b3d", "trained", "68.66 / 69.77", "68.44 / 70.55", "0.1 s")
    table = columns(("stage", "fingerprint", "result", "val %", "test %", "time"), [row], whole=(0,))
    Plain(file=page, width=74).print(table)
    assert all(word in page.getvalue().split() for cell in row for word in cell.split())
