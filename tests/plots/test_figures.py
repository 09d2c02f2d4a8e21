"""Figures are drawn, complete, and the same bytes every time."""

import re
from itertools import pairwise

import pytest
from plots.records import make_run, make_sweep

pytest.importorskip("matplotlib")

import matplotlib

from kdrun.plots.curves import curve_panels
from kdrun.plots.data import Group, Trace, pairs_of
from kdrun.plots.figures import panels_of, write_figures
from kdrun.plots.paper import compose, draw, page, short_number, svg
from kdrun.plots.seeds import spread
from kdrun.plots.subject import Subject, find_subject
from kdrun.plots.tasks import task_panels
from kdrun.report.figures import inline


def of(run):
    return Subject("run", run.id, run.dir, [(run.id, run)], run.record)


def texts(figure):
    """What is written on a figure, with the box of each text in pixels; ticks outside of the limits are not drawn."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    figure.draw_without_rendering()
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    shown = {tick.label1 for axis in axes for tick in axis._update_ticks()}
    hidden = {tick.label1 for tick in figure.findobj(Tick)} - shown
    found = figure.findobj(
        lambda a: isinstance(a, Text) and a.get_visible() and a.get_text().strip() and a not in hidden
    )
    return [(text.get_text(), text.get_window_extent()) for text in found]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with three whole seeds whose figures have been written, and the bytes of a second time."""
    run = make_run(tmp_path_factory.mktemp("outputs"))
    before = dict(matplotlib.rcParams)
    paths, left_out = write_figures(of(run))
    assert left_out == {} and dict(matplotlib.rcParams) == before, "no setting is left behind"
    first = {path.name: path.read_bytes() for path in paths}
    write_figures(of(run))
    return run, first, {path.name: path.read_bytes() for path in paths}


@pytest.mark.slow
def test_the_same_bytes_a_second_time(written):
    run, first, second = written
    assert first == second
    assert set(first) == {f"{name}.{kind}" for name in ("curves", "cost", "seeds") for kind in ("png", "svg")}
    assert {path.name for path in (run.dir / "plots").iterdir()} == set(first)


def test_svg_keeps_text_as_text_and_carries_no_date(written):
    content = written[1]["curves.svg"].decode()
    assert ">validation accuracy (%)</text>" in content and "dc:date" not in content
    assert ">band: range over seeds</text>" in content and "epoch selected by validation" in content


def test_the_title_of_seeds_tells_difference_method_and_interval(written):
    content = written[1]["seeds.svg"].decode()
    assert "difference +4.00 points, paired t, n = 3" in content and "95 % interval −6.73 to +14.73" in content
    assert "undecided: could have shown" in content, "three equal pairs"


def test_a_persons_settings_do_not_change_a_figure(tmp_path):
    run = make_run(tmp_path)
    (panel,) = panels_of(of(run))["seeds"]

    def drawn():
        with page():
            return svg(compose([panel]))

    first = drawn()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert drawn() == first


def test_missing_seeds_are_named_in_every_figure(tmp_path):
    write_figures(of(run := make_run(tmp_path, seeds=5, lost={("student", 3): 2, ("alone", 4): 0, ("student", 4): 0})))
    curves, cost, seeds = ((run.dir / f"plots/{name}.svg").read_text() for name in ("curves", "cost", "seeds"))
    assert "distilled, seed 3: diverged" in curves
    assert "(n = 3 of 5)" in cost
    assert seeds.count("seed 3: diverged") == 1 and seeds.count("seed 4: diverged") == 2


@pytest.mark.parametrize("seeds", [1, 5])
def test_no_word_leaves_the_page_or_covers_another(tmp_path, seeds):
    lost = {("student", 4): 2, ("alone", 3): 1, ("student", 3): 1} if seeds == 5 else None
    for panels in panels_of(of(make_run(tmp_path, seeds=seeds, lost=lost))).values():
        with page():
            figure = compose(panels)
            found = texts(figure)
        assert len(found) > 5
        for number, (text, box) in enumerate(found):
            assert box.x0 >= 0 and box.y0 >= 0, text
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
            for other, box_of_other in found[number + 1 :]:
                assert not box.padded(-1).overlaps(box_of_other.padded(-1)), (text, other)


