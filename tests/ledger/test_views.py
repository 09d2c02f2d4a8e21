"""The published table of arXiv 2605.13981 from its stage sums, and views of records written by hand."""

from __future__ import annotations

import math

import pytest

from kdrun.accounting.formulas import (
    Amount,
    amount,
    break_even,
    co2e,
    dominated,
    kwh,
    total,
)
from kdrun.accounting.stages import Library, item_of
from kdrun.accounting.text import energy_text, si
from kdrun.accounting.views import EnergyOptions, chosen, of_run, of_runs

KWH = 3.6e6
STAGES = {  # kWh: data, teacher, student, evaluation; the total that is printed
    "sft 1B": (0.37, 0.0, 6.30, 0.33, 7.00),
    "sft 13B": (0.37, 0.0, 33.15, 1.08, 34.60),
    "kd 1B": (0.37, 11.00, 5.20, 0.33, 16.90),
    "kd 13B": (0.37, 11.00, 30.05, 1.08, 42.50),
    "synthetic 13B": (0.37, 10.60, 28.65, 1.08, 40.70),
}
SYNTHETIC_1B = 5.35
TOKENS = 30e6


def test_the_published_table():
    for name, (*parts, printed) in STAGES.items():
        assert total(amount(KWH * part, False) for part in parts).joules == pytest.approx(KWH * printed), name
    student = {name: KWH * parts[2] for name, parts in STAGES.items()}
    found = [
        break_even(KWH * 11.00, student["sft 1B"], student["kd 1B"]),
        break_even(KWH * 11.00, student["sft 13B"], student["kd 13B"]),
        break_even(KWH * 10.60, student["sft 1B"], KWH * SYNTHETIC_1B),
        break_even(KWH * 10.60, student["sft 13B"], student["synthetic 13B"]),
    ]
    assert [round(value, 1) for value in found] == [10.0, 3.5, 11.2, 2.4]
    assert round(STAGES["kd 1B"][-1] / STAGES["sft 1B"][-1], 1) == 2.4
    per_token = {"sft 1B": 0.84, "sft 13B": 4.15, "kd 1B": 2.03, "kd 13B": 5.10, "synthetic 13B": 4.88}
    for name, printed in per_token.items():
        assert KWH * STAGES[name][-1] / TOKENS == pytest.approx(printed, abs=0.006), name


def test_single_use_is_dominated_as_published():
    points = {"sft 13B": (34.60, 0.99), "kd 13B": (42.50, 0.82), "synthetic 13B": (40.70, 0.85), "sft 1B": (7.00, 0.69)}
    assert dominated(points) == {"kd 13B": "sft 13B", "synthetic 13B": "sft 13B"}


def test_at_the_break_even_both_cost_the_same_and_after_it_distillation_less():
    teacher, alone, distilled = 11.0, 6.3, 5.2
    n = break_even(teacher, alone, distilled)
    assert teacher / n + distilled == pytest.approx(alone)
    assert teacher / (n + 1) + distilled < alone < teacher / (n - 1) + distilled


def test_never_and_not_known():
    function = break_even
    assert math.isinf(function(1.0, 2.0, 2.0)) and math.isinf(function(1.0, 2.0, 3.0))
    assert function(None, 2.0, 1.0) is None and function(1.0, None, 1.0) is None and function(1.0, 2.0, None) is None
    assert function(6.0, 3.0, 1.0) == 3.0


def test_carbon():
    assert kwh(KWH) == 1.0 and co2e(10 * KWH) == pytest.approx(10 * 1.2 * 0.4)
    assert co2e(KWH, pue=1.0, grid=0.05) == 0.05 and co2e(None) is None and kwh(None) is None


def test_measured_and_estimated_are_not_added_silently():
    measured, estimated = amount(1.0, False), amount(2.0, True)
    assert (measured + measured).word == "" and (estimated + estimated).word == "estimate"
    assert (measured + estimated).word == "partly estimate" and (measured + estimated).joules == 3.0
    assert (measured + amount(None, None)).joules is None and (measured + Amount(None)).word == ""
    assert energy_text(measured + estimated).endswith(", partly estimate") and energy_text(Amount(None)) == "n/a"


