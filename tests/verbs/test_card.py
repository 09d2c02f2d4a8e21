"""kdrun card as it is typed: mistakes before torch, one tiny run measured, several runs beside each other."""

import json
import subprocess
import sys

import pytest
from hardware.card.support import card
from plots.records import make_run

from kdrun.cli import main
from kdrun.files import read_json, write_json
from kdrun.hardware.card.cards import flat, keep_cards, read_cards
from kdrun.tracking.registry import find_run

QUICK = (
    "strategy=vanilla",
    "teacher=mlp_64",
    "student=mlp_8",
    "seed=0",
    "trainer.epochs=2",
    "hardware=cpu",
    "tracker=none",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("card") / "outputs"


@pytest.fixture(scope="module")
def run(outputs):
    import kdrun

    return kdrun.run(*QUICK, f"paths.outputs={outputs}")


def typed(outputs, *words):
    return main(["card", *words, "--outputs", str(outputs), "-q"])


# mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hardware=jetson_orin_nono"], "no such target; closest: jetson_orin_nano"),
        (["hardware=jetson_orin_nano", "precision=bf16"], "no peak is published for it"),
        (["precision=int9"], "precision=int9: no such precision; closest: int8"),
        (["precision=bf16", "runtime=onnxruntime"], "format=onnx precision=bf16: not together"),
        (["runtime=onnx"], "runtime=onnx: no such runtime; closest: onnxruntime"),
        (["arms=studnet"], "no such arm; closest: student"),
        (["seed=7"], "has no such seed; it has: 0, 1, 2"),
        (["calls=5"], "calls=5: a whole number, at least 20"),
        (["batch=x"], "batch=x: a whole number, at least 1"),
        (["precison=int8"], "no option 'precison'; closest: precision"),
        (["hardware="], "a value is missing"),
    ],
)
def test_mistakes_are_told_in_a_few_lines(tmp_path, capsys, words, said):
    make_run(tmp_path)
    assert typed(tmp_path, *words) == 2
    assert said in capsys.readouterr().err


def test_a_runtime_that_is_not_installed(tmp_path, capsys, monkeypatch):
    make_run(tmp_path)
    monkeypatch.setattr("kdrun.hardware.card.request.installed_runtimes", lambda: ("torch", "onnxruntime"))
    assert typed(tmp_path, "runtime=executorch") == 2
    assert "pip install executorch" in capsys.readouterr().err


def test_a_run_without_networks(tmp_path, capsys):
    make_run(tmp_path, stages=[])
    assert typed(tmp_path) == 2
    assert "has no trained network to measure" in capsys.readouterr().err


def test_a_run_whose_weights_are_gone(tmp_path, capsys):
    make_run(tmp_path)  # a record without a store
    assert typed(tmp_path) == 2
    assert "kdrun: " in capsys.readouterr().err


