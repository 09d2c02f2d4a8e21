"""kdrun report as it is typed."""

import json

import pytest
from plots.records import make_run, make_sweep

from kdrun.cli import main
from kdrun.files import write_json


@pytest.fixture(autouse=True)
def short_pages(monkeypatch):
    """What is on a page is tested elsewhere: no plots, and no sections of a table."""
    monkeypatch.setattr("kdrun.report.figures.have_matplotlib", lambda: False)
    monkeypatch.setattr("kdrun.report.table_page.body", lambda subject: [])


def test_where_the_page_of_each_kind_lies(tmp_path, capsys):
    run = make_run(tmp_path)
    make_sweep(tmp_path, [([], run)])
    (tmp_path / "tables/transfer").mkdir(parents=True)
    write_json(tmp_path / "tables/transfer/table.json", {"title": "Digits", "columns": [], "rows": []})
    for word, path in (
        (run.id, run.dir / "report.html"),
        ("temperature-0badcafe", tmp_path / "sweeps/temperature-0badcafe/report.html"),
        ("transfer", tmp_path / "tables/transfer/report.html"),
    ):
        assert main(["report", word, "--outputs", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert path.read_text().startswith("<!doctype html>")


def test_json_and_the_last_run(tmp_path, capsys):
    run = make_run(tmp_path)
    assert main(["report", "--json", "--outputs", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(run.dir / "report.html")}


def test_mistakes(tmp_path, capsys):
    run = make_run(tmp_path)
    assert main(["report", run.id, run.id, "--outputs", str(tmp_path)]) == 2
    assert "one page at a time" in capsys.readouterr().err
    (tmp_path / "tables/broken").mkdir(parents=True)
    (tmp_path / "tables/broken/table.json").write_text("{")
    assert main(["report", "broken", "--outputs", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