def test_numbers_for_people():
    assert [si(value, "J") for value in (0.0143, 1234.0, 0.99999, 5e9, 12.34, None)] == [
        "14.3 mJ", "1.23 kJ", "1.00 J", "5.00 GJ", "12.3 J", "n/a",
    ]  # fmt: skip


def test_front_against_every_pair():
    points = {"a": (1.0, 0.5), "b": (2.0, 0.9), "c": (2.0, 0.4), "d": (3.0, 0.9), "e": (None, 1.0), "f": (1.0, 0.5)}
    found = dominated(points)
    for name, (energy, quality) in points.items():
        slow = any(
            None not in (e, q, energy, quality) and e <= energy and q >= quality and (e, q) != (energy, quality)
            for e, q in points.values()
        )
        assert (name in found) == slow, name
    assert dominated({"x": (1.0, 0.2), "y": (2.0, 0.3)}, "min") == {"y": "x"}  # of a loss the smaller one


def stage(fingerprint, role, joules, *, seed=0, teacher=None, estimate=False, source="trained", test=0.5, **changes):
    """joules: prepare, teacher, train, evaluate."""
    names = ("prepare", "teacher", "train", "evaluate")
    phases = {n: {"joules": j, "seconds": 1.0} for n, j in zip(names, joules, strict=True)} if joules else {}
    energy = {
        "joules": sum(joules or ()),
        "waste_joules": 0.0,
        "phases": phases,
        "method": "rapl",
        "estimate": estimate,
    }
    energy |= {"coverage": "cpu only", "shared": False}
    flops = changes.pop("flops", {"student": 100, "teacher": 0, "total": 100})
    return {
        "label": f"{role}/seed={seed}", "role": role, "learner": role, "fingerprint": fingerprint, "seed": seed,
        "source": source, "teacher": teacher, "val": {"best": {"accuracy": test}}, "test": {"best": {"accuracy": test}},
        "cost": {"seconds": 4.0, "samples": 1000, "tokens": None, "flops": flops, "energy": energy if joules else None},
        **changes,
    }  # fmt: skip


def told(teacher="T", key="K", joules=11.0, found=False, **changes):
    cache = {"key": key, "joules": joules, "seconds": 1.0, "estimate": False, "samples": 40}
    notes = {"fingerprint": teacher, "source": "cached", "flops": 2, "samples": 10, "verified": 0, "cache": cache}
    return notes | ({"found": True} if found else {}) | changes


def record(*stages, **changes):
    roles = dict.fromkeys(s["role"] for s in stages if s["role"] != "teacher")
    arms = {role: {"label": role} for role in roles}
    return {"id": "run", "stages": list(stages), "summary": {"metric": "accuracy", "arms": arms}, **changes}


TEACHER = stage("T", "teacher", (1.0, 0.0, 90.0, 9.0), test=0.9)
BUILDER = stage(
    "S0", "student", (1.0, 12.0, 52.0, 5.0), teacher=told(), flops={"student": 100, "teacher": 100}, test=0.8
)
READER = stage("S1", "student", (1.0, 1.0, 52.0, 5.0), seed=1, teacher=told(found=True), test=0.8)
ALONE = stage("A0", "alone", (1.0, 0.0, 62.0, 5.0), test=0.7)


def view(run, *others, options=None, sweeps=None, cards=()):
    return of_run(run, Library([run, *others]), options or EnergyOptions(), sweeps or {}, cards)


def test_rows_are_disjoint_and_sum_to_all_stages():
    run = record(TEACHER, BUILDER, READER, ALONE)
    found = view(run)
    rows = {row.name: row.energy.joules for row in found.rows}
    assert rows == {
        "data and features": 4.0,
        "teacher training": 90.0,
        "teacher inference": 13.0,
        "student": 104.0,
        "alone": 62.0,
        "evaluation": 24.0,
    }
    assert sum(rows.values()) == sum(s["cost"]["energy"]["joules"] for s in run["stages"]) == found.alone.joules
    assert found.per_unit["student"] == 104.0 / 2000


