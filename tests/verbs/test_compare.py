from __future__ import annotations

import json

import pytest
from tracking.support import begin, make_job

from kdrun.cli import main
from kdrun.files import write_json
from kdrun.verbs.compare import config_differences


def arm(values, of=None, **extra):
    """An arm of a summary from {seed: value}."""
    found = {"mean": sum(values.values()) / len(values), "sd": 0.01} if values else None
    seeds = {str(seed): {"best": value, "last": value, "epoch_best": 1} for seed, value in values.items()}
    return {
        "label": "x",
        "n": len(values),
        "of": of or len(values),
        "best": found,
        "last": found,
        "seeds": seeds,
        **extra,
    }


def record(outputs, job_hash, own, name="student", **fields):
    """A finished run; `config` replaces keys of its config."""
    run = begin(outputs, make_job(job_hash * 32, **fields.pop("config", {})))
    summary = {"metric": "accuracy", "arms": {"alone": arm({0: 0.9, 1: 0.9}), name: own}, "seconds": 61.0}
    summary["teacher"] = {"best": 0.97, "last": 0.96, "learner": "resnet20", "n": 1}
    stage = {
        "label": f"{name}/seed=0",
        "role": name,
        "seed": 0,
        "fingerprint": "f" * 64,
        "parameters": 4934,
        "flops": 97088,
    }
    fields = {"git": {"kdrun": {"commit": "a" * 40, "dirty": False}}, "stages": [stage], **fields}
    run.finish(summary=summary | {"verdict": "Helped."}, **fields)
    run.close()
    return run.id


@pytest.fixture
def pair(tmp_path):
    """Two runs that differ in the temperature; the second is better on each seed."""
    one = record(tmp_path, "1a", arm({0: 0.90, 1: 0.92}), config={"objective": {"kd": {"temperature": 2.0}}})
    two = record(
        tmp_path, "2b", arm({0: 0.92, 1: 0.95}), config={"objective": {"kd": {"temperature": 4.0}}, "name": "x"}
    )
    return tmp_path, one, two


