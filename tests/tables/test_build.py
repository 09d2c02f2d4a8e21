"""What is in a table: figures, footnotes, marks, published figures; and its four files, byte by byte the same."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from tables.support import PUBLISHED, RESULTS, SPEC, copied, fill, kdrun

from kdrun.present.escape import latex as escape
from kdrun.tables.render import explanation, grid, latex, long_csv, markdown


def table_of(folder, text=SPEC, results=RESULTS, **fields):
    fill(folder, text, results, **fields)
    assert kdrun(folder, "table", "mini", "-q") == 0
    return stored(folder)


def stored(folder):
    return json.loads((folder / "out" / "tables" / "mini" / "table.json").read_text())


def cell_of(table, row, column):
    return next(cell for cell in table["cells"] if (cell["row"], cell["column"]) == (row, column))


def printed(table):
    headings, rows = grid(table)
    return headings, {row[0].text: [cell.text for cell in row[1:]] for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    table_of(folder, SPEC + PUBLISHED)
    return folder


@pytest.fixture(scope="module")
def table(made):
    return stored(made)


@pytest.fixture
def altered(made, tmp_path):
    """The table after `change(record)` has altered the record of one row: (exit code, table)."""

    def build(row, change):
        copied(made, tmp_path)
        (path,) = (tmp_path / "out" / "runs").glob(f"mini-{row}-*/record.json")
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
        code = kdrun(tmp_path, "table", "mini", "-q", made=made / "conf")
        return code, stored(tmp_path)

    return build


def test_figures_are_those_of_the_records(table):
    student = cell_of(table, "t4", "student")
    assert student["values"]["best"]["mean"] == pytest.approx(0.87) and student["values"]["last"][
        "mean"
    ] == pytest.approx(0.86)
    assert student["values"]["best"]["sd"] == pytest.approx(0.0264575) and (student["n"], student["of"]) == (3, 3)
    difference = cell_of(table, "t4", "difference")["values"]["best"]
    assert difference["mean"] == pytest.approx(0.05) and difference["interval"] == pytest.approx(
        [0.0069735, 0.0930265], abs=1e-5
    )
    assert cell_of(table, "t4", "gap")["values"]["last"]["mean"] == pytest.approx(0.05 / 0.13)
    assert cell_of(table, "t4", "seconds")["values"]["measured"]["mean"] == pytest.approx(2.5)
    assert cell_of(table, "t4", "teacher")["values"]["best"] == {"mean": 0.95, "sd": None}
    assert cell_of(table, "alone", "student")["arm"] == "alone"
    assert not cell_of(table, "alone", "difference")["applies"] and not cell_of(table, "alone", "teacher")["applies"]


def test_what_is_printed(table):
    headings, rows = printed(table)
    assert headings[:5] == ["", "student, %", "published (difference)", "alone, %", "published (difference)"]
    assert rows["T = 4"] == [
        "87.00 ± 2.65 (86.00 ± 2.65)", "90.50 (-4.50)", "82.00 ± 2.00", "88.00 (-7.00)", "+5.00 [+0.70, +9.30], undecided (p 0.070)",
        "38 %", "0.1400 ± 0.0265", "95.00", "2.5 ± 1.0", "610", "3",
    ]  # fmt: skip
    assert rows["student alone"][0] == "82.00 ± 2.00 (81.00 ± 2.00)" and rows["student alone"][1] == ""
    assert rows["student alone"][4:6] == ["-", "-"]


def test_bold_is_the_best_of_validation_not_of_test(altered):
    def change(record):  # below t4 on test in every seed, above it on validation
        for stage in record["stages"]:
            if stage["role"] == "student":
                stage["val"]["best"].update(accuracy=0.99, top5=0.99)

    code, table = altered("t2", change)
    assert code == 0 and [cell["row"] for cell in table["cells"] if cell["bold"]] == ["t2"]
    assert "the best mean on validation, not on test" in " ".join(explanation(table))


def test_published_figures_stand_beside_the_epoch_they_report(tmp_path, table):
    value = cell_of(table, "t4", "student")["values"]
    assert value["last"]["published"] == 0.905 and value["last"]["over_published"] == pytest.approx(-0.045)
    assert "published" not in value["best"]
    assert any("Somebody & others: A_paper, arXiv 0000.00000 (last epoch)" in line for line in explanation(table))
    unknown = table_of(tmp_path, SPEC + PUBLISHED.replace("epoch: last", "epoch: unknown"))
    _, rows = printed(unknown)
    assert rows["T = 4"][1] == "90.50 (-3.50 / -4.50)"


def test_a_missing_seed_is_shown_with_its_reason(tmp_path):
    results = {**RESULTS, "t4": {"student": [0.86, None, 0.90], "alone": [0.80, None, 0.84]}}
    fill(tmp_path, results=results)
    assert kdrun(tmp_path, "table", "mini", "-q") == 3
    table = json.loads((tmp_path / "out" / "tables" / "mini" / "table.json").read_text())
    (note,) = table["notes"]
    assert note["text"] == "T = 4: seed 1 without a result: diverged (FloatingPointError: the loss is nan)"
    cell = cell_of(table, "t4", "student")
    assert (cell["n"], cell["of"], cell["marks"]) == (2, 3, [note["mark"]]) and cell["values"]["best"]["mean"] == 0.88
    assert not cell["bold"]
    _, rows = printed(table)
    assert rows["T = 4"][0] == "88.00 ± 2.83 (87.00 ± 2.83), n = 2/3" and rows["T = 4"][-1] == "2/3"
    for text in (markdown(table), latex(table)):
        assert "seed 1 without a result: diverged" in text
    assert "<sup>a</sup>" in markdown(table) and r"\textsuperscript{a}" in latex(table)


def test_a_job_that_failed_is_shown_not_left_out(altered):
    error = {"type": "ValueError", "message": "no | way", "where": "x.py:1"}
    code, table = altered("t4", lambda record: record.update(status="failed", summary={}, stages=[], error=error))
    _, rows = printed(table)
    assert code == 3 and rows["T = 4"][0] == "n/a (n/a), n = 0/3" and "0.00" not in " ".join(rows["T = 4"])
    assert table["notes"][0]["text"] == "T = 4: seed 0, 1, 2 without a result: failed (ValueError: no | way)"
    assert r"no \| way" in markdown(table)


def test_every_file_is_the_same_on_a_second_call(made, tmp_path):
    folder = copied(made, tmp_path) / "out" / "tables" / "mini"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"table.json", "table.md", "table.tex", "table.csv"}
    assert kdrun(tmp_path, "table", "mini", "tracker=none", "tags.x=true", "-q", made=made / "conf") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_no_folder_host_or_time_of_today_is_in_a_file(made):
    for path in (made / "out" / "tables" / "mini").iterdir():
        text = path.read_text()
        assert str(made) not in text and "/nowhere" not in text, path


def test_the_csv_is_long_and_exact(table):
    lines = list(csv.DictReader(io.StringIO(long_csv(table))))
    one = next(line for line in lines if (line["row"], line["column"], line["which"]) == ("t4", "student", "last"))
    assert float(one["mean"]) == cell_of(table, "t4", "student")["values"]["last"]["mean"]
    assert (one["n"], one["of"], one["published"]) == ("3", "3", "0.905") and float(one["difference"]) < 0
    assert re.fullmatch("[0-9a-f]{64}", one["job_hash"]) and one["run"].startswith("mini-t4-")
    assert not any(line["mean"] in ("nan", "None", "0") for line in lines)


def test_latex_is_escaped_and_whole(table):
    text = latex(table)
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert r"Temperature \& weight: 50 \% of a\_table." in text and r"Somebody \& others: A\_paper" in text
    assert "student, \\%" in text and r"$\pm$" in text and r"$-$4.50" in text
    plain = re.sub(r"\\[&%$#_{}]", "", "\n".join(body))
    assert plain.count("{") == plain.count("}") and "%" not in plain and "_" not in plain
    columns = re.search(r"\\begin{tabular}{(l r*|lr*)}", plain).group(1)
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 4
    assert all(re.sub(r"\\&", "", row).count("&") == len(columns) - 1 for row in rows)
    for mark in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}"):
        assert text.count(mark) == 1


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5 % {x} #1 $", r"a\_b \& 5 \% \{x\} \#1 \$"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("-1.5 [-2, 3]", "$-$1.5 [$-$2, 3]"),
        ("resnet-8, seeds 0-4", "resnet-8, seeds 0-4"),
        ("a < b | c ± d → e", r"a \textless{} b \textbar{} c $\pm$ d $\rightarrow$ e"),
    ],
)
def test_escaping(text, escaped):
    assert escape(text) == escaped


def test_markdown_is_a_page(table):
    text = markdown(table)
    lines = text.splitlines()
    assert lines[0] == "# Temperature &amp; weight: 50 % of a_table"
    grid_lines = [line for line in lines if line.startswith("| ")][:5]
    assert len({re.sub(r"\\\|", "", line).count("|") for line in grid_lines}) == 1
    for part in (
        "kdrun table mini",
        "sha256",
        "commit: c0ffee",
        "torch 2.13.0",
        "a cpu",
        "seeds: 0, 1, 2",
        "kdrun why mini",
    ):
        assert part in text, part


def test_not_a_number_stays_visible(altered, tmp_path):
    code, table = altered("t4", lambda record: record["stages"][1]["test"]["last"].update(loss="nan"))
    assert code == 0 and cell_of(table, "t4", "loss")["values"]["last"]["mean"] == "nan"
    assert "| nan |" in (tmp_path / "out" / "tables" / "mini" / "table.md").read_text()


def test_further_sets_views_and_an_auc(tmp_path):
    """A column may read another test set, at the selected epoch; an AUC is no percentage, its difference is in points."""
    columns = """\
