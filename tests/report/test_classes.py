"""The table of classes, from what records keep."""

from kdrun.report.classes import class_tables


def record(*stages):
    return {"summary": {"arms": {"student": {}, "alone": {}}, "headline": {"which": "last"}}, "stages": list(stages)}


def stage(role, seed, **scores):
    return {"role": role, "seed": seed, "test": {"best": {"f1/a": 0.0, "support/a": 9}, "last": scores}}


def test_means_over_seeds_at_the_epoch_that_is_judged():
    first = {"precision/a": 0.5, "recall/a": 1.0, "f1/a": 0.6, "support/a": 4, "recall/b": 0.0, "support/b": 1}
    second = {"precision/a": 0.7, "recall/a": 0.8, "f1/a": 0.7, "support/a": 5, "support/b": 0}
    (table,) = class_tables(
        record(
            stage("alone", 0, **{"f1/a": 0.25, "support/a": 4}),
            stage("student", 0, **first),
            stage("student", 1, **second),
        )
    )
    assert table.head[:5] == ("class", "samples", "precision", "recall", "F1") and "last epoch" in table.caption
    assert table.rows[0] == ("a", "4.5", "60.0", "90.0", "65.0", "25.0")


def test_nothing_is_shown_of_records_without_scores_of_classes():
    assert class_tables(record({"role": "student", "seed": 0, "test": {"last": {"accuracy": 1.0}}})) == []
    assert class_tables({}) == []
