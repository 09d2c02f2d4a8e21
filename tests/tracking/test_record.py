from __future__ import annotations

import json

import pytest
from tracking.support import begin, feed, make_job

from kdrun.tracking.metrics import read_metrics
from kdrun.tracking.record import log_tail, read_record
from kdrun.tracking.registry import open_run, plan_run, read_run


def stored(run):
    return json.loads((run.dir / "record.json").read_text())


def test_every_key_of_the_schema_is_there_from_the_first_moment(tmp_path):
    run = open_run(tmp_path, "digits", "ab" * 32)
    schema = """schema id name status created updated attempts command overrides choices auto job_hash seeds config cells git
        versions hardware stages audit summary error"""
    assert sorted(stored(run)) == sorted(schema.split())
    assert stored(run)["status"] == "running" and stored(run)["created"].endswith("Z")
    run.close()


def test_update_is_on_the_disk_and_refuses_unknown_fields(tmp_path):
    run = begin(tmp_path)
    run.update(audit={"duplicates": 3})
    assert stored(run)["audit"] == {"duplicates": 3}
    with pytest.raises(KeyError, match="audti"):
        run.update(audti={})
    with pytest.raises(ValueError, match="finished"):
        run.update(status="finished")
    run.close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (ValueError("boom"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "interrupted"),
    ],
)
def test_the_status_fits_the_end(tmp_path, error, status):
    try:
        with begin(tmp_path) as run:
            feed(run)
            if error:
                raise error
    except BaseException as caught:
        assert caught is error
    record = read_record(run.dir)
    assert record["status"] == record["attempts"][-1]["status"] == status
    assert record["attempts"][-1]["ended"] is not None
    assert len(list(read_metrics(run.dir / "metrics.jsonl"))) == 3
    assert (record["error"] is None) == (error is None)


def test_a_failure_leaves_its_traceback_at_the_end_of_the_log(tmp_path):
    def deep():
        raise ValueError("boom [bold]")

    with pytest.raises(ValueError), begin(tmp_path) as run:
        run.log_path.write_text("epoch 1\n")
        deep()
    assert log_tail(run.dir)[-1] == "ValueError: boom [bold]"
    assert log_tail(run.dir, 100)[0] == "epoch 1"
    error = read_record(run.dir)["error"]
    assert (error["type"], error["message"]) == ("ValueError", "boom [bold]")
    assert error["where"].startswith("test_record.py:") and error["where"].endswith("in deep")


def test_a_run_closed_without_an_end_is_interrupted_not_done(tmp_path):
    run = begin(tmp_path)
    run.close()
    run.close()
    assert read_record(run.dir)["status"] == "interrupted"
    assert read_record(run.dir)["attempts"][-1]["ended"] is not None


def test_a_success_after_a_failure_forgets_the_error(tmp_path):
    with pytest.raises(ValueError), begin(tmp_path):
        raise ValueError("boom")
    with begin(tmp_path) as run:
        pass
    record = read_record(run.dir)
    assert record["error"] is None
    assert [attempt["status"] for attempt in record["attempts"]] == ["failed", "done"]


def test_planning_again_does_not_empty_what_an_attempt_measured(tmp_path):
    job = make_job()
    run = begin(tmp_path, job)
    feed(run)
    run.close()
    planned = plan_run(tmp_path, job.slug, job.hash)
    planned.close()
    assert planned.dir == run.dir and read_run(run.dir).status == "interrupted"
    assert len(list(read_metrics(run.dir / "metrics.jsonl"))) == 3
    with pytest.raises(RuntimeError, match="not begun"):
        planned.metrics  # noqa: B018


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99, "status": "done"}', '{"a": 1}'])
def test_a_record_that_is_none_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record\.json"):
        read_record(tmp_path)
