"""Clients whose answers were left out of rounds are told of, by what happened to them."""

from types import SimpleNamespace

from kdrun.job.absent import absent_rows, left_out


def part(*entries):
    return SimpleNamespace(facts={"left_out": list(entries)})


def told(of_seeds, arm="student"):
    return absent_rows({"arms": {arm: {"label": "FedMD", "gains": {"left_out": left_out(of_seeds)}}}})


def test_clients_of_one_fate_are_one_entry():
    nan, away = "predictions is not finite", "no answer"
    parts = {
        "client 0": part([0, nan], [1, nan]), "client 1": part(), "client 2": part([0, nan], [1, nan]), "client 3": part([1, away], [2, nan]),
    }  # fmt: skip
    text = f"client 0, 2: rounds 0, 1: {nan}; client 3: round 1: {away}; client 3: round 2: {nan}"
    assert told({7: parts}) == [("left out", text)]
    assert told({7: parts}, "fedmd") == [("left out", f"{text} (FedMD)")]


def test_where_nobody_was_left_out_nothing_is_said_nor_of_summaries_that_have_names_alone():
    assert told({0: {"client 0": part(), "view": SimpleNamespace(facts={})}}) == []
    assert (
        absent_rows({"arms": {"student": {"label": "x", "gains": {"left_out": ["client 1"]}}}, "metric": "accuracy"})
        == []
    )


def test_long_lists_end_and_seeds_are_named_where_there_are_several():
    parts = {f"client {n}": part(*([r, "no answer"] for r in range(n + 1, 30))) for n in range(9)}
    ((_, text),) = told({3: parts})
    assert text.startswith(
        "client 0: rounds 1 to 29, 29 in all: no answer; client 1: rounds 2 to 29"
    ) and text.endswith("; and 5 more")
    ((_, text),) = told({seed: {"client 0": part([4, "no answer"])} for seed in (3, 4)})
    assert text == "client 0, seed 3: round 4: no answer; client 0, seed 4: round 4: no answer"
