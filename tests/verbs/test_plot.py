"""kdrun plot as it is typed."""

import json

import pytest
from plots.records import make_run
from tracking.support import make_job

from kdrun.cli import main
from kdrun.tracking.registry import plan_run


@pytest.fixture
def drawn(monkeypatch):
    """Drawing itself is tested elsewhere: here every figure is three bytes."""
    pytest.importorskip("matplotlib")
    import kdrun.plots.paper as paper

    monkeypatch.setattr(paper, "compose", lambda panels: panels)
    monkeypatch.setattr(paper, "png", lambda figure: b"png")
    monkeypatch.setattr(paper, "svg", lambda figure: b"svg")


def test_it_prints_the_paths(tmp_path, capsys, drawn):
    run = make_run(tmp_path)
    assert main(["plot", "--outputs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(run.dir / "plots/curves.png"), str(run.dir / "plots/curves.svg")] and len(lines) == 6


def test_json_lists_files_and_what_could_not_be_drawn(tmp_path, capsys, drawn):
    run = make_run(tmp_path, summary={})
    assert main(["plot", run.id, "--json", "--outputs", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == 4 and found["left_out"] == {"seeds": "no student beside a control is recorded"}


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    make_run(tmp_path)
    monkeypatch.setattr("kdrun.plots.figures.have_matplotlib", lambda: False)
    assert main(["plot", "--outputs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "kdrun: kdrun plot needs matplotlib: pip install matplotlib\n"


def test_mistakes(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plan_run(tmp_path, "digits", make_job().hash).close()
    assert main(["plot", "--outputs", str(tmp_path)]) == 2
    assert "nothing to draw of digits-abababab yet" in capsys.readouterr().err
    assert main(["plot", "digitz-abababab", "--outputs", str(tmp_path)]) == 2
    assert "closest: digits-abababab" in capsys.readouterr().err
    for word, said in (
        ("trainer.lr=1", "trainer.lr=1: no option"),
        ("seed=1", "seed=1 belongs to kind=windows"),
        ("kind=window", "kind=window: no such figure; closest: windows"),
    ):
        assert main(["plot", word, "--outputs", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err


def test_one_kind(tmp_path, capsys, drawn):
    run = make_run(tmp_path)
    assert main(["plot", "kind=seeds", "--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run.dir / f"plots/seeds.{ending}") for ending in ("png", "svg")]
    assert main(["plot", "kind=hops", "--outputs", str(tmp_path)]) == 2
    assert "no stage measured its gap" in capsys.readouterr().err


def test_windows_are_of_one_run_of_one_strategy(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    one, other = make_run(tmp_path), make_run(tmp_path, "cd" * 32)
    for words, said in (
        ([one.id, other.id], "one run at a time; given: 2 runs"),
        ([one.id], "its result is one network"),
        ([one.id, "rows=x"], "rows=x: a whole number"),
        ([one.id, "rows=0"], "rows=0: at least one test sample"),
        ([one.id, "method=cam"], "there is: grad_cam, occlusion"),
    ):
        assert main(["plot", *words, "kind=windows", "--outputs", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