def test_several_runs_lie_beside_the_first_under_names_of_their_own(tmp_path):
    runs = [make_run(tmp_path, f"{n}a" * 32, overrides=[f"t={n}"], shift=n / 100) for n in (1, 2)]
    write_figures(find_subject(tmp_path, [run.id for run in runs]))
    names = sorted(path.name for path in (runs[0].dir / "plots").glob("*.svg"))
    assert len(names) == 3 and all(re.fullmatch(r"(cost|curves|seeds)-2-runs-[0-9a-f]{6}\.svg", name) for name in names)


def test_a_sweep_has_figures_of_its_own(tmp_path):
    points = [([f"t={n}"], make_run(tmp_path, f"{n}a" * 32, shift=n / 100)) for n in (1, 2)]
    folder = make_sweep(tmp_path, [*points, (["t=9"], None)])
    paths, _ = write_figures(find_subject(tmp_path, ["temperature-0badcafe"]))
    assert {path.parent for path in paths} == {folder / "plots"}
    content = (folder / "plots/seeds.svg").read_text()
    assert all(f">t={n} (n = 3)</text>" in content for n in (1, 2))


def test_among_many_runs_validation_chooses_the_one_that_stands_out():
    from kdrun.plots.curves import curve_panels

    groups = [Group("run", f"T={n}", [Trace("student", 0, [0, 1], [0.1, n / 20], selected=1)]) for n in range(12)]
    test = [Group("run", f"T={n}", [Trace("student", 0, [0, 1], [1.0, 0.5], selected=1)]) for n in range(12)]
    with page():
        for panel in curve_panels({"val/accuracy": groups, "train/loss": test}):
            _, legend = draw([panel])
            assert list(legend) == ["best by validation: T=11 (n = 1)", "others"]


def test_small_differences_are_not_blown_up(tmp_path):
    """An axis shows at least four points, and no accuracy above 100."""
    run = make_run(tmp_path, shift=0.0799)
    with page():
        figure, _ = draw(panels_of(of(run))["cost"])
        low, high = figure.axes[0].get_ylim()
    assert high - low >= 4 and high <= 100.5


def test_labels_are_spread_in_order():
    placed = spread([(1.0, "a"), (1.01, "b"), (5.0, "c"), (0.99, "d")], 0.5)
    heights = [height for height, _ in placed]
    assert [label for _, label in placed] == ["d", "a", "b", "c"]
    assert all(b - a >= 0.5 - 1e-9 for a, b in pairwise(heights)) and heights[-1] == 5.0


def test_numbers_on_log_axes_are_short():
    assert [short_number(v) for v in (0.05, 1.0, 20.0, 5e4, 1.5e6, 2e9)] == ["0.05", "1", "20", "50k", "1.5M", "2G"]


def test_pairs_without_a_pair_are_marked(tmp_path):
    from kdrun.plots.seeds import seed_panels

    pairs = pairs_of(make_run(tmp_path))
    broken = pairs.__class__("other", "student alone", "student", {0: (0.5, None)}, [(0, 1, "diverged")])
    with page():
        _, legend = draw(seed_panels([pairs, broken], "accuracy"))
        alone = compose(seed_panels([broken], "accuracy"))
    assert "no pair" in legend and alone.axes[0].get_title(loc="left") == "no seed has both results"


def test_a_run_has_one_colour_in_every_panel_and_in_the_legend(tmp_path):
    """The first run has fewer loss terms: what comes second stays second in the panels of the others."""
    from kdrun.plots.curves import curve_panels
    from kdrun.plots.data import Group, Trace, runs_points
    from kdrun.plots.paper import COLOURS, draw, page

    def group(number, label):
        return Group("run", label, [Trace("student", 0, [0, 1], [0.5, 0.6], 1)], number)

    few, many = group(0, "few"), group(1, "many")
    panels = curve_panels({"val/accuracy": [few, many], "train/loss": [few, many], "train/kd": [many]})
    with page():
        figure, legend = draw(panels)
    assert [legend[name].get_color() for name in ("few (n = 1)", "many (n = 1)")] == list(COLOURS[:2])
    assert {line.get_color() for line in figure.axes[2].get_lines()} == {COLOURS[1]}
    runs = [("a", make_run(tmp_path)), ("b", make_run(tmp_path, "cd" * 32, shift=0.01))]
    assert {point.label: point.number for point in runs_points(runs) if point.own} == {"a": 0, "b": 1}


