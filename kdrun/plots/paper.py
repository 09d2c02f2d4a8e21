"""From panels to a page: matplotlib's Figure objects on the Agg and SVG canvases, no pyplot and no global state kept.

A figure is a list of panels; a panel fills one Axes. `compose` puts panels on a page: side by side in a double column
for a file, one at a time for a web page. Colours are those of Okabe and Ito, told apart with any colour vision; line
styles and markers tell the same in black and white.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kdrun.files import write_atomic
from kdrun.measures import MEASURES
from kdrun.plots.data import FRACTIONS
from kdrun.present.escape import CONTROLS
from kdrun.present.units import PREFIXES, scaled

COLUMN, DOUBLE = 3.5, 7.0
"""Widths in inches of one and of two columns of a paper."""

LETTER = 0.05
"""Inches that a letter of a legend is wide, about."""

INK, FAINT, PAPER = "#1a1a1b", "#8c8c8d", "#fefefe"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
MARKERS = "osD^vP"
MOST_COLOURED = 8
"""Runs that can be told apart by colour; of more, one stands out and the others are grey."""

KINDS: dict[str, tuple[str, Any, str]] = {
    "teacher": (INK, (0, (4, 1.5)), "s"),
    "student": (COLOURS[0], "-", "o"),
    "alone": (COLOURS[1], (0, (6, 1.2, 1.2, 1.2)), "D"),
    "plain_kd": (COLOURS[2], (0, (1.2, 1.2)), "^"),
    "equal_compute": (COLOURS[3], (0, (3, 1, 1, 1)), "v"),
    "worst_teacher": (COLOURS[5], (0, (2, 1)), "<"),
    "self_teacher": (COLOURS[4], (0, (5, 2)), ">"),
    "logit_kd": (COLOURS[2], (0, (1.2, 1.2)), "^"),
    "late_fusion": (INK, (0, (1, 1)), "P"),
    "beside": (FAINT, "-", "D"),
}
"""Kind -> (colour, line style, marker), the same in every figure."""

STEPS = [1, 2, 5, 10]
"""Ticks are multiples of these."""

PAGE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "kdrun",
}


@dataclass(frozen=True)
class Panel:
    """One plot.

    name    part of a file name
    alt     what it shows, in words
    draw    fills the Axes and returns the entries of its legend: text -> handle
    height, width   in inches, without the legend
    """

    name: str
    alt: str
    draw: Callable[[Axes], dict[str, Any]]
    height: float = 2.3
    width: float = COLUMN


@contextlib.contextmanager
def page() -> Iterator[None]:
    """Our settings and no others (a person's matplotlibrc must not change a figure), taken back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(PAGE)
        yield


def compose(panels: Sequence[Panel]) -> Figure:
    """Panels and, above them, what their lines and marks mean. Call it inside `page`."""
    figure, legend = draw(panels)
    if legend:
        _add_legend(figure, legend)
    return figure


def draw(panels: Sequence[Panel]) -> tuple[Figure, dict[str, Any]]:
    """(figure without a legend, entries of the legend): two abreast on a double column, three where there are three."""
    columns = len(panels) if len(panels) <= 3 else 2
    rows = math.ceil(len(panels) / columns)
    width = panels[0].width if columns == 1 else DOUBLE
    height = (0.9 if columns == 3 else 1.0) * rows * max(panel.height for panel in panels)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, wspace=0.03, hspace=0.04)
    axes = figure.subplots(rows, columns, squeeze=False).flat[:]
    legend: dict[str, Any] = {}
    for panel, ax in zip(panels, axes, strict=False):
        legend |= panel.draw(ax)
    labels = [ax.get_ylabel() for ax in axes]
    for index, ax in enumerate(axes):
        if index >= len(panels):
            ax.remove()
        elif index % columns and labels[index] == labels[index - 1]:
            ax.set_ylabel("")  # said once per row
    figure.align_xlabels()
    return figure, legend


def _add_legend(figure: Figure, legend: dict[str, Any]) -> None:
    """Above the panels, in as many columns as fit, on room of its own."""
    width, height = figure.get_size_inches()
    room = width - 0.1
    names = [fill(name, int((room - 0.5) / LETTER)) for name in legend]
    columns = max(1, min(len(names), int(room / (max(map(len, names)) * LETTER + 0.5))))
    lines = sum(name.count("\n") + 1 for name in names) / columns
    figure.set_size_inches(width, height + 0.16 * math.ceil(lines))
    figure.legend(legend.values(), names, loc="outside upper left", ncols=columns, borderaxespad=0.8)


