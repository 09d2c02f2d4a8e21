"""What is told while a job runs: on the console, in the run's log, and without a say in how the run ends."""

from __future__ import annotations

import io
import json
import logging

import pytest

from kdrun.cli import main
from kdrun.job.progress import EventReport, RunReport, Signals, how
from kdrun.present.console import Console

WORDS = ["teacher=mlp_64", "student=mlp_8", "trainer.epochs=1", "seed=0", "tracker=none", "card=false"]


def reports(**more):
    out = io.StringIO()
    return out, RunReport(Console(file=out, width=80), lambda rows: None, Signals(), **more)


@pytest.mark.parametrize("value", [None, "n/a", float("nan"), float("inf"), 1e25, True])
def test_a_value_that_is_no_number_is_told_and_stops_nothing(value, caplog):
    out, report = reports()
    report.epoch("[/] student/seed=0", 0, 2, {"accuracy": value, "loss": value})
    report.finished("[/]", "trained", {"learner": "[w4]", "monitor": "accuracy", "cost": {"seconds": value, "steps": 3},
                                       "test": {"best": {"accuracy": value}, "last": {}}})  # fmt: skip
    report.note("[/red] a note")
    text = out.getvalue()
    assert "[/] student/seed=0 epoch 1/2, validation: accuracy " in text and "[/red] a note" in text and "[w4]" in text


def test_a_stage_without_a_bar_says_once_a_minute_how_far_it_is(monkeypatch):
    now = iter([0, 0, 59, 61, 61, 100, 121, 121])
    monkeypatch.setattr("kdrun.job.progress.time.monotonic", lambda: next(now))
    out, report = reports()
    report.stage("outputs of served", 640, 0, unit="sentence")
    for done in (64, 128, 192, 256):
        report.advance(done)
    lines = ["outputs of served: 128 of 640 sentences", "outputs of served: 256 of 640 sentences"]
    assert out.getvalue().splitlines() == lines


def test_a_broken_display_ends_no_run(tmp_path, monkeypatch, capsys):
    """Each part of what is shown fails by turns; the run is done, with the same summary."""
    from kdrun.job import panel, progress

    def broken(*args, **kwargs):
        raise TypeError("unsupported format string")

    for module, name in ((progress.RunReport, "_values"), (progress.RunReport, "_result"), (panel, "result_rows")):
        monkeypatch.setattr(module, name, broken)
    assert main([*WORDS, f"paths.outputs={tmp_path}"]) == 0
    (path,) = tmp_path.glob("runs/*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "done" and record["summary"]["arms"]["student"]["n"] == 1
    assert "could not be shown" in (path.parent / "run.log").read_text()


def test_the_log_of_a_run_has_epochs_results_and_what_was_mended_with_times(tmp_path, capsys):
    words = [*WORDS, f"paths.outputs={tmp_path}"]
    assert main([*words, "-q"]) == 0
    (log,) = tmp_path.glob("runs/*/run.log")
    lines = log.read_text().splitlines()
    assert any("student/seed=0 epoch 1/1, validation: accuracy " in line for line in lines)
    assert any("alone/seed=0" in line and "trained, " in line for line in lines)
    assert all(line[:2] == "20" and "kdrun" in line for line in lines if "epoch" in line)
    weights = next(tmp_path.glob("store/stages/*/*/best.safetensors"))
    weights.write_bytes(b"damaged")
    assert main([*words, "-q"]) == 0
    second = max(tmp_path.glob("runs/*/record.json"), key=lambda path: path.stat().st_mtime_ns)
    (mend,) = json.loads(second.read_text())["attempts"][-1]["mended"]
    assert mend["at"].endswith("Z") and "run again" in mend["what"]
    assert mend["what"] in (second.parent / "run.log").read_text()
    capsys.readouterr()
    assert main(["show", second.parent.name, "--outputs", str(tmp_path)]) == 0
    assert "mended" in capsys.readouterr().out


def test_a_job_of_a_sweep_logs_and_tells(caplog):
    caplog.set_level(logging.INFO)
    events, mends = [], []
    report = EventReport(events.append, lambda rows: None, Signals(), mends=mends.append)
    report.epoch("student/seed=0", 0, 1, {"accuracy": 0.5})
    report.mended("damaged; it is run again")
    assert [event["kind"] for event in events] == ["epoch", "note"] and mends == ["damaged; it is run again"]
    assert "accuracy 50.00 %" in caplog.text and "damaged" in caplog.text


def test_weights_that_were_only_loaded_are_not_called_trained():
    assert how("trained", {"seconds": 0.3, "steps": 0}) == "loaded, 0.3 s"
    assert how("trained", {"seconds": 0.3, "steps": 5}) == "trained, 0.3 s"
    assert how("resumed", {"seconds": 61, "steps": 5}) == "continued, 1 min 1 s"
    assert how("store", {"seconds": 0.3}) == "found in the store"


def test_the_score_that_is_shown_is_that_of_the_kind_of_data():
    events = []
    report = EventReport(events.append, lambda rows: None, Signals(), scores=("bits_per_byte", "loss"))
    report.epoch("student/seed=0", 0, 2, {"loss": 1.5, "token_accuracy": 0.25, "bits_per_byte": 0.75})
    assert events[-1]["score"] == "0.7500" and events[-1]["values"]["token_accuracy"] == 0.25
    report.epoch("student/seed=0", 1, 2, {"token_accuracy": 0.25})
    assert events[-1]["score"] == ""
