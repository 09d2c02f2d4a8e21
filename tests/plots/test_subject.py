"""What a word on the command line means, and what runs are called."""

import pytest
from plots.records import make_run, make_sweep

from kdrun.files import write_json
from kdrun.plots.subject import find_subject, short_labels
from kdrun.problems import UserError


def test_run_sweep_and_table(tmp_path):
    run = make_run(tmp_path)
    make_sweep(tmp_path, [(["a.t=1"], run), (["a.t=4"], None)])
    (tmp_path / "tables/digits").mkdir(parents=True)
    write_json(tmp_path / "tables/digits/table.json", {"title": "Digits"})
    assert find_subject(tmp_path, []).kind == find_subject(tmp_path, [run.id]).kind == "run"
    sweep = find_subject(tmp_path, ["temper"])
    assert (sweep.kind, sweep.name) == ("sweep", "temperature-0badcafe")
    assert [(label, info.id) for label, info in sweep.runs] == [("t=1", run.id)]
    assert find_subject(tmp_path, ["digits"], tables=True).record == {"title": "Digits"}, "the whole name wins"
    assert find_subject(tmp_path, ["digits"]).name == run.id
    with pytest.raises(UserError, match=r"no run.*closest"):
        find_subject(tmp_path, ["digitz-abababab"])


def test_several_words_are_one_subject_without_repeats(tmp_path):
    runs = [make_run(tmp_path, f"{n}a" * 32, overrides=[f"objective.kd.temperature={n}"]) for n in (1, 2)]
    make_sweep(tmp_path, [([], runs[0])])
    subject = find_subject(tmp_path, [runs[0].id, "temperature-0badcafe", runs[1].id])
    assert [label for label, _ in subject.runs] == ["temperature=1", "temperature=2"]
    assert subject.folder == runs[0].dir


def test_labels_hold_what_differs():
    assert short_labels([["a.lr=1", "seed=0"], ["a.lr=2", "seed=0"]]) == ["lr=1", "lr=2"]
    assert short_labels([["a.lr=1", "b.lr=1"], ["a.lr=2", "b.lr=3"]]) == ["a.lr=1, b.lr=1", "a.lr=2, b.lr=3"]
    assert short_labels([["x=1"]]) == ["default"]
    records = [{"config": {"a": {"lr": 0.1}}, "choices": {"student": "mlp"}}, None]
    assert short_labels([[], ["a.lr=2", "student=cnn"]], records) == ["lr=0.1, student=mlp", "lr=2, student=cnn"]
