"""The capacity gap from records made by hand: order, arms, missing values, and what is drawn of them."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")

from kdrun.plots.figures import panels_of, write_figures
from kdrun.plots.hops import hop_panels, read_hops
from kdrun.plots.paper import compose, draw, page
from kdrun.plots.subject import Subject

TEACHERS = {"w64": "a1", "w128": "a2", "teacher": "a3", "taught_w64": "b1", "guided_w64": "c1"}
GAP = {
    "kl_before": 2.0,
    "kl_after": 0.5,
    "train": {"accuracy": 0.9, "loss": 0.1},
    "val": {"accuracy": 0.8, "loss": 0.4},
}


def stage(role, teachers=(), seed=0, gap=None, best=0.7, last=0.6, learner="small"):
    notes = (
        {"fingerprint": TEACHERS[teachers[0]], "also": [{"fingerprint": TEACHERS[t]} for t in teachers[1:]]}
        if teachers
        else None
    )
    return {
        "role": role,
        "label": f"{role}/seed={seed}",
        "seed": seed,
        "learner": learner,
        "fingerprint": TEACHERS.get(role, f"{role}{seed}"),
        "teacher": notes,
        "test": {"best": {"accuracy": best}, "last": {"accuracy": last}},
        **({} if gap is None else {"gap": gap}),
    }


def record(*stages, seeds=(0,), controls=()):
    cast = [
        stage(name, learner={"teacher": "w256", "taught_w64": "w64", "guided_w64": "w64"}.get(name, name))
        for name in TEACHERS
    ]
    arms = {name: {} for name in ("student", *controls)}
    return {"stages": [*cast, *stages], "seeds": list(seeds), "summary": {"metric": "accuracy", "arms": arms}}


def cascade(seeds=(0, 1, 2)):
    """A cascade of three grades with the arms beside it, better by a little for every grade."""
    stages, controls = [], ("alone", "plain_kd", "plain_kd_equal", "reversed", "takd", "dgkd")
    for seed in seeds:
        jitter = 0.01 * seed

        def gap(before, after, apart=0.1, jitter=jitter):
            scores = {"train": {"accuracy": 0.8 + apart + jitter}, "val": {"accuracy": 0.8}}
            return {"kl_before": before + jitter, "kl_after": after - jitter, **scores}

        for number, (role, teacher) in enumerate(
            (("grade1_w64", "w64"), ("grade2_w128", "w128"), ("student", "teacher"))
        ):
            result = 0.6 + 0.05 * number + jitter
            stages.append(stage(role, [teacher], seed, gap(1.2 / (1 + number), 0.4), result, result - 0.01))
        stages.append(stage("plain_kd", ["teacher"], seed, gap(2.2, 0.9, 0.14), 0.62 + jitter, 0.6 + jitter))
        stages.append(stage("plain_kd_equal", ["teacher"], seed, gap(2.2, 0.7, 0.2), 0.64 + jitter, 0.6 + jitter))
        stages.append(stage("reversed_grade1_teacher", ["teacher"], seed, gap(2.2, 0.95), 0.61, 0.6))
        stages.append(stage("reversed_grade2_w128", ["w128"], seed, gap(1.0, 0.6), 0.63, 0.6))
        stages.append(stage("reversed", ["w64"], seed, gap(0.9, 0.5), 0.65, 0.63))
        stages.append(stage("takd", ["taught_w64"], seed, gap(1.6, 0.5), 0.64 + jitter, 0.62))
        stages.append(stage("dgkd", ["teacher", "w128", "guided_w64"], seed, gap(1.8, 0.6), 0.66 + jitter, 0.62))
    return record(*stages, seeds=seeds, controls=controls)


def test_no_hops_where_no_stage_measured_its_gap():
    assert read_hops(record(stage("student", ["teacher"]))) is None
    assert hop_panels(None) == [] and read_hops({}) is None


def test_hops_come_in_the_order_of_the_cascade_with_their_teachers():
    hops = read_hops(cascade())
    assert [(hop.role, hop.teacher) for hop in hops.hops[:3]] == [
        ("grade1_w64", "w64"), ("grade2_w128", "w128"), ("student", "w256"),
    ]  # fmt: skip
    assert hops.teachers == ["w64", "w128", "w256", "taught w64", "3 guided"]
    assert hops.arms == ["student", "plain_kd", "plain_kd_equal", "reversed", "takd", "dgkd"]
    assert {hop.arm for hop in hops.hops if "reversed" in hop.role} == {"reversed"}


def test_the_order_is_that_of_a_descending_run():
    roles = (("grade1_teacher", "teacher"), ("student", "w64"))
    assert read_hops(record(*(stage(role, [name], gap=GAP) for role, name in roles))).teachers == ["w256", "w64"]


def test_values_are_those_of_the_record():
    (hop,) = read_hops(record(stage("student", ["w64", "w128"], gap=GAP))).hops
    assert hop.teacher == "2 at once"
    assert hop.values == {0: {"before": 2.0, "after": 0.5, "best": 0.7, "last": 0.6, "apart": pytest.approx(0.1)}}


def test_an_arm_whose_hop_was_fitted_under_another_role_is_found_by_its_result():
    """direct_junior is the first grade of the cascade, and is fitted once."""
    run = record(stage("grade1_w64", ["w64"], gap=GAP, best=0.61), stage("student", ["teacher"], gap=GAP))
    result = {"best": 0.61, "last": 0.6, "epoch_best": None}
    run["summary"]["arms"]["direct_junior"] = {"seeds": {"0": result}}
    assert read_hops(run).arms == ["student", "direct_junior"]
    assert read_hops(run).hops[-1].teacher == "w64"
    result["best"] = 0.62
    assert read_hops(run).arms == ["student"]
    result.update(best=0.7, last=0.6)
    run["stages"].append(stage("alone"))
    assert read_hops(run).arms == ["student"], "two stages ended so: nobody can tell"


@pytest.mark.parametrize("absent", [None, "nan", "inf", math.nan])
def test_missing_values_are_gaps(absent):
    broken = {**GAP, "kl_before": absent, "val": {"accuracy": absent}}
    hops = read_hops(record(stage("grade1_w64", ["w64"], gap=GAP), stage("student", ["teacher"], gap=broken)))
    assert hops.hops[1].values == {0: {"after": 0.5, "best": 0.7, "last": 0.6}}
    with page():
        distance, _, apart = (draw([panel])[0] for panel in hop_panels(hops))
    drawn = [tuple(line.get_ydata()) for line in apart.axes[0].lines if len(line.get_xdata()) == 1]
    assert drawn == [(pytest.approx(10.0),)], "one point of two, none at 0"
    markers = [line for line in distance.axes[0].lines if len(line.get_xdata()) == 1 and line.get_marker() == "o"]
    assert sorted(float(line.get_ydata()[0]) for line in markers) == [0.5, 0.5, 2.0]
    assert "n/a to 0.5" in hop_panels(hops)[0].alt


def test_a_panel_without_values_is_left_out():
    hops = read_hops(record(stage("student", ["teacher"], gap={"kl_before": 1.0, "kl_after": 0.4})))
    assert [panel.name for panel in hop_panels(hops)] == ["hops_distance", "hops_result"]


def test_train_and_validation_are_compared_by_what_both_have():
    gap = {**GAP, "train": {"token_accuracy": 0.9, "loss": 0.1}, "val": {"token_accuracy": 0.7, "loss": 0.4}}
    assert read_hops(record(stage("student", ["teacher"], gap=gap))).compared == "token_accuracy"
    gap = {**GAP, "train": {"loss": 0.1}}
    hops = read_hops(record(stage("student", ["teacher"], gap=gap)))
    assert hops.hops[0].values[0]["apart"] == pytest.approx(-0.3)
    with page():
        figure, _ = draw([hop_panels(hops)[2]])
    assert figure.axes[0].get_ylabel() == "train − validation loss (nats)"


def test_seeds_that_are_missing_are_counted():
    stages = [stage("student", ["teacher"], seed, GAP) for seed in (0, 2)]
    hops = read_hops(record(*stages, seeds=(0, 1, 2)))
    with page():
        _, legend = draw(hop_panels(hops))
    assert "student (n = 2 of 3)" in legend and "bar: range over seeds" in legend


def test_both_epochs_and_both_ends_are_in_the_legend():
    with page():
        _, legend = draw(hop_panels(read_hops(cascade())))
    names = list(legend)
    assert {
        "before the hop",
        "after it, at the selected epoch",
        "last epoch",
        "student (n = 3)",
        "plain KD (n = 3)",
    } <= set(names)
    looks = {(legend[name].get_color(), legend[name].get_marker()) for name in names if "(n =" in name}
    assert len(looks) == 6, "every arm has a look of its own"


def test_very_different_distances_are_on_a_log_scale_and_others_begin_at_0():
    far = {**GAP, "kl_before": 50.0}
    with page():
        wide = draw([hop_panels(read_hops(record(stage("student", ["teacher"], gap=far))))[0]])[0].axes[0]
        near = draw([hop_panels(read_hops(record(stage("student", ["teacher"], gap=GAP))))[0]])[0].axes[0]
        zero = draw([hop_panels(read_hops(record(stage("student", ["teacher"], gap={**far, "kl_after": 0.0}))))[0]])[
            0
        ].axes[0]
    assert wide.get_yscale() == "log" and "log scale" in wide.get_ylabel()
    assert near.get_yscale() == zero.get_yscale() == "linear" and near.get_ylim()[0] == 0


@pytest.mark.parametrize(("seeds", "prefix"), [((0,), ""), ((0, 1, 2), "llava_smollm2_")])
def test_no_word_leaves_the_page_or_covers_another(seeds, prefix):
    from plots.test_figures import texts

    run = cascade(seeds)
    for entry in run["stages"]:
        entry["learner"] = prefix + entry["learner"]
    with page():
        figure = compose(hop_panels(read_hops(run)))
        found = texts(figure)
    for position, (text, box) in enumerate(found):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        for other, box_of_other in found[position + 1 :]:
            assert not box.padded(-1).overlaps(box_of_other.padded(-1)), (text, other)


def test_kdrun_plot_writes_them_beside_the_others(tmp_path):
    run = SimpleNamespace(id="cascade", dir=tmp_path, record=cascade(), status="done")
    subject = Subject("run", "cascade", tmp_path, [("cascade", run)], run.record)
    assert len(panels_of(subject)["hops"]) == 3
    paths, left_out = write_figures(subject)
    assert {"hops.png", "hops.svg"} <= {path.name for path in paths} and "hops" not in left_out
    first = (tmp_path / "plots/hops.svg").read_bytes()
    write_figures(subject)
    assert (tmp_path / "plots/hops.svg").read_bytes() == first


def test_a_run_without_hops_says_nothing_of_them(tmp_path):
    run = SimpleNamespace(id="plain", dir=tmp_path, record=record(stage("student", ["teacher"])), status="done")
    assert "hops" not in write_figures(Subject("run", "plain", tmp_path, [("plain", run)], run.record))[1]