def compared(capsys, outputs, *words):
    assert main(["compare", *words, "--outputs", str(outputs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [" ".join(line.split()) for line in lines]


def test_differing_keys_and_results_side_by_side(pair, capsys):
    outputs, one, two = pair
    lines = compared(capsys, outputs, one, two)
    assert lines[:5] == [f"1 {one}", f"2 {two}", "", "config 1 2", "objective.kd.temperature 2.0 4.0"]
    assert "result 1 2" in lines
    assert "student, best 91.00 ± 1.00 % 93.50 ± 1.00 % (+2.50)" in lines
    assert "alone, best 90.00 ± 1.00 % 90.00 ± 1.00 % (+0.00)" in lines
    assert "teacher, last 96.00 % 96.00 % (+0.00)" in lines
    assert "time 1 min 1 s 1 min 1 s" in lines and "student parameters 4,934 4,934" in lines
    found = next(line for line in lines if line.startswith("minus first, best"))
    assert "+2.50 ± 0.71, 95 % interval -3.85 to +8.85, p 0.126, better in 88 % of pairs: undecided" in found
    assert "could have shown" in found and found.endswith("(paired t, n = 2)")
    assert "2: Helped." in lines and not any(line.startswith("careful") for line in lines)


def test_json_has_the_same(pair, capsys):
    outputs, one, two = pair
    assert main(["compare", one, two, "--json", "--outputs", str(outputs)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == {"objective.kd.temperature": [[2.0], [4.0]]} and found["warnings"] == []
    assert [run["id"] for run in found["runs"]] == [one, two]
    assert found["runs"][1]["difference"]["best"]["values"] == pytest.approx([0.02, 0.03])


def test_what_makes_a_comparison_doubtful_is_one_line(tmp_path, capsys):
    missing = {"4": {"status": "diverged", "type": "FloatingPointError", "message": "loss"}}
    one = record(tmp_path, "1a", arm({0: 0.9}), audit={"samples": {"train": 100}})
    two = record(
        tmp_path,
        "2b",
        arm({0: 0.91, 1: 0.9}, of=3, missing=missing),
        config={"seeds": [0, 1, 4]},
        seeds=[0, 1, 4],
        audit={"samples": {"train": 90}},
        git={"kdrun": {"commit": "b" * 40, "dirty": True}},
    )
    lines = compared(capsys, tmp_path, one, two)
    assert lines[-1] == (
        f"careful: seeds differ (0,1; 0,1,4); seeds are missing in {two}; data differ; commits differ; "
        f"uncommitted changes in {two}"
    )
    assert "student, seeds 1 2 of 3 (4: diverged FloatingPointError)" in lines
    assert "commit aaaaaaaaaa bbbbbbbbbb and changes" in lines and "data n/a 100 n/a 90" in lines
    assert not any("minus first" in line for line in lines), "one seed says nothing about chance"


def test_seeds_that_are_not_shared_are_compared_by_welch_and_several_runs_by_holm(tmp_path, capsys):
    one = record(tmp_path, "1a", arm({0: 0.90, 1: 0.92, 2: 0.91}), seeds=[0, 1, 2])
    two = record(tmp_path, "2b", arm({5: 0.95, 6: 0.96}), seeds=[5, 6])
    lines = compared(capsys, tmp_path, one, two)
    assert any("better (Welch's t, n = 3 and 2)" in line or "better (Welch's t, n = 2 and 3)" in line for line in lines)
    three = record(tmp_path, "3c", arm({5: 0.94, 6: 0.96}), seeds=[5, 6])
    assert main(["compare", one, two, three, "--json", "--outputs", str(tmp_path)]) == 0
    _, *others = json.loads(capsys.readouterr().out)["runs"]
    found = [one["difference"]["best"] for one in others]
    assert [one["comparisons"] for one in found] == [2, 2]
    assert min(one["p_holm"] for one in found) == pytest.approx(2 * min(one["p_value"] for one in found))


def test_a_run_that_failed_and_one_without_a_teacher(tmp_path, capsys):
    one = record(tmp_path, "1a", arm({0: 0.9, 1: 0.91}))
    with pytest.raises(ValueError), begin(tmp_path, make_job("2b" * 32)) as failed:
        raise ValueError("boom")
    lines = compared(capsys, tmp_path, one, failed.id)
    assert "status done failed" in lines and "student, best 90.50 ± 1.00 % n/a" in lines
    assert f"2 {failed.id}" in lines and "2: failed ValueError: boom" in lines
    assert "config: no difference" in lines
    assert "1: failed ValueError: boom" in compared(capsys, tmp_path, failed.id, one)


def test_equal_configs_show_labels_and_otherwise_nothing():
    def one(**config):
        return {"config": config, "cells": {}, "seeds": [0]}

    assert config_differences([one(name="a", seed=0), one(name="b", seed=1)]) == {"name": [["a"], ["b"]]}
    assert config_differences([one(name="a", lr=1), one(name="b", lr=2)]) == {"lr": [[1], [2]]}
    assert config_differences([one(lr=1), one(lr=1)]) == {}
    assert config_differences([one(lr=1), one(lr=True)]) == {"lr": [[1], [True]]}
    assert config_differences([one(lr=None), one()]) == {"lr": [[None], []]}
    follows = {"config": {"teacher": {"seed": 0}}, "cells": {"0": {}, "1": {"teacher": {"seed": 1}}}, "seeds": [0, 1]}
    assert config_differences([{**follows, "cells": {}}, follows]) == {"teacher.seed": [[0], [0, 1]]}


def test_data_are_compared_by_content_where_the_store_has_it(tmp_path, capsys):
    for name, content in (("1a", "c" * 64), ("2b", "d" * 64)):
        folder = tmp_path / "store/stages" / name / (name * 32)
        folder.mkdir(parents=True)
        write_json(folder / "record.json", {"parts": {"data": {"content": content}}})
    stages = [[{"role": "student", "seed": 0, "fingerprint": name * 32}] for name in ("1a", "2b")]
    one, two = (record(tmp_path, n, arm({0: 0.9}), stages=s) for n, s in zip(("1a", "2b"), stages, strict=True))
    lines = compared(capsys, tmp_path, one, two)
    assert "data cccccccccc dddddddddd" in lines and "data differ" in lines[-1]


def test_mistakes(pair, capsys):
    outputs, one, two = pair
    (outputs / "sweeps" / "lr-12345678").mkdir(parents=True)
    for words, says in (
        ([one], "at least two"),
        ([one, one], "named twice"),
        ([one, "digits-xx"], "no run 'digits-xx'"),
        ([one, "lr-12345678"], "kdrun runs sweep=lr-12345678"),
        ([one, two, "trainer.epochs=5"], "does not take trainer.epochs=5"),
    ):
        assert main(["compare", *words, "--outputs", str(outputs)]) == 2
        assert says in capsys.readouterr().err
    (outputs / "runs" / two / "record.json").write_text("{")
    assert main(["compare", one, two, "--outputs", str(outputs)]) == 2
    assert "cannot be read" in capsys.readouterr().err