def png(figure: Figure) -> bytes:
    """200 dpi, the same bytes for the same figure."""
    return _save(figure, "png", dpi=200)


def svg(figure: Figure) -> bytes:
    """Text stays text; no date, ids that depend on the content alone."""
    return _save(figure, "svg", metadata={"Date": None})


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    """The layout, which is most of the work, is found once per figure and is the same in every file."""
    for text in figure.findobj(Text):  # what no font has and no SVG file may hold
        text.set_text(text.get_text().translate(CONTROLS))
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


# what panels share


def style(kind: str, index: int) -> tuple[str, Any, str]:
    """(colour, line style, marker) of a kind of stage, or of the run of this number."""
    if kind in KINDS:
        return KINDS[kind]
    again = index // len(COLOURS)  # the same colour has another line and another marker
    marker = MARKERS[(index + 2 * again) % len(MARKERS)]
    return COLOURS[index % len(COLOURS)], DASHES[again % len(DASHES)], marker


def mark(marker: str, colour: str, **more: Any) -> Line2D:
    """A marker for a legend."""
    return Line2D([], [], color=colour, marker=marker, linestyle="", **more)


def number_mark(number: int, **more: Any) -> Line2D:
    """A number as a marker; markers of text are always mathtext."""
    with matplotlib.rc_context({"text.parse_math": True}):
        return mark(f"${number}$", INK, markersize=4.5 + 2 * (number > 9), markeredgewidth=0, **more)


def scale_of(metric: str) -> float:
    """100 for fractions, which are read in percent, else 1."""
    return 100 if metric.rpartition("/")[2] in FRACTIONS else 1


def axis_name(metric: str) -> str:
    """`test accuracy (%)`"""
    return f"test {metric_label(metric)}{' (%)' if scale_of(metric) == 100 else ''}"


def metric_label(metric: str) -> str:
    """`accuracy`, `AUC`: as people call it."""
    return MEASURES[metric].label if metric in MEASURES else metric.replace("_", " ")


def log_axis(axis: Axis, values: Sequence[float]) -> None:
    """A log scale whose ticks are numbers that people write, at least three of them."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    close = max(values) / min(values) < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def cost_axis(ax: Axes, name: str, values: Sequence[float], room: float = 1.6) -> None:
    """An x axis of a cost: log from a factor of five on; a linear one begins at 0, for cost is a ratio scale."""
    ax.set_xlabel(name)
    if max(values) / min(values) >= 5:
        log_axis(ax.xaxis, values)
        ax.set_xlim(min(values) / 1.6, max(values) * room)
    else:
        ax.set_xlim(0, max(values) * (1 + (room - 1) / 5))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def front_line(ax: Axes, steps: Sequence[tuple[float, float]]) -> dict[str, Line2D]:
    """Draws a Pareto front as stairs; the entry of the legend."""
    ax.step(*zip(*steps, strict=True), where="post", color=FAINT, linewidth=0.8, zorder=1)
    return {"Pareto front": Line2D([], [], color=FAINT, linewidth=0.8)}


def metric_axis(ax: Axes, metric: str) -> None:
    """The y axis of a test metric."""
    ax.set_ylabel(axis_name(metric))
    if scale_of(metric) == 100:
        percent_limits(ax)
    quiet_grid(ax)


def save(panels: Sequence[Panel], folder: Path, name: str) -> list[Path]:
    """Writes NAME.png and NAME.svg of a figure into a folder and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with page():
        figure = compose(panels)
        for path, content in zip(paths, (png(figure), svg(figure)), strict=True):
            write_atomic(path, content)
    return paths


def short_number(value: float) -> str:
    """`0.05`, `20`, `50k`, `1.5M`"""
    return "{:g}{}".format(*scaled(value, PREFIXES[2:]))


def percent_limits(ax: Axes) -> None:
    """At least four points high, so that noise does not look like an effect, and never beyond 0..100."""
    low, high = ax.get_ylim()
    more = max(0.0, 4.0 - (high - low)) / 2
    ax.set_ylim(max(low - more, -0.5), min(high + more, 100.5))


def quiet_grid(ax: Axes, axis: str = "y") -> None:
    """Lines to read values by, behind everything."""
    ax.grid(axis=axis, color=FAINT, alpha=0.25, linewidth=0.5)
    ax.set_axisbelow(True)
