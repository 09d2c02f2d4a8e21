"""Every check that stops a table, and the notes that do not: each on records altered in one place."""

from __future__ import annotations

import copy

import pytest
from tables.support import RESULTS, SPEC, fill, finish, request_of

from kdrun.config.compose import hash_of
from kdrun.tables.build import entries_of
from kdrun.tables.checks import _teacher_options, check
from kdrun.tables.spec import compose_jobs
from kdrun.tracking.provenance import cells_of
from kdrun.verbs.table import records_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(request, jobs, records of the rows alone, t2 and t4)."""
    folder = tmp_path_factory.mktemp("checks")
    fill(folder)
    request = request_of(folder)
    jobs, composed = compose_jobs(request, request.conf)
    return request, jobs, records_of(composed)


@pytest.fixture
def checked(made):
    """Check the table after `change(alone, t2, t4)` has altered its records."""
    request, jobs, records = made

    def run(change=None, factors=None, seeds=(0, 1, 2)):
        mine = copy.deepcopy(records)
        if change:
            change(*mine)
        columns = [column.definition for column in request.spec.columns]
        return check(entries_of(jobs, mine), columns, factors or request.spec.factors, seeds)

    return run


def configured(record, path, value):
    """Another value in the config of a record, which then gets the hash of what it says."""
    *parents, last = path.split(".")
    node = record["config"]
    for name in parents:
        node = node[name]
    node[last] = value
    record["job_hash"] = hash_of(cells_of(record))


def stage_of(record, label):
    return next(stage for stage in record["stages"] if stage["label"] == label)


def test_good_records_pass(checked):
    found = checked()
    assert found.failures == [] and found.warnings == []


@pytest.mark.parametrize(
    ("path", "value", "values"),
    [
        ("trainer.epochs", 3, "2 in alone, t2; 3 in t4"),
        ("data.augment.flip", True, "false in alone, t2; true in t4"),
        ("data.split_seed", 7, "0 in alone, t2; 7 in t4"),
        ("teacher.network.hidden", [256], "[64] in alone, t2; [256] in t4"),
        ("trainer.optimizer.lr", 0.2, "0.1 in alone, t2; 0.2 in t4"),
    ],
)
def test_a_difference_that_is_no_factor_is_named_with_both_values(checked, path, value, values):
    found = checked(lambda alone, t2, t4: configured(t4, path, value))
    assert f"{path} differs and is no declared factor: {values}" in found.failures


def test_a_factor_covers_what_is_below_it(checked):
    def change(alone, t2, t4):
        configured(t4, "trainer.optimizer.lr", 0.2)

    assert checked(change, ["strategy", "objective", "trainer.optimizer"]).failures == []
    assert len(checked(change, ["strategy", "objective", "train"]).failures) == 1  # a prefix of keys, not of letters


def test_labels_and_folders_may_differ(checked):
    def change(alone, t2, t4):
        for path, value in (("name", "x"), ("tags", {"a": True}), ("paths.store", "/y"), ("trainer.log_every", 3)):
            configured(t4, path, value)

    assert checked(change).failures == []


def test_a_key_that_follows_the_seed_is_compared_seed_by_seed(checked):
    def change(alone, t2, t4):
        for record in (alone, t2, t4):
            record["cells"] = {str(s): {"seed": s, "extra": {"follows": s}} for s in (0, 1, 2)}
            record["job_hash"] = hash_of(cells_of(record))

    assert checked(change).failures == []

    def another(alone, t2, t4):
        change(alone, t2, t4)
        t4["cells"]["1"]["extra"] = {"follows": 5}
        t4["job_hash"] = hash_of(cells_of(t4))

    assert checked(another).failures == [
        "extra.follows differs and is no declared factor: 0 1 2 in alone, t2; 0 5 2 in t4"
    ]


def test_a_config_that_does_not_give_its_hash(checked):
    def change(alone, t2, t4):
        t4["config"]["objective"]["kd"]["temperature"] = 3.0

    assert "row t4: the config in its record has the hash" in checked(change).failures[0]


def test_the_student_alone_has_to_be_there(checked):
    def change(alone, t2, t4):
        alone["summary"]["arms"] = {}
        for record in (t2, t4):
            del record["summary"]["arms"]["alone"]

    failures = checked(change).failures
    assert sum("no result of the student alone (mlp_8)" in line for line in failures) == 2

    def only_a_row(alone, t2, t4):
        for record in (t2, t4):
            del record["summary"]["arms"]["alone"]

    assert not any("student alone (" in line for line in checked(only_a_row).failures)


def test_the_alone_row_must_be_of_the_same_student(checked):
    def change(alone, t2, t4):
        configured(alone, "student.network.hidden", [4])
        for record in (t2, t4):
            del record["summary"]["arms"]["alone"]

    failures = checked(change, ["strategy", "objective.kd.temperature", "student"]).failures
    assert sum("no result of the student alone" in line for line in failures) == 2


def test_equal_seeds_in_every_job(checked):
    found = checked(seeds=(0, 1, 2, 3))
    assert "row t4: its seeds are [0, 1, 2], those of the table [0, 1, 2, 3]" in found.failures


def test_a_seed_that_nobody_says_is_missing(checked):
    def change(alone, t2, t4):
        arm = t4["summary"]["arms"]["student"]
        del arm["seeds"]["1"]
        arm["n"] = 2

    failures = checked(change).failures
    assert any("row t4, column student: n = 2 of 3, and nothing says why seed 1 has no result" in f for f in failures)


def test_a_count_that_does_not_fit_the_seeds(checked):
    def change(alone, t2, t4):
        t4["summary"]["arms"]["student"]["n"] = 4

    assert "row t4, column student: the record says n = 4 of 3" in checked(change).failures[0]


def test_a_missing_seed_with_its_reason_is_a_warning(tmp_path):
    fill(tmp_path, results={**RESULTS, "t4": {"student": [0.9, None, 0.9], "alone": [0.80, None, 0.84]}})
    request = request_of(tmp_path)
    jobs, composed = compose_jobs(request, request.conf)
    entries = entries_of(jobs, records_of(composed))
    found = check(entries, [c.definition for c in request.spec.columns], request.spec.factors, [0, 1, 2])
    assert found.failures == [] and found.warnings == ["row t4: not every seed has a result: 2 of 3"]


def test_an_n_that_differs_along_a_row_is_named(tmp_path):
    fill(tmp_path, results={**RESULTS, "t4": {"student": [0.9, 0.9, 0.9], "alone": [0.80, None, 0.84]}})
    request = request_of(tmp_path)
    jobs, composed = compose_jobs(request, request.conf)
    entries = entries_of(jobs, records_of(composed))
    found = check(entries, [c.definition for c in request.spec.columns], request.spec.factors, [0, 1, 2])
    assert found.failures == []
    assert "row t4: n differs along the row: student 3 of 3, alone 2 of 3, difference 2 of 3" in found.warnings[0]


@pytest.mark.parametrize("value", [1.2, -0.1, float("nan"), "nan"])
def test_a_share_outside_of_0_and_1(checked, value):
    def change(alone, t2, t4):
        stage_of(t4, "student/seed=1")["val"]["last"]["worst_class"] = value

    found = checked(change).failures
    assert found == [f"row t4, student/seed=1, val last: worst_class is {value}, outside 0..1"]


def test_transfer_between_tasks_is_a_difference_and_may_be_below_0(checked):
    def change(alone, t2, t4):
        stage_of(t4, "student/seed=1")["val"]["last"]["backward_transfer"] = -0.2

    assert checked(change).failures == []


def test_top1_is_at_most_top5(checked):
    def change(alone, t2, t4):
        stage_of(t4, "student/seed=1")["test"]["last"]["top5"] = 0.5

    (failure,) = checked(change).failures
    assert failure.startswith("row t4, student/seed=1, test last: accuracy 0.84") and "above top5 0.5" in failure


def test_a_figure_of_the_summary_that_is_not_that_of_its_stage(checked):
    def change(alone, t2, t4):
        t4["summary"]["arms"]["student"]["seeds"]["1"]["best"] = 0.99

    assert (
        "row t4, student, seed 1: accuracy best is 0.99 in the summary, 0.85 in its stage" in checked(change).failures
    )


def test_a_result_without_a_stage(checked):
    def change(alone, t2, t4):
        t4["stages"].remove(stage_of(t4, "student/seed=1"))

    assert (
        "row t4, student, seed 1: the summary has a result, but the record lists no such stage"
        in checked(change).failures
    )


def test_one_teacher_has_one_accuracy(checked):
    def change(alone, t2, t4):
        stage_of(t4, "teacher/seed=0")["test"]["best"]["accuracy"] = 0.96

    (failure,) = checked(change).failures
    assert failure.startswith("teacher mlp_64 (") and "[0.95, " in failure and "in t2, [0.96, " in failure


def test_one_config_of_a_teacher_is_one_stage(checked):
    def change(alone, t2, t4):
        stage_of(t4, "teacher/seed=0")["fingerprint"] = "f" * 64

    (failure,) = checked(change).failures
    assert failure.startswith("teacher mlp_64: stage ") and failure.endswith("in t2, ffffffffffff in t4")


@pytest.mark.parametrize("other", ["teacher=mlp_256", "teacher.data.labelled=100"])
def test_other_teachers_may_have_other_accuracies(tmp_path, other):
    text = SPEC.replace("[objective.kd.temperature=4]", f"[{other}]")
    request = request_of(tmp_path, text.replace("objective.kd.temperature]\n", "objective.kd.temperature, teacher]\n"))
    jobs, composed = compose_jobs(request, request.conf)
    for job, found in zip(jobs, composed, strict=True):
        finish(tmp_path / "out", found, RESULTS[job.row], teacher=0.97 if job.row == "t4" else 0.95)
    columns = [column.definition for column in request.spec.columns]
    found = check(entries_of(jobs, records_of(composed)), columns, request.spec.factors, [0, 1, 2])
    assert found.failures == []


def test_commits_versions_and_machines_are_warnings(checked):
    def change(alone, t2, t4):
        t4["git"] = {"kdrun": {"commit": "d" * 40, "dirty": True}}
        t4["versions"]["torch"] = "2.14.0"
        t4["hardware"]["cpu"] = "another"

    found = checked(change)
    assert found.failures == []
    assert found.warnings == [
        "made at different commits: c0ffeec0ff in alone, t2; dddddddddd in t4",
        "made with uncommitted changes: t4",
        "made with different versions of torch: 2.13.0, 2.14.0",
        "made on different machines: a cpu; another",
    ]


def test_records_that_are_not_here_are_no_failure_of_others(checked):
    def change(alone, t2, t4):
        t4.update(summary={}, stages=[], status="failed", error={"type": "ValueError", "message": "x", "where": ""})

    found = checked(change)
    assert found.failures == [] and found.warnings == ["row t4: not every seed has a result: 0 of 3"]


def test_options_that_decide_what_a_teacher_reads_are_said_by_the_strategy():
    guided = {"_target_": "kdrun.strategies.guided_on_policy.GuidedOnPolicy", "guidance": "single", "lr": 0.1}
    assert _teacher_options(guided) == {"guidance": "single", "hint": None}
    for other in ("kdrun.strategies.vanilla.Vanilla", "gone.from.Here", "os.system"):
        assert _teacher_options({"_target_": other, "guidance": "single"}) == {}
