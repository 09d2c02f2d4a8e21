"""What a table file may say, how a mistake in it is named, and which jobs it stands for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tables.support import PUBLISHED, SPEC, request_of, write_spec

from kdrun import cli
from kdrun.config.groups import conf_dirs, groups, tables
from kdrun.problems import UserError
from kdrun.tables.checks import undeclared
from kdrun.tables.spec import TableRequest, compose_jobs
from kdrun.tables.table_file import find_table, read_spec


def problems(tmp_path, *changes):
    """What is said of the table with each (old, new) put into it."""
    text = SPEC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(UserError) as error:
        request_of(tmp_path, text)
    return "\n".join(error.value.lines)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("factors:", "factor:", ["factor: no such key", "closest: factors"]),
        ("arm: alone, which: best}", "arm: alone, whcih: best}", ["whcih", "closest: which"]),
        ("overrides: [strategy=alone]", "override: [strategy=alone]", ["closest: overrides"]),
        ("metric: difference, which", "metric: diffrence, which", ["closest: difference"]),
        ("which: last}\n  - {id: loss", "which: lst}\n  - {id: loss", ["best, last, both"]),
        ("id: t4", "id: T2", ["'T2' twice"]),
        ("id: t4", "id: 't:4'", ["letters"]),
        ("id: t4", "id: 4", ["expected text", "quote it"]),
        ("seeds: 3", "seeds: three", ["number of seeds"]),
        ("seeds: 3", "seeds: 0", ["number of seeds"]),
        ("vary: [student]", "vary: [student, techer]", ["closest: teacher"]),
        ("vary: [student]", "vary: [teacher]", ["student, and which others differ with it"]),
        ("vary: [student]", "vary: student", ["list of texts"]),
        ("objective.kd.temperature=2]", "'seeds.vary=[student]']", ["the seeds of a table are the same"]),
        ("objective.kd.temperature=2]", "objective.kd.temperature]", ["KEY=VALUE"]),
        ("objective.kd.temperature=2]", "seed=2]", ["the seeds of a table are the same"]),
        ("metric: loss, which: last", "metric: seconds, bold: true", ["validation can choose"]),
        ("metric: difference", "metric: difference, arm: teacher", ["control that is subtracted"]),
        ("metric: seconds", "metric: seconds, split: other", ["not a score of a test set"]),
        ("note: Nothing here was trained.", "title: again", ["title: given twice"]),
        ("title:", "titel:", ["titel", "title: a text is required"]),
        ("rows:", "rows: [", []),
        ("factors: [strategy, objective.kd.temperature]", "factors: strategy", ["list of texts"]),
        ("controls: [alone]\n", "controls: [alone]\nrequires: {shape: [1, 8, 8]}\n", ["belong together"]),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, old, new, named):
    line = SPEC[: SPEC.index(old)].count("\n") + 1 + (old == "rows:" or "requires" in new)
    said = problems(tmp_path, (old, new))
    assert all(text in said for text in [*named, f"mini.yaml, line {line}: "]), said


def test_all_mistakes_are_told_together(tmp_path):
    said = problems(tmp_path, ("seeds: 3", "seeds: x"), ("factors:", "factor:"), ("arm: teacher", "arm: [x]"))
    assert "3 problems" in said


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("student: 90.5", "studnet: 90.5", ["no column 'studnet'", "closest: student"]),
        ("    t4:", "    t5:", ["no row 't5'", "rows: alone, t2, t4"]),
        ("90.5", "0.905", ["percent, as printed"]),
        ("90.5", "905", ["percent, as printed"]),
        ("epoch: last", "epoch: final", ["best, last, unknown"]),
        ("  epoch: last\n", "", ["source and epoch"]),
    ],
)
def test_published_figures_are_checked(tmp_path, old, new, named):
    with pytest.raises(UserError) as error:
        request_of(tmp_path, SPEC + PUBLISHED.replace(old, new))
    said = "\n".join(error.value.lines)
    assert all(text in said for text in named), said


def test_published_figures_may_stand_in_the_rows(tmp_path):
    text = SPEC.replace('"T = 4",', '"T = 4", published: {student: 90.5},')
    spec = request_of(tmp_path, text + PUBLISHED.partition("  figures")[0]).spec
    assert spec.published == {"t4": {"student": 0.905}} and spec.source["epoch"] == "last"


def test_columns_that_choose_nothing_share_the_job_of_their_row(tmp_path):
    request = request_of(tmp_path)
    jobs, composed = compose_jobs(request, request.conf)
    assert [job.row for job in jobs] == ["alone", "t2", "t4"] and all(len(job.columns) == 8 for job in jobs)
    assert all(found.config["seeds"] == [0, 1, 2] for found in composed)
    assert [found.config["name"] for found in composed] == ["mini-alone", "mini-t2", "mini-t4"]
    assert composed[1].config["strategy"]["controls"] == ["alone"]


def test_columns_with_overrides_make_a_grid(tmp_path):
    text = SPEC.replace("arm: teacher,", "arm: teacher, overrides: [student=mlp_16],")
    request = request_of(tmp_path, text.replace("strategy, objective", "strategy, student, objective"))
    jobs, composed = compose_jobs(request, request.conf)
    assert len(jobs) == 6 and jobs[1].columns == ["teacher"]
    assert [composed[n].config["student"]["name"] for n in (0, 1)] == ["mlp_8", "mlp_16"]
    assert composed[1].config["name"] == "mini-alone-teacher"


def test_typed_words_go_over_the_base_and_name_another_folder(tmp_path):
    spec = request_of(tmp_path).spec
    plain, changed = (
        TableRequest(spec, ["tracker=none", "data.root=/x"]),
        TableRequest(spec, ["trainer.epochs=5", "tags.x=true"]),
    )
    assert plain.name == "mini" and plain.command == "kdrun table mini"
    assert changed.name.startswith("mini-") and changed.command == "kdrun table mini trainer.epochs=5"
    jobs, composed = compose_jobs(changed, [str(tmp_path / "conf")])
    assert all(found.config["trainer"]["epochs"] == 5 and found.config["tags"] == {"x": True} for found in composed)
    assert "tags.x=true" not in jobs[0].words
    _, composed = compose_jobs(TableRequest(spec, ["seeds=2"]), [str(tmp_path / "conf")])
    assert composed[0].config["seeds"] == [0, 1]


def test_factors_and_arms_must_exist_in_the_jobs(tmp_path):
    request = request_of(
        tmp_path, SPEC.replace("kd.temperature]\n", "kd.temprature]\n").replace("controls: [alone]", "")
    )
    with pytest.raises(UserError) as error:
        compose_jobs(request, request.conf)
    assert "no key 'objective.kd.temprature'" in str(error.value)
    request = request_of(tmp_path, SPEC.replace("arm: alone, which", "arm: plain_kd, which"))
    with pytest.raises(UserError) as error:
        compose_jobs(request, request.conf)
    assert "column alone needs the arm 'plain_kd'" in str(error.value) and "controls: [plain_kd]" in str(error.value)


def test_a_wrong_override_is_named_with_its_row(tmp_path):
    request = request_of(tmp_path, SPEC.replace("objective.kd.temperature=4", "objective.kd.temprature=4"))
    with pytest.raises(UserError, match=r"mini\.yaml, row t4: .*temprature"):
        compose_jobs(request, request.conf)


def test_a_table_is_no_group_of_a_job(tmp_path):
    dirs = conf_dirs([str(write_spec(tmp_path))])[0]
    assert "table" not in groups(dirs) and {"mini", "transfer", "transfer_fashion"} <= set(tables(dirs))


def test_an_unknown_table_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="closest: transfer"):
        find_table("transferr")


@pytest.mark.parametrize("name", sorted(tables(conf_dirs()[0])))
def test_every_shipped_table_reads_and_composes(name):
    request = TableRequest(read_spec(find_table(name)), [])
    jobs, composed = compose_jobs(request)
    assert request.spec.title and (request.spec.factors or len(request.spec.rows) == 1) and jobs
    cells = [(job.row, found.cells) for job, found in zip(jobs, composed, strict=True)]
    assert not list(undeclared(cells, request.spec.factors))


def test_check_names_a_broken_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kdrun.verbs.check.groups", lambda dirs: {})
    monkeypatch.setattr("kdrun.verbs.check.tables", lambda dirs: {"mini": tables(dirs)["mini"]})
    conf = write_spec(tmp_path, SPEC.replace("arm: teacher", "arn: teacher"))
    assert cli.main(["check", "--conf", str(conf)]) == 2
    assert "mini.yaml, line 18" in capsys.readouterr().err
    write_spec(tmp_path)
    assert cli.main(["check", "--conf", str(conf)]) == 0
    assert "tables: 1" in capsys.readouterr().out


def test_ls_shows_tables(tmp_path, capsys):
    assert cli.main(["ls", "table", "--conf", str(write_spec(tmp_path))]) == 0
    assert "a table of three rows, for tests" in capsys.readouterr().out


def test_the_example_of_the_documentation_reads_and_composes(tmp_path):
    text = (Path(__file__).parent.parent.parent / "docs" / "tables.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(examples) == 3
    request = request_of(tmp_path, examples[0] + examples[2])
    jobs, composed = compose_jobs(request, request.conf)
    assert len(jobs) == 2 and composed[1].config["objective"]["kd"]["temperature"] == 4
    figures = SPEC.replace("id: t4", "id: r56_r20").replace("id: student", "id: kd")
    assert request_of(tmp_path, figures + examples[1]).spec.published == {"r56_r20": {"alone": 0.6906, "kd": 0.7066}}


def test_any_folder_name_will_do(tmp_path):
    spec = request_of(tmp_path).spec
    for name in ("my folder (1)", "it's = here", "a,b"):
        _, composed = compose_jobs(TableRequest(spec, [], str(tmp_path / name)), [str(tmp_path / "conf")])
        assert composed[0].config["paths"]["outputs"] == str(tmp_path / name)


def test_a_column_without_a_metric_shows_what_its_data_are_judged_by():
    request = TableRequest(read_spec(find_table("gui")), [])
    assert request.spec.columns[0].metric == "accuracy"  # until the data of its jobs are known
    compose_jobs(request)
    metrics = {column.id: column.metric for column in request.spec.columns}
    assert metrics["teacher"] == metrics["student"] == metrics["held_out"] == "success"
    assert metrics["difference"] == "difference" and metrics["seconds"] == "seconds"