columns:
  - {id: student, label: AUC, metric: auc, which: best}
  - {id: lung, label: lung, metric: auc/lung, which: best}
  - {id: other, label: other, metric: auc, split: other_patient}
  - {id: gain, label: gain, metric: auc_difference, arm: alone, which: best}
"""
    text = SPEC[: SPEC.index("columns:")] + columns + SPEC[SPEC.index("factors:") :]
    fill(tmp_path, text)
    for path in (tmp_path / "out" / "runs").glob("mini-t*/record.json"):
        record = json.loads(path.read_text())
        for entry in record["stages"]:
            for which in ("best", "last"):
                entry["test"][which] |= {"auc": 0.9123, "auc/lung": 0.75 if entry["seed"] else 0.85}
            entry["further"] = {"other_patient": {"auc": 0.6}}
        found = {"auc": {"mean": 0.0125, "interval": [0.001, 0.02], "p_value": 0.01, "samples": 9, "draws": 9}}
        record["summary"]["differences"]["alone"]["resampled"] = found
        path.write_text(json.dumps(record))
    assert kdrun(tmp_path, "table", "mini", "-q") == 0
    table = stored(tmp_path)
    _, rows = printed(table)
    assert rows["T = 2"] == [
        "0.9123 ± 0.0000",
        "0.7833 ± 0.0577",
        "0.6000 ± 0.0000",
        "+1.25 [+0.10, +2.00], over samples alone",
        "3",
    ]
    assert "split" not in table["columns"][0] and table["columns"][2]["split"] == "other_patient"
    assert cell_of(table, "t2", "other")["values"]["last"]["mean"] is None
    assert any("other_patient" in line for line in explanation(table))
