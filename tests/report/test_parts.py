"""Tables of views, and what pages, figures and lists say of a run whose arms are several networks."""

import base64

import pytest
from plots.records import make_run
from plots.views_records import make_views_run

from kdrun.cli import main
from kdrun.parts import groups_of
from kdrun.plots.data import run_groups, run_points, runs_groups
from kdrun.plots.subject import find_subject
from kdrun.present.results import difference_rows, result_rows, stage_rows
from kdrun.report.page import render
from kdrun.report.parts import p_text, part_tables


@pytest.fixture
def run(tmp_path):
    return make_views_run(tmp_path)


def test_tables(run):
    decisions, test, differences, scores, elsewhere = part_tables(run.record)
    assert decisions.rows == [
        ("best view", "0", "bone", "bone 0.8000, zero 0.7500, lung 0.7000"),
        ("best view", "1", "bone", "bone 0.8100, zero 0.7600, lung 0.7100"),
    ]
    assert test.head == ("", "views alone (before)", "views, trained on", "student small, distilled")
    assert test.rows[0] == ("lung", "0.7050 ± 0.0071", "0.7150 ± 0.0071", "0.7450 ± 0.0071")
    assert test.rows[1] == ("bone (best view)", *3 * ["0.8050 ± 0.0071"])
    assert [row[0] for row in test.rows[2:]] == ["zero", "mean of 2 of 3", "all together"]
    assert test.rows[3][1] == "0.7300 ± 0.0071", "the best view is in no mean"
    assert differences.rows == [
        ("lung", "+3.00", "+1.00 to +5.00", "0.002", "< 0.001, 0.031"),
        ("mean of 2 of 3", "+3.00", "+1.00 to +5.00", "< 0.001", ""),
        ("all together", "-0.20", "-1.00 to +0.60", "0.400", "0.250, n/a"),
    ], "in the order of trainings, without the view that teaches"
    assert scores.head == ("", "sensitivity, %", "specificity, %", "ECE, %")
    assert scores.rows[0] == ("views alone (before)", "60.00 ± 0.00", "50.00 ± 0.00", "10.00 ± 0.00")
    assert scores.rows[-1] == ("student small, distilled, all together", "65.00 ± 0.00", "55.00 ± 0.00", "")
    assert elsewhere.caption.startswith("elsewhere AUC") and len(elsewhere.rows) == 4, "no combination there"


def test_records_of_the_time_before_summaries_said_it_are_shown_alike(run):
    now = part_tables(run.record), result_rows(run.record["summary"]), difference_rows(run.record["summary"])
    del run.record["summary"]["compared_with"]
    for arm in run.record["summary"]["arms"].values():
        del arm["several"], arm["gains"]
    assert now == (part_tables(run.record), result_rows(run.record["summary"]), difference_rows(run.record["summary"]))


def test_other_runs_have_no_such_tables(tmp_path):
    assert part_tables(make_run(tmp_path).record) == [] and part_tables({}) == []
    assert [p_text(p) for p in (None, float("nan"), 0.0004, 0.5)] == ["n/a", "n/a", "< 0.001", "0.500"]


def test_a_view_that_was_taught_stays_even_where_nothing_changed(run):
    over = run.record["summary"]["differences"]["equal_compute"]["resampled"]
    over["auc/lung"] |= {"mean": 0.0, "interval": [0.0, 0.0]}
    assert [row[0] for row in part_tables(run.record)[2].rows] == ["lung", "mean of 2 of 3", "all together"]


def test_a_seed_without_a_figure_is_in_no_mean(run):
    stage = next(stage for stage in run.record["stages"] if stage["label"] == "student_lung/seed=1")
    stage["test"]["best"] = {"auc": float("nan")}
    assert part_tables(run.record)[1].rows[0] == ("lung", "0.7050 ± 0.0071", "0.7150 ± 0.0071", "n/a")


def test_there_is_no_last_epoch_and_no_gap(run):
    summary = run.record["summary"]
    assert {row[2] for row in result_rows(summary)[1:]} == {"-"}
    assert not any("gap" in row[0] for row in result_rows(summary))
    names = [row[0] for row in difference_rows(summary)]
    assert names == [
        "minus views alone (before), best",
        "minus views, trained on, best",
        "minus views, trained on, best: AUC over 90 samples",
    ]
    together = stage_rows(run.record["stages"], "auc")[5]
    assert together == ("student/seed=0", together[1], "3 networks", "0.7650", "0.7650", "-")


def test_the_page_of_a_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr("kdrun.report.figures.have_matplotlib", lambda: False)
    page = render(find_subject(tmp_path, [run.id]))
    assert page.index("<h2>Student against controls") < page.index("<h2>Parts and decisions") < page.index("<h2>Curves")
    assert "gap closed" not in page and "3 networks together" in page and "<img" not in page
    costs = page[page.index("What each kind of stage cost") : page.index("<h2>Config")]
    assert "before lung" in costs and ">0.0 s" not in costs, "what was not trained has no cost"
    (run.dir / "plots").mkdir()
    (run.dir / "plots" / "windows.png").write_bytes(b"picture")
    page = render(find_subject(tmp_path, [run.id]))
    assert f'src="data:image/png;base64,{base64.b64encode(b"picture").decode()}"' in page and "img-src data:" in page


def test_curves_are_means_over_the_views_that_count(run):
    groups = {group.kind: group for group in run_groups(run)["val/auc"]}
    assert set(groups) == {"student", "alone", "equal_compute"}
    student = groups["student"]
    assert student.label.endswith("mean of parts") and [trace.seed for trace in student.traces] == [0, 1]
    assert student.traces[0].values == pytest.approx([0.755, 0.765]) and student.traces[0].selected is None
    (own,) = runs_groups([("a", run)])["val/auc"]
    assert own.traces == student.traces


def test_points_cost_what_was_trained_for_them(run):
    points = {point.kind: point for point in run_points(run)}
    seconds = {kind: point.costs["seconds"] for kind, point in points.items()}
    assert seconds == {"alone": 30.0, "student": 38.0, "equal_compute": 38.0}
    assert points["student"].mean == pytest.approx(0.77)
    run.record["stages"] = [stage for stage in run.record["stages"] if stage["role"] != "student_lung"]
    assert "student" not in groups_of(run.record), "a member that the record lacks"


def test_every_list_takes_such_runs(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    other = make_run(tmp_path)
    for words in (["runs"], ["status"], ["show", run.id], ["compare", run.id, other.id], ["gc", "--json"]):
        assert main([*words, "--outputs", str(tmp_path)]) == 0, words
        assert "Traceback" not in (capsys.readouterr().err)