def test_views_of_a_run():
    found = view(record(TEACHER, BUILDER, {**READER, "source": "store"}, ALONE))
    assert found.here.joules == 100 + 70 + 68
    # One student from nothing: teacher 100, outputs 11, and 59 of its own (the builder's 12 held the outputs).
    assert found.single.joules == pytest.approx((100 + 70 + 100 + 11 + 59) / 2)
    # Amortised: teacher and outputs halved.
    assert found.amortised.joules == pytest.approx(((50 + 59 + 5.5) + (50 + 59 + 5.5)) / 2) and found.students == 2
    assert found.reuse["outputs"] == pytest.approx(11.0 / (68.0 - 59.0))
    assert found.reuse["outputs and training"] == pytest.approx(111.0 / (68.0 - 59.0))
    assert [arm.name for arm in found.arms] == ["teacher teacher", "student", "alone"]
    assert found.beaten == {"student": "teacher teacher"}


def test_students_of_other_runs_share_the_teacher_and_the_outputs():
    other = record(TEACHER, stage("S2", "student", (1.0, 1.0, 30.0, 1.0), seed=2, teacher=told(found=True)), id="other")
    found = view(record(TEACHER, BUILDER), other)
    assert found.students == 2 and found.amortised.joules == pytest.approx(59 + 11 / 2 + 100 / 2)


def test_outputs_that_another_run_built_are_part_of_what_it_costs_from_nothing():
    found = view(record(TEACHER, READER))
    assert found.alone.joules == 100 + 59 + 11 and found.here.joules == 159


def test_a_chain_of_teachers_is_amortised_link_by_link():
    assistant = stage("M", "assistant", (0.0, 0.0, 40.0, 0.0), teacher={"fingerprint": "T", "source": "online"})
    students = [
        stage(f"S{n}", "student", (0.0, 0.0, 10.0, 0.0), seed=n, teacher={"fingerprint": "M", "source": "online"})
        for n in range(4)
    ]
    found = view(record(TEACHER, assistant, *students))
    assert found.amortised.joules == pytest.approx(10 + (40 + 100) / 4)
    assert found.single.joules == 150 and found.alone.joules == 180


def test_a_stage_that_goes_on_from_weights_needs_what_made_them():
    before = stage("B", "before", (0.0, 0.0, 20.0, 0.0))
    after = stage("S", "student", (0.0, 0.0, 5.0, 0.0), start="B")
    assert view(record(before, after)).single.joules == 25


def test_an_online_teachers_part_of_training_is_an_estimate():
    teaching = {"fingerprint": "T", "source": "online", "flops": 2, "samples": 10}
    student = stage("S", "student", (0.0, 1.0, 60.0, 0.0), teacher=teaching, flops={"student": 100, "teacher": 220})
    rows = {row.name: row.energy for row in view(record(TEACHER, student)).rows}
    assert rows["teacher inference"].joules == pytest.approx(1 + 60 * 200 / 300)
    assert rows["teacher inference"].word == "partly estimate"
    assert rows["student"].joules == pytest.approx(60 * 100 / 300)
    silent = item_of(
        stage("S", "student", (0.0, 1.0, 60.0, 0.0), teacher=teaching, flops={"student": 100, "teacher": 20})
    )
    assert silent.online.joules == 0  # a teacher that no step asked costs nothing there


def test_measured_and_estimated_stages_are_told_apart():
    student = stage("S0", "student", (1.0, 12.0, 52.0, 5.0), teacher=told(), estimate=True)
    found = view(record(TEACHER, student))
    assert found.alone.word == "partly estimate" and found.how == ["rapl (cpu only)", "rapl (cpu only), estimate"]