def test_mistakes_and_kept_cards_need_no_torch(tmp_path):
    run = make_run(tmp_path)
    other = make_run(tmp_path, "cd" * 32)
    for one in (run, other):
        keep_cards(one.dir, [card()])
    code = (
        "import sys; from kdrun.cli import main; "
        f"assert main(['card', 'hardware=nothing', '--outputs', {str(tmp_path)!r}]) == 2; "
        f"assert main(['card', {run.id!r}, {other.id!r}, '--outputs', {str(tmp_path)!r}]) == 0; "
        "assert not {'torch', 'lightning', 'onnx', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# several runs


def test_runs_side_by_side_from_kept_cards(tmp_path, capsys):
    runs = [make_run(tmp_path, name * 32) for name in ("ab", "cd", "ef")]
    for one, value, p99, drop in zip(runs, (0.95, 0.9, 0.97), (2.0, 3.0, 4.0), (0.0, 0.0, 0.05), strict=True):
        keep_cards(one.dir, [card("teacher"), card("alone"), card(value=value, p99=p99, drop=drop)])
    assert typed(tmp_path, *(one.id for one in runs)) == 0
    said = capsys.readouterr().out
    first, second, third = (next(line for line in said.splitlines() if line.startswith(one.id)) for one in runs)
    assert first.endswith("front") and "95.00" in first and "passed" in first and "n/a" in first
    assert second.endswith(f"dominated by {runs[0].id}")
    assert "FAILED" in third and third.endswith("front"), "marked, whatever its mean"
    assert f"{runs[2].id} FAILS: class 8 is the worst: recall 80.00 %, 5.0 points below" in said
    assert "left out of the front: energy per call is n/a for all of 3" in said
    assert main(["card", *(one.id for one in runs), "--json", "--outputs", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fronts"][0]["front"] == [0, 2] and found["fronts"][0]["dominated_by"] == {"1": 0}
    assert [one["run"] for one in found["cards"]] == [one.id for one in runs]


def test_a_table_is_its_finished_runs(tmp_path, capsys):
    runs = [make_run(tmp_path, name * 32) for name in ("ab", "cd")]
    jobs = [{"run": one.id, "label": f"row {index}", "status": "done"} for index, one in enumerate(runs)]
    write_folder = tmp_path / "tables" / "mine"
    write_folder.mkdir(parents=True)
    write_json(write_folder / "table.json", {"jobs": [*jobs, {"run": None, "label": "row 2", "status": "not run"}]})
    for one, value in zip(runs, (0.9, 0.8), strict=True):
        keep_cards(one.dir, [card(value=value)])
    assert typed(tmp_path, "mine") == 0
    said = capsys.readouterr().out
    assert "row 1" in said and "dominated by row 0" in said and "row 2" not in said


# a real run


def test_a_run_is_measured_on_this_machine_and_estimated_for_another(outputs, run, capsys):
    assert typed(outputs, "hardware=cpu,jetson_orin_nano", "precision=fp32,int8", "calls=50", "critical=8") == 0
    said = capsys.readouterr().out
    cards = read_json(run.path / "card" / "cards.json")
    assert len(cards) == 12
    assert {(one["target"], one["kind"]) for one in cards} == {("cpu", "measured"), ("jetson_orin_nano", "estimate")}
    for one in cards:
        recorded = next(stage for stage in run.stages if stage["role"] == one["arm"])["test"]["best"]["accuracy"]
        assert one["quality"]["torch_value"] == pytest.approx(recorded)
        if one["precision"] == "fp32":
            assert one["quality"]["value"] == pytest.approx(recorded, abs=1e-6), "the exported file is the network"
        assert one["robustness"]["clean"] == pytest.approx(one["quality"]["value"], abs=1e-6)
        assert one["safety"]["critical"]["8"]["false_negative_rate"] is not None
        assert one["export"]["sha256"] and one["memory"]["weights_bytes"] == one["export"]["bytes"]
    student = next(one for one in cards if (one["arm"], one["target"], one["precision"]) == ("student", "cpu", "fp32"))
    worst = next(stage for stage in run.stages if stage["role"] == "student")["test"]["best"]["worst_class"]
    assert student["safety"]["worst_class_recall"] == pytest.approx(worst, abs=1e-6)
    teacher = next(one for one in cards if (one["arm"], one["target"], one["precision"]) == ("teacher", "cpu", "fp32"))
    assert student["quality"]["retention"] == pytest.approx(student["quality"]["value"] / teacher["quality"]["value"])
    assert student["robustness"]["teacher_drop"] == pytest.approx(teacher["robustness"]["drop"])
    assert student["latency"]["calls"] == 50 and student["latency"]["p50_ms"] <= student["latency"]["p99_ms"]
    assert student["memory"]["peak_mb"] > 0 and student["passed"] is False, "two epochs are not enough"
    estimates = said[said.index("jetson_orin_nano") :]
    rows = [line for line in estimates.splitlines() if line.startswith(("latency", "memory, w", "energy"))]
    assert len(rows) == 6
    assert all(cell.endswith("estimate") for line in rows for cell in line[40:].split("  ") if cell.strip())
    assert "student mlp_8 FAILS: class" in said and "on this machine the same model is" in estimates


def test_robustness_is_that_of_the_network_itself(outputs, run):
    """Slowly: the stored network in torch, each test image corrupted by itself, labels counted."""
    import numpy as np
    import torch

    import kdrun
    from kdrun.domains.images.corruptions import corrupted
    from kdrun.domains.load import load_data

    assert typed(outputs, "arms=student", "calls=20", "runtime=torch") == 0
    found = next(one for one in read_cards(run.path) if one["runtime"] == "torch" and one["arm"] == "student")
    module, network = load_data(run.config["data"], run.config["paths"]), kdrun.load(run)
    samples = module.samples("test")
    mean, std = (np.array(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in (module.spec.mean, module.spec.std))
    pixels = samples.inputs(torch.arange(len(samples))).numpy() * std + mean
    for name, level in (("noise", 4), ("contrast", 3)):
        right = 0
        for index in range(len(samples)):
            image = corrupted(name, level, pixels[index : index + 1], samples.ids[index : index + 1].numpy())
            with torch.no_grad():
                right += int(network(torch.from_numpy((image - mean) / std)).argmax()) == int(samples.targets[index])
        assert found["robustness"][name][level] == pytest.approx(right / len(samples), abs=0.003)


def test_a_deadline_that_is_missed_fails_the_student(outputs, run, capsys):
    """The limits of a run's own target are those of its config."""
    from dataclasses import replace

    from kdrun.hardware.card.make import make_cards
    from kdrun.hardware.card.render import tables
    from kdrun.hardware.card.request import read_request

    info = find_run(outputs, run.id)
    request = read_request(["calls=20", "batch=2"], info.record)
    place = replace(request.places[0], deploy={**request.places[0].deploy, "deadline_ms": 1e-6, "memory_mb": 1e-3})
    cards = make_cards(info, replace(request, places=[place], arms=["student"], quick=True))
    assert [one["arm"] for one in cards] == ["student"] and cards[0]["gates"]["deadline"]["passed"] is False
    said = "\n".join(tables(cards))
    assert "over the deadline of 1e-06 ms; nothing on this card meets it" in said and "MB over the cap" in said
    assert cards[0]["throughput"] is None and "throughput: n/a" in said


def test_cards_of_the_same_settings_are_replaced(outputs, run):
    before = len(read_cards(run.path))
    assert typed(outputs, "arms=student", "calls=25") == 0
    cards = read_cards(run.path)
    assert len(cards) == before
    assert (
        next(c for c in cards if c["arm"] == "student" and c["batch"] == 1 and c["runtime"] == "onnxruntime")[
            "latency"
        ]["calls"]
        == 25
    )


def test_the_plot_and_the_page_have_the_cards(outputs, run, capsys):
    pytest.importorskip("matplotlib")
    assert main(["plot", run.id, "kind=card", "--outputs", str(outputs)]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [str(run.path / "plots" / f"card.{ending}") for ending in ("png", "svg")]
    drawn = (run.path / "plots" / "card.svg").read_text()
    assert "fails a gate" in drawn and "estimate" in drawn and "Pareto front" in drawn
    assert main(["report", run.id, "--outputs", str(outputs)]) == 0
    page = (run.path / "report.html").read_text()
    assert "<h2>Scorecard</h2>" in page and "is the worst: recall" in page


# the end of a run


def test_a_run_ends_with_its_card_and_never_fails_for_it(tmp_path, outputs, run, capsys, monkeypatch):
    words = [*QUICK, f"paths.outputs={outputs}", "tags.again=true"]
    assert main(["run", *words]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "card student mlp_8: p99" in said
        and "FAILS the gate worst class: class" in said
        and "(cpu, fp32, ONNX Runtime" in said
    )
    last = find_run(outputs, "last")
    assert {one["arm"] for one in read_cards(last.dir)} == {"teacher", "alone", "student"}
    monkeypatch.setattr("kdrun.hardware.card.make.export", lambda *_: 1 / 0)
    assert main(["run", *words, "tags.third=true"]) == 0
    assert "no card: ZeroDivisionError" in " ".join(capsys.readouterr().out.split())
    assert (
        find_run(outputs, "last").status == "done"
        and "ZeroDivisionError" in (find_run(outputs, "last").dir / "run.log").read_text()
    )
    assert main(["run", *words, "tags.fourth=true", "card=false"]) == 0
    assert " card " not in capsys.readouterr().out and not read_cards(find_run(outputs, "last").dir)


def test_rows_for_trackers():
    found = flat([card("teacher", p99=2.0), card(joules=0.1), card(kind="estimate", target="h100", p99=0.5)])
    assert found["card/local/fp32/p99_ms"] == 1.0 and found["card/local/fp32/teacher/p99_ms"] == 2.0
    assert found["card/local/fp32/accuracy"] == 0.9 and found["card/local/fp32/joules"] == 0.1
    assert found["card/h100/fp32/latency_ms_estimate"] == 0.5 and "card/h100/fp32/p99_ms" not in found
    assert not any(value is None for value in found.values())


def test_a_tracker_has_a_row_for_each_card(tmp_path):
    """Real W&B, offline: the table as it lies on the disk."""
    import wandb

    from kdrun.hardware.card.cards import COLUMNS
    from kdrun.report.push import log_cards

    keep_cards(tmp_path, [card("teacher", p99=2.0), card(joules=0.1), card(kind="estimate", target="h100", p99=0.5)])
    run = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(console="off", silent=True))
    try:
        log_cards(run, tmp_path)
    finally:
        run.finish()
    [file] = tmp_path.glob("wandb/offline-run-*/files/media/table/cards_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table["data"]]
    assert [(row["arm"], row["target"], row["kind"], row["p99_ms"]) for row in rows] == [
        ("student", "h100", "estimate", 0.5), ("teacher", "local", "measured", 2.0), ("student", "local", "measured", 1.0),
    ]  # fmt: skip
    assert rows[0]["joules"] is None and rows[2]["joules"] == 0.1
