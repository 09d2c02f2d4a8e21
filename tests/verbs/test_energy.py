"""kdrun energy on a tiny real run, with and without sensors, stopped and resumed, and on federations."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from kdrun.cli import main

WORDS = (
    "data=digits", "teacher=mlp_64", "student=mlp_8", "trainer.epochs=3", "hardware=cpu", "tracker=none", "card=false",
)  # fmt: skip


def shown(capsys, *words):
    assert main(["energy", *map(str, words)]) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energy") / "outputs"
    assert main(["run", *WORDS, "seeds=2", f"paths.outputs={folder}", "energy.reader=model", "-q"]) == 0
    assert main(["run", *WORDS, "seed=0", "objective.kd.temperature=2", f"paths.outputs={folder}", "-q"]) == 0
    return folder


@pytest.fixture
def record(outputs):
    found = [json.loads(path.read_text()) for path in outputs.glob("runs/*/record.json")]
    return next(one for one in found if one["seeds"] == [0, 1])


def test_phases_of_every_stage_sum_to_its_total(record):
    for stage in record["stages"]:
        energy = stage["cost"]["energy"]
        known = [phase["joules"] for phase in energy["phases"].values() if phase["joules"] is not None]
        assert energy["joules"] == pytest.approx(sum(known)) and energy["joules"] > 0
        seconds = sum(phase["seconds"] for phase in energy["phases"].values())
        assert seconds == pytest.approx(stage["cost"]["seconds"], abs=0.05)
        assert energy["estimate"] is True and energy["method"] == "flops" and energy["waste_joules"] == 0


def test_the_model_by_hand(record):
    """Every pass of the teacher and of the student, at 133 J for 10^12 operations."""
    joule = 133e-12
    train, val, test = 1146, 201, 450
    teacher, student = (next(s for s in record["stages"] if s["role"] == role) for role in ("teacher", "student"))
    big, small = teacher["flops"], student["flops"]
    evaluations = 3 * val + test * (1 + (student["val"]["epoch_best"] != 2))
    phases = {name: phase["joules"] for name, phase in student["cost"]["energy"]["phases"].items()}
    assert phases["train"] == pytest.approx(joule * 3 * small * 3 * train, rel=1e-4)
    assert phases["teacher"] == pytest.approx(joule * big * (val + train + 16), rel=1e-4)  # checked, cached, verified
    assert phases["evaluate"] == pytest.approx(joule * small * evaluations, rel=1e-4)
    assert student["teacher"]["cache"]["joules"] == pytest.approx(joule * big * train)


def test_the_page_of_a_run(outputs, record, capsys, monkeypatch):
    for width in ("80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        page = shown(capsys, record["id"], "--outputs", outputs, "pue=1.5", "serving=0.9,0.1")
        for text in (
            "teacher training", "teacher inference", "student alone", "evaluation", "* estimate", "flops (model), estimate",
            "kWh x PUE 1.5 x 0.4 kg/kWh", "shared by 3 students", "break-even reuse", "given), estimate", "on the front",
            "sample",
        ):  # fmt: skip
            assert text in page, text


def test_json(outputs, record, capsys):
    main(["energy", record["id"], "--outputs", str(outputs), "--json"])
    found = json.loads(capsys.readouterr().out)
    joules = sum(stage["cost"]["energy"]["joules"] for stage in record["stages"])
    assert found["sum"]["joules"] == pytest.approx(joules) == pytest.approx(found["views"]["alone"]["joules"])
    assert sum(row["joules"] for row in found["stages"]) == pytest.approx(joules)
    assert found["views"]["alone"]["co2e_kg"] == pytest.approx(joules / 3.6e6 * 1.2 * 0.4)
    assert found["views"]["amortised"]["students"] == 3 and found["views"]["alone"]["kind"] == "estimate"


def test_show_and_panel_name_it_as_an_estimate(outputs, record, capsys):
    main(["show", record["id"], "--outputs", str(outputs)])
    page = " ".join(capsys.readouterr().out.split())
    assert "J, estimate" in page and f"kdrun energy {record['id']}" in page


def test_a_table_of_these_runs(outputs, capsys):
    runs = {path.parent.name: json.loads(path.read_text()) for path in outputs.glob("runs/*/record.json")}
    folder = outputs / "tables" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [{"label": f"row {number}", "run": run} for number, run in enumerate(runs)]
    (folder / "table.json").write_text(json.dumps({"jobs": jobs}))
    page = shown(capsys, "mine", "--outputs", outputs)
    assert "row 0" in page and "row 1" in page and "all stages once" in page and "best on validation" in page
    main(["energy", "mine", "--outputs", str(outputs), "--json"])
    found = json.loads(capsys.readouterr().out)
    stages = {s["fingerprint"]: s["cost"]["energy"]["joules"] for run in runs.values() for s in run["stages"]}
    assert found["all"]["joules"] == pytest.approx(sum(stages.values()))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["puee=3"], "closest: pue"),
        (["pue=0.5"], "1 or more"),
        (["grid=-1"], "above 0"),
        (["grid=nan"], "above 0"),
        (["serving=0.9"], "serving=0.9,0.1"),
        (["one", "two"], "one run, sweep or table"),
        (["nothing-like-it"], "no run 'nothing-like-it'"),
    ],
)
def test_mistakes(outputs, capsys, words, text):
    assert main(["energy", *words, "--outputs", str(outputs)]) == 2
    assert text in capsys.readouterr().err


def test_a_run_without_energy_is_told_as_not_known(tmp_path, capsys):
    words = [word for word in WORDS if not word.startswith("teacher=")]
    assert (
        main(["run", *words, "strategy=alone", "seed=0", f"paths.outputs={tmp_path}", "energy.reader=none", "-q"]) == 0
    )
    (path,) = tmp_path.glob("runs/*/record.json")
    assert json.loads(path.read_text())["stages"][0]["cost"]["energy"] is None
    page = shown(capsys, "--outputs", tmp_path)
    assert "not known" in page and "with all it needs n/a" in page and "0 J" not in page


def test_reading_records_imports_no_torch(outputs):
    code = (
        f"import sys; from kdrun.cli import main; main(['energy', '--outputs', {str(outputs)!r}]); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    assert not names & {"torch", "lightning", "hydra", "codecarbon", "pynvml", "matplotlib"}


# with sensors


class Ticking:
    """A joule more with every look."""

    method, machine_wide, estimate, covers, devices = "rapl", True, False, ("cpu",), ["package-0"]

    def __init__(self):
        self.joules = 0.0

    def read(self):
        self.joules += 1.0
        return self.joules

    def close(self):
        pass


SETTINGS = {"reader": "auto", "interval": 0.01, "idle": 0.0}


def metered(lab, folder):
    from kdrun.ledger.meter import Meter, Presence
    from kdrun.ledger.reader import Metering

    lab.energy = SETTINGS
    lab.workshop.metering = Metering(Meter([Ticking()], 0.01, presence=Presence(folder / "presence")))
    return lab


def check(record):
    energy = record["cost"]["energy"]
    assert energy["joules"] == pytest.approx(sum(phase["joules"] for phase in energy["phases"].values()))
    assert all(phase["joules"] > 0 and phase["seconds"] >= 0 for phase in energy["phases"].values())
    return energy


def test_a_stage_with_a_sensor(tmp_path):
    from learning.stages import make_lab, teach

    trained = teach(metered(make_lab(tmp_path / "store"), tmp_path))
    energy = check(trained.record)
    assert energy["method"] == "rapl" and energy["coverage"] == "cpu only" and energy["estimate"] is False
    assert set(energy["phases"]) == {"prepare", "teacher", "train", "evaluate"} and energy["waste_joules"] == 0
    assert trained.record["teacher"]["cache"]["joules"] > 0


def test_stopped_and_resumed_the_sums_go_on_and_lost_work_is_waste(tmp_path):
    from learning.stages import Silent, cell, make_lab

    from kdrun.learning.report import Interrupted
    from kdrun.strategies.cast import Cast, supervised

    stage = supervised(Cast(cell("trainer.checkpoint_seconds=0")).student)

    class Crashing(Silent):
        """Dies by an exception, a few steps after the last checkpoint."""

        def stop_requested(self):
            self.asked += 1
            if self.asked == 6:
                raise RuntimeError("out of luck")
            return False

    with pytest.raises(Interrupted):
        metered(make_lab(tmp_path / "store", Silent(3)), tmp_path).get(stage)
    (side,) = (tmp_path / "store" / "unfinished").glob("*/energy.json")
    spent = json.loads(side.read_text())
    assert spent["tries"] == 1 and spent["joules"]["rapl"] > 0
    with pytest.raises(RuntimeError, match="luck"):
        metered(make_lab(tmp_path / "store", Crashing()), tmp_path).get(stage)
    both = json.loads(side.read_text())
    assert both["tries"] == 2 and both["joules"]["rapl"] > spent["joules"]["rapl"]
    done = metered(make_lab(tmp_path / "store"), tmp_path).get(stage)
    energy = check(done.record)
    assert done.record["cost"]["tries"] == 3
    assert 0 < energy["waste_joules"] < both["joules"]["rapl"]
    assert energy["joules"] + energy["waste_joules"] > both["joules"]["rapl"]
    assert not list((tmp_path / "presence").iterdir())


@pytest.mark.parametrize("sensor", [True, False], ids=["sensor", "model"])
def test_clients_of_a_federation_and_the_server_sum_to_the_stage(tmp_path, sensor):
    from federation.plays import Silent, request, workshop

    from kdrun.federation.start import run_federation
    from kdrun.learning.report import Interrupted
    from kdrun.ledger.meter import Meter, Presence
    from kdrun.ledger.reader import Metering

    def played(report):
        place = workshop(tmp_path / "cache")
        if sensor:
            place.metering = Metering(Meter([Ticking()], 0.01, presence=Presence(tmp_path / "presence")))
        asked = request(tmp_path / "work", "energy_gated", trainer={"checkpoint_seconds": 0})
        return run_federation(replace(asked, energy=SETTINGS | {"reader": "model"}), report, place)

    with pytest.raises(Interrupted):
        played(Silent(stop_at=4))
    outcome = played(Silent())
    energy, clients = outcome["cost"]["energy"], outcome["clients"]
    parts = [client["energy"]["joules"] for client in clients]
    assert all(part > 0 for part in parts) and energy["server"]["joules"] >= 0
    assert sum(parts) + energy["server"]["joules"] == pytest.approx(energy["joules"])
    assert energy["estimate"] is not sensor and outcome["cost"]["tries"] == 2
    for client in clients:
        assert client["energy"]["phases"]["train"]["seconds"] == pytest.approx(client["seconds"], abs=0.05)
        assert client["energy"]["phases"]["evaluate"]["seconds"] > 0