def test_what_is_not_known_stays_so():
    unknown = stage("S0", "student", None, teacher=told())
    found = view(record(TEACHER, unknown, ALONE))
    assert found.alone.joules is None and found.single.joules is None and found.reuse["outputs"] is None
    assert next(row for row in found.rows if row.name == "not known").count == 1
    assert "not measured" in found.how


def test_stages_taken_together_train_nothing():
    together = stage("G", "student", None, seed=0, members={"bone": "S0", "lung": "S1"})
    found = view(record(TEACHER, {**BUILDER, "role": "after"}, {**READER, "role": "after"}, together))
    assert found.single.joules == pytest.approx(100 + 70 + 59)


def test_with_its_sweep_all_points_are_charged():
    one, two = record(TEACHER, BUILDER), record(TEACHER, READER, id="two")
    found = view(one, two, sweeps={"sweep": Library([one, two])})
    assert found.sweeps["sweep"].joules == 100 + 70 + 59


def test_break_even_from_options_and_from_cards():
    run = record(TEACHER, BUILDER, ALONE)
    extra = 70.0
    assert view(run).serving["inferences"] is None
    assert view(run, options=EnergyOptions(serving=(0.9, 0.2))).serving["inferences"] == pytest.approx(extra / 0.7)
    where = {"target": "local", "precision": "fp32", "batch": 1}
    cards = [
        {**where, "arm": "student", "energy": {"joules": 0.1, "estimate": True}},
        {**where, "precision": "int8", "arm": "teacher", "energy": {"joules": 0.2, "estimate": True}},
        {**where, "arm": "alone", "energy": None},
        {**where, "arm": "teacher", "energy": {"joules": 0.6, "estimate": True}},
    ]
    found = view(run, cards=cards).serving
    assert found["inferences"] == pytest.approx(extra / 0.5) and found["estimate"] and "fp32" in found["source"]
    assert view(record(ALONE)).serving is None  # nothing was distilled


def test_runs_of_a_table():
    good, bad = record(TEACHER, BUILDER), record(stage("A1", "alone", (0, 0, 300.0, 0), test=0.6), id="bad")
    arms, beaten, metric = of_runs({"good": good, "bad": bad}, Library([good, bad]))
    assert metric == "accuracy" and beaten == {"bad": "good"} and arms[0].single.joules == 170
    assert chosen({"good": good, "bad": bad}) == "good"
    assert chosen({"empty": record()}) is None


def test_records_of_the_time_before_energy():
    old = stage("S0", "student", None, teacher={"fingerprint": "T"})
    del old["cost"]["energy"]
    assert item_of(old).total.joules is None


def test_columns_of_a_table_with_their_footnote():
    from kdrun.tables.build import footnotes, make_cells
    from kdrun.tables.checks import RecordedJob
    from kdrun.tables.render import number_text

    run = record(
        TEACHER, stage("S0", "student", (1.0, 12.0, 52.0, 5.0), teacher=told(), estimate=True), seeds=[0], status="done"
    )
    run |= {"job_hash": "ab" * 32}
    run["summary"]["arms"]["student"] |= {"n": 1, "of": 1, "seeds": {"0": {"best": 0.5, "last": 0.5}}}
    columns = [
        {"id": name, "arm": "student", "metric": name, "bold": False} for name in ("joules", "energy_with_teacher")
    ]
    rows = [{"id": "r", "label": "R"}]
    cells = make_cells(rows, columns, [RecordedJob("r", ["joules", "energy_with_teacher"], "R", run)], [0], {}, "")
    notes = footnotes(rows, cells)
    assert [cell["values"]["measured"]["mean"] for cell in cells] == [70.0, 170.0]
    assert [note["text"] for note in notes] == ["energy: estimate", "energy: partly estimate"]
    assert [cell["marks"] for cell in cells] == [["a"], ["b"]]
    assert number_text(170.0, "joules") == "170" and number_text(0.00123456, "joules") == "0.001235"
