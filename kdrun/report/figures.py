"""Plots inside a page: SVG elements whose colours are the page's variables, so that they follow light, dark and paper."""

from __future__ import annotations

import re
from typing import Any

from kdrun.plots.figures import have_matplotlib, panels_of
from kdrun.plots.subject import Subject
from kdrun.report.markup import Html, tag

FONT = re.compile(r"'DejaVu Sans'[^;\"]*")
VARIABLES = ("blue", "orange", "green", "pink", "sky", "red")
CAPTIONS = {
    "curves": "Means and ranges over seeds; one or two seeds are lines of their own. Epochs are numbered from 0.",
    "cost": "Test result of the epoch that a run is judged by. Training time is that of a network and of all teachers that it needs.",
    "hops": "Mean divergence from the teacher of each hop before and after it, in nats per position of validation; accuracy "
    "on test after the hop; scores of one forward pass on training and validation.",
    "tasks": "Rows: after which task; columns: on the test set of which task. Means over seeds; all arms have one scale of colours. Row "
    "“before”: random weights.",
    "seeds": "Each line joins the two results of one seed; bold strokes are means. The interval is that of the verdict, by Student's t over the pairs.",
}
NOTE = "Figures need matplotlib, which is not installed here: pip install matplotlib, then kdrun report again."


class PageFigures:
    """The figures of a subject, drawn when first asked for, each plot a figure of its own under one legend.

    Ids get a number of their own per plot: two plots on one page must not share a clip path.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        self._count = 0
        self._panels: dict[str, list[Any]] | None = None

    def html(self, name: str, caption: str | None = None) -> Html:
        """All plots of one figure ("curves", "cost", "hops" or "seeds"); nothing where records hold nothing to draw."""
        if not have_matplotlib():
            return tag("p", NOTE, class_="note")
        if self._panels is None:
            self._panels = panels_of(self.subject)
        if not self._panels.get(name):
            return Html("")
        from kdrun.plots.curves import OTHERS
        from kdrun.plots.paper import page

        legend: dict[str, Any] = {}
        with page():
            plots = [self._plot(panel, legend) for panel in self._panels[name]]
            legend |= {OTHERS: legend.pop(OTHERS)} if OTHERS in legend else {}  # to the end
            entries = [tag("li", swatch(handle), label) for label, handle in legend.items()]
        key = tag("ul", *entries, class_="legend") if entries else Html("")
        return Html(key + tag("div", *plots, class_="figures") + tag("p", caption or CAPTIONS[name], class_="note"))

    def _plot(self, panel: Any, legend: dict[str, Any]) -> Html:
        from kdrun.plots.paper import COLUMN, draw, svg

        self._count += 1
        figure, entries = draw([panel])
        legend |= entries
        markup = inline(svg(figure).decode(), f"plot{self._count}", panel.alt)
        if panel.width <= COLUMN:
            return tag("figure", markup)
        # Wider than a phone can show at a readable size: it scrolls in its own box, and grows no larger than the others.
        sizes = f"--least: {5.5 * panel.width:.1f}rem; --most: {7.5 * panel.width:.1f}rem"
        return tag("figure", markup, class_="wide", style=sizes, tabindex="0")


def inline(svg: str, name: str, alt: str) -> Html:
    """matplotlib's SVG file as an element of a page: no header, no style sheet, ids of its own, colours by name."""
    content = svg[svg.index("<svg") : svg.rindex("</svg>")]
    opening, _, content = content.partition(">")
    content = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", content, flags=re.DOTALL)
    content = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', content)
    content = re.sub(r'(href="|url\()#', rf"\1#{name}-", content)
    content = FONT.sub("system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", content)
    content = re.sub(r">\s+<", "><", _by_name(content).strip())
    box = re.search(r'viewBox="([^"]+)"', opening)
    assert box is not None, "matplotlib's SVG has a viewBox"
    return tag("svg", Html(content), class_="plot", role="img", aria_label=alt, viewBox=box[1])


def _by_name(markup: str) -> str:
    """Our colours as the page's variables."""
    from kdrun.plots.paper import COLOURS, FAINT, INK, PAPER

    names = {INK: "currentColor", FAINT: "var(--faint)", PAPER: "var(--paper)"}
    names |= {colour: f"var(--{word})" for colour, word in zip(COLOURS, VARIABLES, strict=True)}
    return re.sub("|".join(names), lambda match: names[match[0]], markup)


def swatch(handle: Any) -> Html:
    """The line, mark or band of a legend, 30 by 12 units."""
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    if not isinstance(handle, Line2D):
        fill = to_hex(handle.get_facecolor())
        shapes = f'<rect x="2" y="1" width="26" height="10" fill="{fill}" fill-opacity="{handle.get_alpha()}"/>'
    else:
        colour, shapes = to_hex(handle.get_color()), ""
        if handle.get_linestyle() != "None":
            _, dashes = handle._unscaled_dash_pattern
            pattern = " ".join(f"{2 * length:g}" for length in dashes or [])
            shapes = f'<path d="M1 6H29" stroke="{colour}" stroke-width="2" stroke-dasharray="{pattern}"/>'
        if str(handle.get_marker()).startswith("$"):
            number = str(handle.get_marker()).strip("$")
            shapes += f'<text x="15" y="10" text-anchor="middle" font-size="11" fill="{colour}">{number}</text>'
        elif handle.get_marker() not in ("None", None, ""):
            fill = to_hex(handle.get_markerfacecolor())
            width = 1.4 if handle.get_markeredgewidth() else 0
            shapes += f'<path d="{_marker(handle)}" stroke="{colour}" stroke-width="{width}" fill="{fill}"/>'
    return tag("svg", Html(_by_name(shapes)), class_="swatch", viewBox="0 0 30 12", aria_hidden="true")


def _marker(handle: Any) -> str:
    """The outline of a marker as an SVG path around (15, 6); matplotlib's y axis points up."""
    from matplotlib.markers import MarkerStyle

    marker = MarkerStyle(handle.get_marker())
    path, size = marker.get_path().transformed(marker.get_transform()), 1.5 * handle.get_markersize()
    parts = []
    for vertices, command in path.iter_segments(curves=True):
        numbers = (
            f"{15 + size * v:.2f}" if index % 2 == 0 else f"{6 - size * v:.2f}" for index, v in enumerate(vertices)
        )
        letter = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(command)]
        parts.append(letter if letter == "Z" else f"{letter}{' '.join(numbers)}")
    return "".join(parts)
