"""kdrun why: from a cell to its runs, seeds, config, data, teacher and cost."""

from __future__ import annotations

import json
import shutil

import pytest
from tables.support import PUBLISHED, RESULTS, SPEC, copied, fill, kdrun


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    fill(folder, SPEC + PUBLISHED)
    assert kdrun(folder, "table", "mini", "-q") == 0
    return folder


def page(folder, capsys, *words):
    capsys.readouterr()
    assert kdrun(folder, "why", *words) == 0
    return " ".join(capsys.readouterr().out.split())


def test_everything_about_a_cell(made, capsys):
    text = page(made, capsys, "mini:t4:student")
    (run,) = (path.name for path in (made / "out" / "runs").glob("mini-t4-*"))
    record = json.loads((made / "out" / "runs" / run / "record.json").read_text())
    for part in (
        "cell mini:t4:student",
        "value *87.00 ± 2.65 (86.00 ± 2.65)* accuracy of student, n = 3 of 3 seeds",
        "published 90.50 (-4.50)",
        "seed 0 accuracy best 0.86, last 0.85, selected epoch 1",
        "seed 2 accuracy best 0.9, last 0.89",
        f"run {run}, done",
        "commit c0ffeec0ff",
        f"config hash {record['job_hash']}",
        "objective.kd.temperature=4",
        "data digits, sha256 n/a",
        f"teacher mlp_64 {record['stages'][0]['fingerprint']}, test accuracy 95.00 (94.00)",
        "hardware cpu a cpu, cores 2",
        "teacher/seed=0 mlp_64: 1.5 s, shared with other jobs of the table",
        "student/seed=1 mlp_8: 2.5 s",
        "cost 16.5 s, of which shared 9.0 s",
        f"again kdrun rerun {run}",
        "'controls=[alone]'",
    ):
        assert part in text, part


def test_ids_without_case_and_as_words(made, capsys):
    assert page(made, capsys, "mini", "T4", "Student") == page(made, capsys, "mini:t4:student")


def test_a_difference_names_both_sides(made, capsys):
    text = page(made, capsys, "mini:t4:difference")
    assert "student minus alone" in text
    assert "seed 1 accuracy best 0.85, last 0.84, selected epoch 1; control best 0.82, last 0.81" in text


def test_a_teacher_and_a_loss(made, capsys):
    assert "seed 0 accuracy best 0.95, last 0.94" in page(made, capsys, "mini:t4:teacher")
    assert "seed 0 loss best 0.14, last 0.15" in page(made, capsys, "mini:t4:loss")


def test_json(made, capsys):
    capsys.readouterr()
    assert kdrun(made, "why", "mini:t4:student", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 3 and len(found["seeds"]) == 3 and found["here"] and found["shared_seconds"] == 9.0


def test_a_missing_seed_with_its_reason(tmp_path, capsys):
    fill(tmp_path, results={**RESULTS, "t4": {"student": [0.86, None, 0.90], "alone": [0.80, None, 0.84]}})
    assert kdrun(tmp_path, "table", "mini", "-q") == 3
    text = page(tmp_path, capsys, "mini:t4:student")
    assert "seed 1 no result, diverged: FloatingPointError: the loss is nan" in text and ", diverged commit" in text


def test_a_record_that_is_gone(made, tmp_path, capsys):
    shutil.rmtree(copied(made, tmp_path) / "out" / "runs")
    text = page(tmp_path, capsys, "mini:t4:student")
    assert "done (its record is not here)" in text and "hash " in text and "seed 0" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which cell?"),
        (["mini"], "rows: alone, t2, t4"),
        (["mini:t4"], "columns: student, alone"),
        (["mini:t4:studnet"], "closest: student"),
        (["mini:alnoe:student"], "closest: alone"),
        (["maxi:t4:student"], "no results here"),
        (["mini:t4:student", "seed=1"], "does not take seed=1"),
    ],
)
def test_mistakes(made, words, said, capsys):
    capsys.readouterr()
    assert kdrun(made, "why", *words) == 2
    assert said in capsys.readouterr().err


def test_the_example_of_the_help_works_in_any_folder(tmp_path, capsys, monkeypatch):
    from kdrun.cli import main
    from kdrun.verbs.usage import USAGE

    monkeypatch.chdir(tmp_path)
    example = next(line.split() for line in USAGE["why"].splitlines() if "transfer:" in line)
    assert main(example[1:3]) == 0
    assert "transfer:all:alone1" in capsys.readouterr().out