def test_time_counts_the_teacher_and_equal_costs_have_one_place(tmp_path):
    from kdrun.plots.cost import cost_panels
    from kdrun.plots.data import run_points
    from kdrun.plots.paper import draw, page

    run = make_run(tmp_path, seeds=2)
    teacher = run.record["stages"][0]
    for stage in run.record["stages"]:
        if stage["role"] == "student":
            stage["teacher"] = {"fingerprint": teacher["fingerprint"]}
    points = {point.kind: point for point in run_points(run)}
    assert points["teacher"].costs["seconds"] == 1.0
    assert points["alone"].costs["seconds"] == 1.5 and points["student"].costs["seconds"] == 2.5
    with page():
        figure, _ = draw(cost_panels(list(points.values()), "accuracy"))
    parameters = figure.axes[1]
    drawn = [line.get_xdata()[0] for line in parameters.get_lines() if line.get_marker() in ("D", "o")]
    assert drawn == [4934, 4934]
    del run.record["stages"][0]
    assert "seconds" not in {point.kind: point for point in run_points(run)}["student"].costs, (
        "its teacher is not known"
    )


def test_the_figure_of_seeds_has_the_intervals_of_the_verdict(tmp_path):
    from kdrun.plots.data import pairs_of
    from kdrun.plots.seeds import difference_text

    run = make_run(tmp_path, seeds=3)
    found = run.record["summary"]["differences"]["alone"]["last"]
    found |= {"interval": [-0.02, 0.1], "p_value": 0.1, "p_holm": 0.1, "visible": 0.051}
    text = difference_text(pairs_of(run), "accuracy")
    assert "95 % interval −2.00 to +10.00" in text and "undecided: could have shown 5.10 points" in text


def test_of_many_runs_the_best_by_validation_stands_out_in_the_direction_of_its_metric():
    from kdrun.plots.curves import curve_panels
    from kdrun.plots.data import Group, Trace
    from kdrun.plots.paper import draw, page

    runs = [Group("run", f"r{n}", [Trace("student", 0, [0, 1], [3.0, 2.0 + n], 1)], n) for n in range(10)]
    for better, best in (("min", "r0"), ("max", "r9")):
        with page():
            _, legend = draw(curve_panels({"val/bits_per_byte": runs}, better))
        assert list(legend) == [f"best by validation: {best} (n = 1)", "others"]


def test_a_metric_of_one_epoch_is_no_curve():
    from kdrun.plots.curves import curve_panels
    from kdrun.plots.data import Group, Trace

    assert not curve_panels({"val/accuracy": [Group("student", "student", [Trace("student", 0, [4], [0.9], 4)])]})


def test_numbers_of_a_heat_map_do_not_follow_a_page_into_the_dark():
    """Cells keep their colours, so what stands on them does."""
    one = {
        "matrix": [[0.0, 0.1], [0.97, 0.02], [0.31, 0.88]],
        "rows": ["before", "task 1", "task 2"],
        "columns": ["task 1", "task 2"],
    }
    record = {"summary": {"metric": "accuracy", "arms": {"student": {"label": "replay", "transfer": one}}}}
    with page():
        markup = inline(svg(draw(task_panels(record))[0]).decode(), "plot", "")
    for number in (97, 88, 31):
        style = re.search(rf'<text style="([^"]*)"[^>]*>{number}</text>', markup)[1]
        assert "var(" not in style and "currentColor" not in style
        assert ("#ffffff" in style) == (number > 55)


def test_of_many_stages_the_tasks_of_the_student_stand_out():
    kinds = [*(f"student_task{n}" for n in (1, 2)), *(f"ewc_task{n}" for n in range(9))]
    groups = [Group(kind, kind.replace("_", " "), [Trace(kind, 0, [0, 1], [0.1, 0.2])]) for kind in kinds]
    _, legend = draw(curve_panels({"val/accuracy": groups}))
    assert list(legend) == ["student task1 (n = 1)", "student task2 (n = 1)", "others"]
    assert len({handle.get_color() for handle in legend.values()}) == 3
