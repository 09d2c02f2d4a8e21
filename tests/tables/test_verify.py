"""--check: a stored table against its records, its own files, and the table file of today."""

from __future__ import annotations

import json
import shutil

import pytest
from tables.support import PUBLISHED, RESULTS, SPEC, copied, fill, finish, kdrun, request_of, write_spec

from kdrun.tables.spec import compose_jobs

TEXT = SPEC + PUBLISHED


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    fill(folder, TEXT)
    assert kdrun(folder, "table", "mini", "-q") == 0
    return folder


@pytest.fixture
def stored(made, tmp_path, monkeypatch):
    """A folder with a table, its records, and a committed copy in docs/results; the current folder."""
    copied(made, tmp_path)
    shutil.copytree(tmp_path / "out" / "tables" / "mini", tmp_path / "docs" / "results" / "mini")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checked(made, capsys):
    """What `kdrun table mini --check` prints, once its exit code is the expected one."""

    def run(folder, code, *words):
        capsys.readouterr()
        assert kdrun(folder, "table", "mini", "--check", *words, made=made / "conf") == code
        return capsys.readouterr().out

    return run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_table_that_agrees(stored, checked):
    text = checked(stored, 0)
    assert text == "docs/results/mini/table.json agrees: 24 of 24 cells as the records give them\n"


def test_a_figure_that_came_later_is_its_usual_value_in_earlier_tables(stored, checked):
    path = stored / "docs" / "results" / "mini" / "table.json"
    table = json.loads(path.read_text())
    cells = [value for cell in table["cells"] for value in cell["values"].values() if value.get("better") == "max"]
    assert cells
    for value in cells:
        del value["better"]
    path.write_text(json.dumps(table))
    assert "24 of 24 cells" in checked(stored, 0)
    cells[0]["better"] = "min"
    path.write_text(json.dumps(table))
    assert "better is min here, the record gives max" in checked(stored, 1)


def test_without_a_committed_one_the_own_is_looked_at(made, stored, checked, capsys):
    shutil.rmtree(stored / "docs")
    assert "out/tables/mini/table.json agrees" in checked(stored, 0)
    shutil.rmtree(stored / "out" / "tables")
    assert kdrun(stored, "table", "mini", "--check", made=made / "conf") == 2
    assert "no results here" in capsys.readouterr().err


def test_a_changed_digit_is_found(stored, checked):
    path = stored / "docs" / "results" / "mini" / "table.json"
    table = json.loads(path.read_text())
    cell = next(c for c in table["cells"] if (c["row"], c["column"]) == ("t4", "student"))
    cell["values"]["best"]["mean"] += 1e-12
    path.write_text(json.dumps(table))
    text = checked(stored, 1)
    assert "t4:student accuracy best mean is 0.87" in text and "23 of 24 cells" in text


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("table.md", "87.00 ± 2.65", "87.10 ± 2.65"),
        ("table.tex", "87.00", "88.00"),
        ("table.csv", "t4,student", "t4,stud"),
    ],
)
def test_a_digit_changed_by_hand_in_a_rendered_file_is_found(stored, checked, file, old, new):
    edit(stored / "docs" / "results" / "mini" / file, old, new)
    text = checked(stored, 1)
    assert f"docs/results/mini/{file}, line " in text and old in text


def test_a_changed_record_is_found(stored, checked):
    (path,) = (stored / "out" / "runs").glob("mini-t4-*/record.json")
    record = json.loads(path.read_text())
    record["summary"]["gap_closed"]["last"] = 0.5
    path.write_text(json.dumps(record))
    assert "t4:gap gap_closed last mean is 0.38" in checked(stored, 1)


def test_a_record_that_is_gone(stored, checked):
    (folder,) = (stored / "out" / "runs").glob("mini-t4-*")
    shutil.rmtree(folder)
    text = checked(stored, 1)
    assert "record not here: t4:student, t4:alone" in text and "16 of 24 cells" in text
    shutil.rmtree(stored / "out" / "runs")
    assert "no record of this table is here" in checked(stored, 1)


def test_a_changed_table_file_names_the_rows(stored, checked):
    write_spec(stored, TEXT.replace("temperature=4", "temperature=5"))
    text = checked(stored, 1)
    assert text.count("changed since: t4:") == 8 and "today's configs give" in text and "t2:" not in text
    write_spec(stored, TEXT.replace("id: t2", "id: t3"))
    text = checked(stored, 1)
    assert "t2:student is in the results, not in the table file any more" in text
    assert "t3:student is in the table file, not in the results" in text


def test_a_run_made_again_is_compared_except_for_its_times(made, stored, checked):
    (folder,) = (stored / "out" / "runs").glob("mini-t4-*")
    shutil.rmtree(folder)
    request = request_of(made, TEXT)
    finish(stored / "out", compose_jobs(request, request.conf)[1][2], RESULTS["t4"])
    path = next((stored / "out" / "runs").glob("mini-t4-*/record.json"))
    record = json.loads(path.read_text())
    record["stages"][1]["cost"]["seconds"] = 99.0
    record["created"] = "2030-01-01T00:00:00.000Z"
    path.write_text(json.dumps(record))
    text = checked(stored, 0)
    assert "not compared, measured anew by another run: t4:seconds" in text and "23 of 24" in text


def test_json(stored, checked):
    found = json.loads(checked(stored, 0, "--json"))
    assert found["good"] and found["agreeing"] == 24 and found["differing"] == []
