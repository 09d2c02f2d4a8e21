"""What figures show: read from records without matplotlib."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from plots.records import make_run

from kdrun.plots.data import CostPoint, pairs_of, pareto, point, read_traces, run_groups, run_points, runs_points
from kdrun.tracking.record import METRICS


def rows(run, lines):
    (run.dir / METRICS).write_text("".join(f"{line}\n" for line in lines))
    return read_traces(run)


def test_reading_imports_neither_matplotlib_nor_torch():
    code = "import sys, kdrun.verbs.plot, kdrun.verbs.report, kdrun.plots.data; print({'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_training_value_is_the_mean_over_the_steps_of_its_epoch(tmp_path):
    """A row is the mean since the row before: 20 steps at 1.0 and 5 at 6.0 are 25 steps at 2.0."""
    found = rows(
        make_run(tmp_path),
        [
            '{"stage": "student/seed=0", "step": 20, "epoch": 0, "train/loss": 1.0}',
            '{"stage": "student/seed=0", "step": 25, "epoch": 0, "train/loss": 6.0}',
            '{"stage": "student/seed=0", "step": 25, "epoch": 0, "val/accuracy": 0.5}',
            '{"stage": "student/seed=0", "step": 30, "epoch": 1, "train/loss": 3.0}',
        ],
    )
    (loss,) = found["train/loss"]
    assert (loss.epochs, loss.values) == ([0, 1], pytest.approx([2.0, 3.0]))
    assert found["val/accuracy"][0].values == [0.5]


def test_metrics_in_order_terms_raw_and_only_where_there_are_several(tmp_path):
    groups = run_groups(make_run(tmp_path))
    assert list(groups) == ["val/accuracy", "train/loss", "train/ce", "train/kd"]
    assert [group.kind for group in groups["val/accuracy"]] == ["teacher", "alone", "student"]
    assert [group.kind for group in groups["train/kd"]] == ["student"]
    assert groups["val/accuracy"][2].label == "student resnet8_w4, distilled"
    assert [trace.selected for trace in groups["val/accuracy"][2].traces] == [4, 4, 4]


def test_a_seed_that_did_not_finish_says_so(tmp_path):
    groups = run_groups(make_run(tmp_path, seeds=4, lost={("student", 3): 2}))
    student = groups["val/accuracy"][2]
    assert [trace.problem for trace in student.traces] == [None, None, None, "diverged"]
    assert student.traces[3].epochs == [0, 1] and student.traces[3].selected is None


def test_points_count_missing_seeds_and_leave_out_unknown_costs(tmp_path):
    run = make_run(tmp_path, seeds=4, lost={("student", 3): 2})
    teacher, alone, student = run_points(run)
    assert (student.n, student.of, alone.n, alone.of, teacher.n) == (3, 4, 4, 4, 1)
    assert teacher.sd is None and student.costs == {"seconds": 2.0, "parameters": 4934, "flops": 97088}
    run.record["stages"][1]["flops"] = None
    assert "flops" not in point(run.record, run.record["stages"][1]["role"], "x").costs
    assert point(run.record, "assistant", "x") is None


def test_several_runs_share_their_teacher(tmp_path):
    runs = [(f"T={n}", make_run(tmp_path, f"{n}a" * 32, shift=n / 100)) for n in (1, 2)]
    points = runs_points(runs)
    assert [p.label for p in points] == ["teacher", "student alone", "T=1", "T=2"]
    assert [p.own for p in points] == [False, False, True, True]


def test_the_front_holds_what_nothing_beats():
    def at(cost, mean):
        return CostPoint("run", "", mean, None, 1, 1, {"seconds": cost} if cost else {})

    good, same, dear, worse, unknown = at(1, 0.5), at(1, 0.4), at(3, 0.9), at(2, 0.45), at(None, 0.99)
    assert pareto([worse, unknown, same, dear, good], "seconds") == [good, dear]
    assert pareto([worse, unknown, same, dear, good], "seconds", "min") == [same]


def test_pairs_keep_what_is_missing(tmp_path):
    pairs = pairs_of(make_run(tmp_path, seeds=4, lost={("student", 3): 2}))
    assert pairs.missing == [(3, 1, "diverged")] and pairs.seeds[3][0] is not None and pairs.seeds[3][1] is None
    assert pairs.difference.n == 3 and pairs.difference.method == "paired t"


def test_an_old_record_is_drawn_by_students_t(tmp_path):
    run = make_run(tmp_path)
    for key in ("differences", "headline"):  # which later versions say
        del run.record["summary"][key]
    found = run.record["summary"]["difference"]["best"]
    old = {
        "mean": 0.02,
        "n": 3,
        "sd": 0.01,
        "interval": [0.01, 0.03],
        "interval_t": [0.0, 0.04],
        "values": [0.01, 0.02, 0.03],
    }
    found.clear()
    found |= old
    assert pairs_of(run).difference.interval == pytest.approx((-0.004841, 0.044841), abs=1e-6)
    assert pairs_of(run).difference.n == 3


def test_a_run_without_a_summary_has_curves_and_no_pairs(tmp_path):
    run = make_run(tmp_path, summary={}, stages=[])
    assert pairs_of(run) is None and run_points(run) == []
    assert {t.problem for t in read_traces(run)["val/accuracy"]} == {"unfinished"}


def test_clients_of_several_sizes_are_one_point_because_they_are_one_stage():
    figures = {which: {"accuracy": 0.5} for which in ("best", "last")}
    stage = {
        "role": "student", "seed": 0, "label": "clients", "learner": "clients", "fingerprint": "a", "clients": [{"client": 0}, {"client": 1}],
        "test": figures, "val": figures, "cost": {"seconds": 1.0}, "parameters": 7, "flops": 9,
    }  # fmt: skip
    sizes = {"client 0": 5, "client 1": 9}
    arms = {"student": {"label": "clients", "sizes": sizes}}
    run = SimpleNamespace(record={"summary": {"metric": "accuracy", "arms": arms}, "stages": [stage]})
    assert [found.costs["parameters"] for found in run_points(run)] == [7]


def test_what_a_federation_counts_is_no_loss_and_its_epochs_are_rounds(tmp_path):
    lines = [
        f'{{"stage": "student/seed=0", "step": {10 * n}, "epoch": {n - 1}, "train/private_labels": {1 / n}, "train/called": 10, '
        f'"train/bytes_up": 91729, "train/clusters": 2.0}}'
        for n in (1, 2)
    ]
    found = rows(make_run(tmp_path), lines)
    assert list(found) == ["train/private_labels"]
    assert found["train/private_labels"][0].rounds
    found = rows(
        make_run(tmp_path, "b" * 64), [line[:-1] + ', "val/accuracy": 0.5}' for line in lines]
    )  # as rounds are written
    assert {name: traces[0].values for name, traces in found.items()} == {
        "val/accuracy": [0.5, 0.5],
        "train/private_labels": [1.0, 0.5],
    }
    assert all(traces[0].rounds for traces in found.values())
