from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
from tracking.support import python

from kdrun.tracking.metrics import MetricsWriter, read_metrics


def test_rows_come_back_as_written(tmp_path):
    writer = MetricsWriter(tmp_path / "m")
    writer.write("student/seed=0", 1, 0, {"loss": np.float32(0.5), "gone": None, "nan": math.nan})
    writer.write("teacher/seed=0", 2, None, {"loss": 1})
    writer.close()
    first, second = read_metrics(tmp_path / "m")
    assert math.isnan(first.pop("nan"))
    assert first == {"stage": "student/seed=0", "step": 1, "epoch": 0, "loss": 0.5}
    assert second == {"stage": "teacher/seed=0", "step": 2, "loss": 1}
    assert [row["step"] for row in read_metrics(tmp_path / "m", "teacher/seed=0")] == [2]


def test_rows_are_buffered_until_flush_or_time(tmp_path):
    writer = MetricsWriter(tmp_path / "m", flush_seconds=1000)
    writer.write("s", 1, 0, {"a": 1})
    assert list(read_metrics(tmp_path / "m")) == []
    writer.flush()
    assert len(list(read_metrics(tmp_path / "m"))) == 1
    writer.flush_seconds = 0.0
    writer.write("s", 2, 0, {"a": 1})
    assert len(list(read_metrics(tmp_path / "m"))) == 2
    writer.close()
    writer.close()


def test_a_new_attempt_starts_empty_and_is_fed_again(tmp_path):
    writer = MetricsWriter(tmp_path / "m")
    writer.write("s", 1, 0, {"a": math.inf})
    writer.close()
    rows = list(read_metrics(tmp_path / "m"))
    again = MetricsWriter(tmp_path / "m")
    assert list(read_metrics(tmp_path / "m")) == []
    again.write_rows(rows)
    again.close()
    assert list(read_metrics(tmp_path / "m")) == rows


def test_a_torn_last_line_is_left_out_and_damage_elsewhere_is_named(tmp_path):
    (tmp_path / "m").write_bytes(b'{"stage": "s", "step": 1, "a": 1}\n{"stage": "s", "st')
    assert len(list(read_metrics(tmp_path / "m"))) == 1
    (tmp_path / "m").write_bytes(b'{"stage": "s"\n{"stage": "s", "step": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        list(read_metrics(tmp_path / "m"))
    assert list(read_metrics(tmp_path / "absent")) == []


def test_a_metric_cannot_hide_the_step(tmp_path):
    with pytest.raises(ValueError, match="step"):
        MetricsWriter(tmp_path / "m").write("s", 1, 0, {"step": 3})


def test_a_kill_between_flushes_leaves_whole_rows(tmp_path):
    process = python(
        """
        import sys
        from kdrun.tracking.metrics import MetricsWriter
        writer = MetricsWriter(sys.argv[1], flush_seconds=0.0)
        step = 0
        while True:
            step += 1
            writer.write("s", step, 0, {"loss": 1 / step})
            if step == 200:
                print("go", flush=True)
        """,
        tmp_path / "m",
    )
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    steps = [row["step"] for row in read_metrics(tmp_path / "m")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 199
