from __future__ import annotations

import json

from plots.records import make_run, make_sweep

from kdrun.cli import main
from kdrun.job.over_seeds import over_seeds, repetitions
from kdrun.plots.subject import find_sweep
from kdrun.report.sweep_page import best_rows, configurations, headline


def one_seed(outputs, seed, shift, job):
    """A run of one seed."""
    run = make_run(outputs, job * 32, seeds=seed + 1, shift=shift)
    record = run.record
    record["seeds"] = [seed]
    record["stages"] = [stage for stage in record["stages"] if stage["seed"] == seed or stage["role"] == "teacher"]
    (run.dir / "record.json").write_text(json.dumps(record))
    return run


def swept(outputs):
    """Two temperatures with two seeds each, a job for each."""
    runs = []
    for number, (temperature, seed) in enumerate([(1, 0), (4, 0), (1, 1), (4, 1)]):
        run = one_seed(outputs, seed, 0.01 * (temperature == 4), f"{number}a")
        runs.append(([f"seed={seed}", f"objective.kd.temperature={temperature}"], run))
    return make_sweep(outputs, runs)


def test_points_that_differ_in_the_seed_are_one_configuration(tmp_path):
    subject = find_sweep(tmp_path, swept(tmp_path).name)
    assert [label for label, _ in subject.runs] == ["temperature=1", "temperature=4"]
    for _, run in subject.runs:
        arm = run.record["summary"]["arms"]["student"]
        assert arm["n"] == 2 and set(arm["seeds"]) == {"0", "1"} and arm["best"]["sd"] is not None
        assert run.record["summary"]["difference"]["best"]["n"] == 2
    rows = configurations(subject)
    assert [row.label for row in rows] == ["temperature=1", "temperature=4"]
    (best,) = best_rows(subject, rows)
    assert best.label == "temperature=4"
    assert "Best by validation: temperature=4" in headline(subject)[1] and "seed=" not in headline(subject)[1]


def test_figures_page_and_energy_know_no_seed_to_choose(tmp_path, capsys):
    name = swept(tmp_path).name
    for verb in ("plot", "report", "energy"):
        assert main([verb, name, "--outputs", str(tmp_path)]) == 0
        assert "seed=" not in capsys.readouterr().out
    curves = (tmp_path / "sweeps" / name / "plots" / "curves.svg").read_text()
    assert "temperature=4 (n = 2)" in curves and "seed=" not in curves
    page = (tmp_path / "sweeps" / name / "report.html").read_text()
    assert "best by validation" in page and "Best by validation: temperature=4" in page


def test_repetitions_are_told_by_overrides_and_seeds():
    def record(*seeds):
        return {"seeds": list(seeds)}

    words = [["seed=0", "a=1"], ["a=1", "seed=1"], ["seed=0", "a=2"], ["seed=1", "a=1"], ["seed=2", "a=1"]]
    records = [record(0), record(1), record(0), record(1), None]
    assert repetitions(words, records) == [[0, 1], [2], [3], [4]], "a seed is in each configuration once"


def test_one_run_is_itself():
    record = {"seeds": [0], "summary": {"metric": "accuracy"}}
    assert over_seeds([record]) is record


def test_show_takes_a_sweep_as_plot_and_report_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    name = swept(tmp_path).name
    assert main(["show", name[:-3], "--outputs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "over seeds" in said and "temperature=4" in said and said.count("done") == 6
    for command in (f"kdrun plot {name}", f"kdrun report {name}", f"kdrun runs sweep={name}"):
        assert any(line.endswith(command) for line in said.splitlines())
    assert main(["show", name, "--outputs", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["id"] == name and [run["status"] for run in found["runs"]] == ["done"] * 4
    assert main(["show", "nothing-like-it", "--outputs", str(tmp_path)]) == 2
