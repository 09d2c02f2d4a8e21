"""Names from outside that mean something to a terminal, a figure, a page, a table or a spreadsheet: shown as they are."""

from __future__ import annotations

import csv
import html
import re

import pytest

from kdrun.cli import main
from kdrun.present.escape import csv_cell, latex, markdown, markdown_code

NAMES = ("mlp[w4]", "[/]", "$x_{$", "a|b", "<script>", "=1+1", "x_y%&", "`c`", "](z)")
HOSTILE = " ".join(NAMES)
QUICK = [
    "trainer.epochs=1",
    "data.limit.train=200",
    "hardware=cpu",
    "tracker=none",
    "seed=0",
    "teacher=mlp_64",
    "student=mlp_8",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two runs; name, student and teacher of the first are called so."""
    folder = tmp_path_factory.mktemp("hostile")
    names = [f"student.name={HOSTILE!r}", f"teacher.name={'[/] ' + HOSTILE!r}", "name='[/]mlp[w4]'"]
    assert main([*QUICK, *names, "trainer.epochs=2", f"paths.outputs={folder}"]) == 0
    assert main([*QUICK, "student.name='[/red]'", "trainer.epochs=3", f"paths.outputs={folder}", "-q"]) == 0
    return folder


def flat(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("verb", ["show", "energy", "card", "status", "runs", "compare"])
@pytest.mark.parametrize("width", [80, 250])
def test_what_is_printed(outputs, verb, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    first, second = (next((outputs / "runs").glob(f"{start}*")).name for start in ("mlp-w4", "vanilla"))
    words = {"compare": [first, second], "status": [], "runs": []}.get(verb, [first])
    assert main([verb, *words, "--outputs", str(outputs)]) == 0
    said = flat(capsys.readouterr().out)
    assert verb == "status" or any(name in said for name in (HOSTILE, HOSTILE.split()[0])), said
    if width == 250 and verb in ("show", "energy", "card"):
        assert HOSTILE in said


def test_the_panel_and_the_lines_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main([*QUICK, f"student.name={HOSTILE!r}", f"paths.outputs={tmp_path}"]) == 0
    said = flat(capsys.readouterr().out)
    assert f"student {HOSTILE}, distilled" in said and f"alone/seed=0 {HOSTILE} test accuracy" in said


def test_a_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    words = [word for word in QUICK if word != "seed=0"]
    assert main(["plan", "-m", *words, "seed=0,1", f"student.name={HOSTILE!r}", f"paths.outputs={tmp_path}"]) == 0
    assert HOSTILE in flat(capsys.readouterr().out)
    assert main(["plan", *words, "seed=0", f"student.name={HOSTILE!r}", f"paths.outputs={tmp_path}"]) == 0
    assert HOSTILE in flat(capsys.readouterr().out)


def test_figures_and_pages(outputs, capsys):
    folder = next(path for path in (outputs / "runs").iterdir() if path.name.startswith("mlp-w4"))
    assert main(["plot", folder.name, "--outputs", str(outputs)]) == 0
    assert main(["plot", folder.name, "kind=card", "--outputs", str(outputs)]) == 0
    for name in ("curves", "cost", "card"):
        text = html.unescape(" ".join((folder / "plots" / f"{name}.svg").read_text().split()))
        assert "$x_{$ a|b <script>" in text, name
    assert main(["report", folder.name, "--outputs", str(outputs)]) == 0
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "$x_{$ a|b &lt;script&gt;" in page


def test_a_dollar_is_a_dollar_and_no_file_has_control_characters(tmp_path):
    from kdrun.plots.paper import Panel, compose, number_mark, page, svg

    with page():
        figure = compose([Panel("x", "x", lambda ax: {"$x_{$ \x1b \x00": number_mark(3)})])
        content = svg(figure).decode()
    assert "$x_{$" in content and not re.search(r"[\x00-\x08\x0b-\x1f]", content)


def test_a_spreadsheet_computes_nothing():
    from kdrun.tables.render import long_csv

    cell = {
        "row": "=1+1",
        "column": "c",
        "arm": "+arm",
        "metric": "accuracy",
        "n": 1,
        "of": 1,
        "run": "@run",
        "job_hash": "ab",
    }
    text = long_csv({"cells": [{**cell, "values": {"best": {"mean": -0.5, "sd": None}}}]})
    (line,) = csv.DictReader(text.splitlines())
    assert (line["row"], line["arm"], line["run"], line["mean"]) == ("'=1+1", "'+arm", "'@run", "-0.5")


@pytest.mark.parametrize(
    ("name", "in_markdown", "in_latex"),
    [
        ("mlp[w4]", "mlp[w4]", "mlp[w4]"),
        ("[/] x", "[/] x", "{[}/] x"),
        ("$x_{$", "$x\\_{$", r"\$x\_\{\$"),
        ("a|b", r"a\|b", r"a\textbar{}b"),
        ("<script>", "&lt;script>", r"\textless{}script\textgreater{}"),
        ("x_y%&", "x_y%&amp;", r"x\_y\%\&"),
        ("[a](http://x)", r"[a\](http://x)", "{[}a](http://x)"),
        ("# a\nb", r"\# a b", "\\# a\nb"),
        ("`a`", r"\`a\`", "`a`"),
    ],
)
def test_markdown_and_latex(name, in_markdown, in_latex):
    assert markdown(name) == in_markdown and latex(name) == in_latex


def test_code_and_cells():
    assert markdown_code("a|b") == r"`a\|b`" and markdown_code("a`b") == "``a`b``" and markdown_code("`a") == "`` `a ``"
    assert [csv_cell(value) for value in ("=1", "+1", "-1", "@x", "a=1", -1.5, None)] == ["'=1", "'+1", "'-1", "'@x", "a=1", -1.5, None]  # fmt: skip
