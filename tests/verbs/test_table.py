"""kdrun table: the list, what is refused, and one small table that is really trained."""

from __future__ import annotations

import json

import pytest
from tables.support import RESULTS, SPEC, fill, kdrun, write_spec

from kdrun import cli

TRAINED = """\
title: two rows, really trained
base: [teacher=mlp_64, student=mlp_8, trainer.epochs=2, data.limit.train=100, hardware=cpu, tracker=none]
seeds: 2
rows:
  - {id: alone, label: student alone, overrides: [strategy=alone]}
  - {id: kd, label: distilled}
columns:
  - {id: student, label: "student, %", bold: true}
  - {id: difference, label: difference, metric: difference}
  - {id: top5, label: top5, metric: top5, which: last}
  - {id: seconds, label: seconds, metric: seconds}
  - {id: teacher, label: teacher, arm: teacher}
factors: [strategy]
controls: [alone]
"""


def test_a_table_that_is_run_built_and_derived_again(tmp_path, monkeypatch, capsys):
    write_spec(tmp_path, TRAINED)
    monkeypatch.chdir(tmp_path)
    assert kdrun(tmp_path, "table", "mini") == 0
    text = capsys.readouterr().out
    assert "2 jobs: 2 new; 2 to run" in text and "student alone" in text and "written: " in text
    folder = tmp_path / "out" / "tables" / "mini"
    table = json.loads((folder / "table.json").read_text())
    assert len(table["jobs"]) == 2 and all(job["status"] == "done" for job in table["jobs"])
    assert table["vary"] == ["student", "teacher", "split"] and len(table["jobs"][1]["teachers"]) == 2
    assert "Each seed has its own teacher and split" in (folder / "table.md").read_text()
    assert table["jobs"][1]["data"]["content"]
    alone, kd = (next(c for c in table["cells"] if (c["row"], c["column"]) == (r, "student")) for r in ("alone", "kd"))
    difference = next(c for c in table["cells"] if (c["row"], c["column"]) == ("kd", "difference"))
    apart = kd["values"]["best"]["mean"] - alone["values"]["best"]["mean"]
    assert difference["values"]["best"]["mean"] == pytest.approx(apart)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kdrun(tmp_path, "table", "mini", "jobs=2") == 0
    assert "to run" not in capsys.readouterr().out  # nothing was left to do
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert kdrun(tmp_path, "table", "mini", "--check") == 0
    assert "10 of 10 cells" in capsys.readouterr().out
    assert kdrun(tmp_path, "why", "mini:kd:student") == 0
    page = capsys.readouterr().out
    assert "seed 1" in page and f"sha256 {table['jobs'][1]['data']['content']}" in page and "shared" in page


def test_the_list_counts_what_is_done(tmp_path, capsys, monkeypatch):
    from kdrun.config import groups

    found = groups.tables
    monkeypatch.setattr(groups, "tables", lambda dirs: {n: o for n, o in found(dirs).items() if n != "cifar100_kd"})
    fill(tmp_path)
    assert kdrun(tmp_path, "table") == 0
    text = capsys.readouterr().out
    assert "mini" in text and "3 of 3 jobs done" in text and "controls" in text and "0 of 4 jobs done" in text
    monkeypatch.setattr(groups, "tables", lambda dirs: {"mini": found(dirs)["mini"]})
    assert kdrun(tmp_path, "table", "--json") == 0
    (mini,) = [view for view in json.loads(capsys.readouterr().out) if view["name"] == "mini"]
    assert mini["done"] == mini["of"] == 3
    write_spec(tmp_path, SPEC.replace("title:", "titel:"))
    assert kdrun(tmp_path, "table") == 0
    assert "closest: title" in capsys.readouterr().out


def test_json_is_the_table(tmp_path, capsys):
    fill(tmp_path)
    assert kdrun(tmp_path, "table", "mini", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mini"


def test_a_difference_that_is_not_as_expected_ends_with_1_and_is_told(tmp_path, capsys):
    results = {**RESULTS, "t4": {**RESULTS["t4"], "student": [0.90, 0.92, 0.945]}}
    for expects, said in (("worse", ["t4 (difference): expected worse, is better"]), ("better", [])):
        folder = tmp_path / expects
        fill(folder, SPEC.replace('label: "T = 4", ', f'label: "T = 4", expects: {expects}, '), results)
        assert kdrun(folder, "table", "mini", "--json") == bool(said)
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert [line for line in warnings if "expected" in line] == said


def test_jobs_that_differ_in_what_is_no_factor_are_told_before_any_is_run(tmp_path, capsys):
    write_spec(tmp_path, SPEC.replace("factors: [strategy, objective.kd.temperature]", "factors: [strategy]"))
    assert kdrun(tmp_path, "table", "mini") == 1
    assert "objective.kd.temperature differs and is no declared factor" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_a_failed_check_writes_nothing(tmp_path, capsys):
    fill(tmp_path)
    write_spec(tmp_path, SPEC.replace("factors: [strategy, objective.kd.temperature]", "factors: [strategy]"))
    assert kdrun(tmp_path, "table", "mini") == 1
    said = capsys.readouterr().err
    assert "objective.kd.temperature differs and is no declared factor" in said and "4 in alone, t4; 2 in t2" in said
    assert "table mini is not built: 1 checks failed" in said and not (tmp_path / "out" / "tables").exists()
    assert kdrun(tmp_path, "table", "mini", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["failures"]) == 1


def test_a_changed_table_lies_in_a_folder_of_its_own(tmp_path, capsys):
    from tables.support import finish, request_of

    from kdrun.tables.spec import TableRequest, compose_jobs

    request = request_of(tmp_path)
    request = TableRequest(request.spec, ["trainer.epochs=3"], request.outputs, request.conf)
    jobs, composed = compose_jobs(request, request.conf)
    for job, found in zip(jobs, composed, strict=True):
        finish(tmp_path / "out", found, RESULTS[job.row])
    assert kdrun(tmp_path, "table", "mini", "trainer.epochs=3", "-q") == 0
    assert [path.name for path in (tmp_path / "out" / "tables").iterdir()] == [request.name] != ["mini"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table", "minni"], "closest: mini"),
        (["table", "mini", "transfer"], "one table at a time"),
        (["table", "--check"], "which table?"),
        (["table", "mini", "trainer.epoch=3"], "trainer.epochs"),
        (["table", "mini", "seed=0,1"], "seed=0,1"),
    ],
)
def test_mistakes(tmp_path, words, said, capsys):
    write_spec(tmp_path)
    assert kdrun(tmp_path, *words) == 2
    assert said in capsys.readouterr().err


def test_neither_torch_nor_lightning_for_a_table_that_is_done(tmp_path):
    import subprocess
    import sys

    fill(tmp_path)
    words = ["table", "mini", "--conf", str(tmp_path / "conf"), "--outputs", str(tmp_path / "out"), "-q"]
    code = f"import sys; from kdrun.cli import main; print(main({words!r}), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    code, *modules = done.stdout.split()
    assert code == "0" and not set(modules) & {"torch", "lightning", "wandb", "matplotlib", "pandas"}, done.stderr


def test_help():
    assert cli.main(["table", "--help"]) == 0 and cli.main(["why", "--help"]) == 0
