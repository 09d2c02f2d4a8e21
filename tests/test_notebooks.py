"""The notebooks of examples/ run, cell by cell, in an empty folder; what they show is what they say."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def executed(path: Path) -> list[object]:
    """What the last expression of each code cell gives; None of a cell that ends with something else."""
    names: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)
            shown.append(eval(compile(last, path.name, "eval"), names) if last else None)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages, run, _, accuracy, curve, (predicted, digits), (page, _) = executed(path)
    assert {label.partition("/")[0] for label, _, _ in stages} == {"teacher", "alone", "student"}
    assert accuracy["student"] > accuracy["alone"] and "Distillation helped" in run.verdict
    assert "<table>" in run._repr_html_() and len(curve) == 3
    assert sum(a == b for a, b in zip(predicted, digits, strict=True)) >= 6
    assert (run.path / page).read_text().startswith("<!doctype html>")


def test_notebooks_are_there_and_hold_no_output_of_another_machine():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells)
