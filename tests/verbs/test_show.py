from __future__ import annotations

import json
import re

import pytest
from tracking.support import SUMMARY, begin, make_job

from kdrun.cli import main
from kdrun.present.results import difference_rows, difference_texts, result_rows, stage_rows

STAGE = {
    "label": "student/seed=0",
    "role": "student",
    "fingerprint": "deadbeef" * 8,
    "seed": 0,
    "source": "trained",
    "val": {"best": {"accuracy": 0.91}, "last": {"accuracy": 0.9}, "epoch_best": 2},
    "test": {"best": 0.93, "last": None},
    "cost": {"seconds": 61.0},
}


def shown(capsys, *arguments):
    """The page with its frame and line breaks taken out."""
    assert main(["show", *map(str, arguments)]) == 0
    return re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_finished_run_on_one_page(tmp_path, capsys, wide):
    run = begin(tmp_path, make_job("1a" * 32))
    run.finish(summary=SUMMARY, stages=[STAGE], audit={"summary": "3 duplicates between train and test"})
    run.close()
    page = shown(capsys, "--outputs", tmp_path)
    for text in (
        "status done",
        "kdrun data=digits",
        "teacher resnet20 97.00 % 96.00 % 1",
        "student alone 90.00 ± 1.00 % 89.00 ± 1.00 % 2",
        "distilled 93.00 ± 0.50 % 92.00 % 2",
        "gap closed 43 % n/a",
        "Distillation helped.",
        "stage fingerprint result val % test % time",
        "student/seed=0 deadbeef trained 91.00 / 90.00 93.00 / n/a 1 min 1 s",
        "3 duplicates between train and test",
        "config.yaml, metrics.jsonl, record.json",
        f"kdrun rerun {run.id}",
    ):
        assert text in page, text


def test_a_failed_run_shows_its_error_and_the_end_of_the_log(tmp_path, capsys, wide):
    with pytest.raises(ValueError), begin(tmp_path) as run:
        run.log_path.write_text("".join(f"line {number}\n" for number in range(100)))
        raise ValueError("a [red]message[/red] with brackets")
    page = shown(capsys, run.id, "--outputs", tmp_path)
    assert "status failed" in page
    assert "ValueError: a [red]message[/red] with brackets (test_show.py" in page
    assert "Traceback" in page and "line 99" in page and "line 50" not in page


def test_json_is_the_record_with_its_real_status(tmp_path, capsys):
    run = begin(tmp_path)
    run.update(audit={"nan": float("nan")})
    assert main(["show", "last", "--json", "--outputs", str(tmp_path)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "running" and record["audit"] == {"nan": "nan"} and record["tracker"] is None
    assert record["path"] == str(run.dir) and record["config"]["student"] == {"name": "resnet8"}
    run.close()
    main(["show", "last", "--json", "--outputs", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["status"] == "interrupted"


def test_an_empty_record_has_a_page(tmp_path, capsys, wide):
    from kdrun.tracking.registry import plan_run

    plan_run(tmp_path, "digits", "ab" * 32).close()
    page = shown(capsys, "--outputs", tmp_path)
    assert "status planned" in page and "n/a" in page and "0.00" not in page


def test_mistakes(tmp_path, capsys):
    run = begin(tmp_path)
    run.close()
    assert main(["show", "digits-xb", "--outputs", str(tmp_path)]) == 2
    assert "closest: digits-abababab" in capsys.readouterr().err
    assert main(["show", "a", "b", "--outputs", str(tmp_path)]) == 2
    (run.dir / "record.json").write_text("{")
    assert main(["show", run.id, "--outputs", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def partial_summary():
    difference = {
        "mean": 0.02,
        "n": 4,
        "sd": 0.01,
        "values": [],
        "interval": [0.012, 0.03],
        "interval_t": [0.004, 0.036],
    }
    missing = {"3": {"status": "diverged", "type": "FloatingPointError", "message": "the loss is nan\nand more"}}
    arm = {"label": "distilled", "n": 4, "of": 5, "best": {"mean": 0.93, "sd": 0.01}, "last": None, "missing": missing}
    control = {"label": "student, plain KD", "n": 5, "of": 5, "best": {"mean": 0.91, "sd": 0.01}, "last": None}
    return {
        "metric": "accuracy",
        "arms": {"student": arm, "plain_kd": control},
        "differences": {"plain_kd": {"best": difference, "last": None}},
    }


def test_missing_seeds_and_the_differences_to_every_control(tmp_path, capsys, wide):
    run = begin(tmp_path)
    run.finish("diverged", summary=partial_summary())
    run.close()
    page = shown(capsys, "--outputs", tmp_path)
    for text in (
        "status diverged",
        "distilled 93.00 ± 1.00 % n/a 4 of 5",
        "student, plain KD 91.00 ± 1.00 % n/a 5",
        "seed 3 distilled: diverged FloatingPointError: the loss is nan",
        "minus student, plain KD, best +2.00 ± 1.00 +0.41 to +3.59 0.028 n/a 4",
    ):
        assert text in page, text


def test_older_records_are_shown_by_students_t():
    difference = {"mean": 0.02, "n": 2, "sd": 0.01, "interval": [-0.01, 0.05]}
    rows = difference_rows({"metric": "accuracy", "difference": {"best": difference}})
    assert rows == [("minus alone, best", "+2.00 ± 1.00", "-6.98 to +10.98", "0.216", "n/a", "2")]
    assert difference_texts({"mean": None, "n": 0}, "loss") == ("n/a", "n/a", "n/a", "n/a", "0")


def test_missing_numbers_are_not_zero():
    assert result_rows({}) == []
    summary = {"metric": "accuracy", "teacher": {"best": None}, "arms": {"alone": {}}, "gap_closed": None}
    assert result_rows(summary) == [
        ("teacher", "n/a", "n/a", "1"),
        ("alone", "n/a", "n/a", "n/a"),
        ("gap closed", "n/a", "n/a", ""),
    ]
    assert stage_rows([{"label": "x"}], "accuracy") == [("x", "n/a", "n/a", "n/a / n/a", "n/a / n/a", "n/a")]


def test_the_page_lists_figures_exports_and_cards(tmp_path, capsys, wide):
    run = begin(tmp_path, make_job("1a" * 32))
    run.finish(summary=SUMMARY, stages=[STAGE])
    run.close()
    for name in ("plots/curves.png", "exports/student-seed-0/onnx-fp32/model.onnx", "card/cards.json"):
        (run.dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run.dir / name).write_text("{}")
    page = shown(capsys, "--outputs", tmp_path)
    assert "figures plots/curves.png" in page and "cards card/cards.json" in page
    assert "exports exports/student-seed-0/onnx-fp32" in page and "model.onnx" not in page
