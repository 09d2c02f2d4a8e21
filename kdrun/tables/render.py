"""A table mapping (see build) as Markdown, LaTeX with booktabs, CSV, and for a terminal. Pure functions: equal in, equal out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdrun.differences import BETTER, IDENTICAL, SINGLE, SMALL, UNDECIDED, WORSE, Difference
from kdrun.present.escape import csv_cell, markdown_code
from kdrun.present.escape import latex as latex_text
from kdrun.present.escape import markdown as markdown_text
from kdrun.present.results import p_text, vary_text
from kdrun.present.tables import aligned
from kdrun.present.units import MISSING, PREFIXES, scaled
from kdrun.present.verdict import TOO_MANY
from kdrun.tables.metric_names import DIFFERENCES, METRICS, ONCE, WHICH, per_epoch
from kdrun.tables.metrics import difference_in, unit_of

Table = dict[str, Any]
NO_MEANING = "-"
CSV_FIELDS = (
    "row", "column", "arm", "metric", "which", "mean", "sd", "low", "high", "p", "p_holm", "visible", "improvement", "decision",
    "n", "of", "published", "difference", "run", "job_hash",
)  # fmt: skip


@dataclass(frozen=True)
class PrintedCell:
    """One printed cell. marks: letters of footnotes."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()


def grid(table: Table) -> tuple[list[str], list[list[PrintedCell]]]:
    """(headings, rows): the label, one printed cell for each column, the published figure beside those that have one, n."""
    cells = {(cell["row"], cell["column"]): cell for cell in table["cells"]}
    compared = {key[1] for key, cell in cells.items() if any("published" in value for value in cell["values"].values())}
    headings = [""]
    for column in table["columns"]:
        headings += [column["label"], *(["published (difference)"] if column["id"] in compared else [])]
    rows = []
    for row in table["rows"]:
        printed = [PrintedCell(row["label"])]
        for column in table["columns"]:
            cell = cells[row["id"], column["id"]]
            printed.append(printed_cell(cell, column["which"]))
            if column["id"] in compared:
                printed.append(PrintedCell(published_text(cell)))
        rows.append([*printed, PrintedCell(_count([cells[row["id"], c["id"]] for c in table["columns"]]))])
    return [*headings, "n"], rows


def printed_cell(cell: dict[str, Any], which: str) -> PrintedCell:
    if not cell["applies"]:
        return PrintedCell(NO_MEANING)
    best, *last = [_value(cell, name) for name in (WHICH if which == "both" else (which,))]
    text = f"{best} ({last[0]})" if last else best
    if cell["n"] < cell["of"]:
        text += f", n = {cell['n']}/{cell['of']}"
    return PrintedCell(text, cell["bold"], tuple(cell["marks"]))


def _value(cell: dict[str, Any], which: str) -> str:
    value, unit = cell["values"].get(which) or {}, unit_of(cell)
    text = number_text(value.get("mean"), unit)
    if value.get("mean") is None:
        return text
    found = difference_in(cell, which)
    if found is not None and found.interval is not None:
        low, high = (number_text(bound, unit) for bound in found.interval)
        return f"{text} [{low}, {high}], {_decided(found, unit)}"
    if value.get("sd") is not None and cell["metric"] not in DIFFERENCES:
        text += f" ± {number_text(value['sd'], 'share' if unit == 'gain' else unit)}"
    return text


def _decided(found: Difference, unit: str) -> str:
    """`p = 0.012`, `undecided (p 0.076)`, or `within 0.50` where the whole interval lies inside the margin, `over samples alone` of one seed and of
    records that left seeds out."""
    decision = found.decision(found.margin)
    if found.identical:
        return IDENTICAL
    if decision == SMALL:
        return f"within {_margin_text(found.margin, unit)}"
    if decision == SINGLE:
        return "over samples alone"
    if decision not in (BETTER, WORSE):
        return f"undecided (p {p_text(found.p)})"
    text = p_text(found.p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _margin_text(margin: float | None, unit: str) -> str:
    """`0.50`"""
    return number_text(margin, unit).lstrip("+")


def number_text(value: float | None, unit: str) -> str:
    """A figure as it is printed: shares in percent, differences with a sign."""
    if value is None:
        return MISSING
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "flops":
        return "{:.2f} {}".format(*scaled(value, PREFIXES[2:5]))
    scale, form = {
        "share": (100, ".2f"),
        "points": (100, "+.2f"),
        "gap": (100, ".0f"),
        "nats": (1, ".4f"),
        "plain": (1, ".4f"),
        "number": (1, ".3g"),
        "gain": (100, "+.2f"),
        "bits": (1, "+.4f"),
        "plain difference": (1, "+.4f"),
        "megabytes": (1e-6, ".2f"),
        "joules": (1, ".4g"),
        "seconds": (1, ".1f"),
    }[unit]
    return f"{scale * value:{form}}" + (" %" if unit == "gap" else "")


def published_text(cell: dict[str, Any]) -> str:
    """`70.66 (+0.31)`; two differences where the paper does not say which epoch it reports."""
    values = [cell["values"][which] for which in (*WHICH, ONCE) if "published" in cell["values"].get(which, {})]
    if not values:
        return ""
    unit = unit_of(cell)
    apart = [MISSING if v["over_published"] is None else _signed(v["over_published"], unit) for v in values]
    return f"{number_text(values[0]['published'], unit)} ({' / '.join(apart)})"


def _signed(value: float, unit: str) -> str:
    text = number_text(value, unit)
    return text if text.startswith(("-", "+")) else f"+{text}"


def _count(cells: list[dict[str, Any]]) -> str:
    """n of a row: of its students, for a teacher may be one for all seeds."""
    counts = {(cell["n"], cell["of"]) for cell in cells if cell["applies"] and cell["arm"] != "teacher"}
    return ", ".join(str(n) if n == of else f"{n}/{of}" for n, of in sorted(counts, reverse=True)) or NO_MEANING


def explanation(table: Table) -> list[str]:
    """What the figures mean, one sentence each."""
    metrics = list(dict.fromkeys(column["metric"] for column in table["columns"]))
    lines = ["Mean ± sample deviation over seeds; n is their number. Figures are of the test split."]
    if others := [name for name in table.get("vary") or () if name != "student"]:
        lines.append(f"Each seed has its own {' and '.join(others)}, which all rows share.")
    if any(per_epoch(metric) for metric in metrics):
        if any(column["which"] in ("both", "best") for column in table["columns"]):
            lines.append("The best epoch is chosen on validation; test is read once, after training.")
        if any(column["which"] == "both" for column in table["columns"]):
            lines.append("In brackets after it: the last epoch.")
        if only := [column["label"] for column in table["columns"] if column["which"] == "last"]:
            lines.append(f"Last epoch only: {'; '.join(only)}.")
    if further := dict.fromkeys(column["split"] for column in table["columns"] if column.get("split")):
        lines.append(f"Further test sets, at the best epoch: {', '.join(further)}.")
    lines += [f"{METRICS[metric].help[0].upper()}{METRICS[metric].help[1:]}." for metric in metrics]
    if marked := [column["label"] for column in table["columns"] if column["bold"]]:
        lines.append(f"Bold ({'; '.join(marked)}): the best mean on validation, not on test.")
    lines += _of_differences(table)
    if source := table["published"]:
        epoch = {"unknown": "it does not say which epoch"}.get(source["epoch"], f"{source['epoch']} epoch")
        cited = f", {source['citation']}" if source.get("citation") else ""
        lines.append(
            f"Published figures: {source['source']}{cited} ({epoch}); in brackets, own figure minus published."
        )
    return lines


def _of_differences(table: Table) -> list[str]:
    """What p values are, what undecided comparisons could have shown, and how many seeds would settle them."""
    shown = {column["id"]: WHICH if column["which"] == "both" else (column["which"],) for column in table["columns"]}
    found = [(difference_in(cell, which), cell) for cell in table["cells"] for which in shown[cell["column"]]]
    tested = [(one, unit_of(cell)) for one, cell in found if one is not None and one.interval]
    if not tested:
        return []
    number = max(one.comparisons for one, *_ in tested)
    corrected = f", corrected over the {number} comparisons of this table (Holm)" if number > 1 else ""
    lines = [
        f"p is two-sided{corrected}; what is not below 0.05 is undecided, which is not the absence of a difference."
    ]
    small = ((one.margin, unit) for one, unit in tested if one.decision(one.margin) == SMALL and not one.identical)
    for text, unit in dict.fromkeys((_margin_text(margin, unit), unit) for margin, unit in small):
        in_points = " points" if unit == "points" else ""
        lines.append(f"Within {text}: the whole interval lies inside of ±{text}{in_points}.")
    unsettled = [(one, unit) for one, unit in tested if one.decision(one.margin) == UNDECIDED and not one.identical]
    for unit in dict.fromkeys(unit for *_, unit in unsettled):
        if seen := [one.visible for one, its in unsettled if its == unit and one.visible is not None]:
            least, most = (number_text(value, unit).lstrip("+") for value in (min(seen), max(seen)))
            amount = least if least == most else f"{least} to {most}"
            lines.append(f"Undecided comparisons could have shown {amount} {unit} (80 % power).")
    needed = [seeds for one, _ in unsettled if (seeds := one.seeds_to_settle(one.margin)) is not None]
    if needed:
        lines.append(f"To settle {len(needed)} of {len(unsettled)}: kdrun table {table['name']} seeds={max(needed)}.")
    if others := sum(one.sd is not None for one, *_ in unsettled) - len(needed):
        lines.append(f"Of {others} of {len(unsettled)}: {TOO_MANY}.")
    return lines


def commit_text(state: dict[str, Any]) -> str:
    return f"{state['commit'] or 'not known'}{' with uncommitted changes' if state['dirty'] else ''}"


def provenance_lines(table: Table) -> list[tuple[str, str]]:
    """(what, text): command, table file, jobs, commits, data, machine, versions."""
    origin = table["provenance"]
    seconds = [job["seconds"] for job in table["jobs"] if job["seconds"] is not None]
    data = [f"{item['name']}, sha256 {item['content'] or MISSING}" for item in origin["data"]]
    versions = [f"{name} {' and '.join(found)}" for name, found in sorted(origin["versions"].items()) if found]
    machines = [
        f"{item['cpu'] or MISSING}, cores: {item['cores'] or MISSING}, {item['device']}, {item['precision']}"
        for item in origin["machines"]
    ]
    return [
        ("command", origin["command"]),
        ("table file", f"{origin['spec']['file']}, sha256 {origin['spec']['sha256']}"),
        ("seeds", "; ".join(filter(None, [", ".join(map(str, table["seeds"])), vary_text(table.get("vary"))]))),
        ("commit", "; ".join(map(commit_text, origin["commits"])) or MISSING),
        ("data", "; ".join(data) or MISSING),
        ("machine", "; ".join(machines) or MISSING),
        ("versions", ", ".join(versions)),
        ("time", f"{sum(seconds):.0f} s in {len(table['jobs'])} jobs" if seconds else MISSING),
    ]


def markdown(table: Table) -> str:
    """The whole table as a page: figures, footnotes, warnings, provenance, jobs."""
    headings, rows = grid(table)
    lines = [f"# {markdown_text(table['title'])}", ""]
    lines += [markdown_text(table["note"]), ""] if table["note"] else []
    lines += (
        [f"**Plan, written before the table ran.** {markdown_text(table['plan'])}", ""] if table.get("plan") else []
    )
    lines += [_md_row(map(markdown_text, headings)), _md_row(["---", *["---:"] * (len(headings) - 1)])]
    lines += [_md_row(map(_md_cell, row)) for row in rows]
    lines += ["", *(f"{markdown_text(line)}  " for line in explanation(table))]
    if table["notes"]:
        lines += ["", *(f"<sup>{note['mark']}</sup> {markdown_text(note['text'])}  " for note in table["notes"])]
    if table["warnings"]:
        lines += ["", "Mind:", "", *(f"- {markdown_text(warning)}" for warning in table["warnings"])]
    lines += ["", "## Where the figures come from", ""]
    for name, text in provenance_lines(table):
        lines.append(f"- {name}: {markdown_code(text) if name == 'command' else markdown_text(text)}")
    lines += ["", _md_row(["job", "status", "run", "hash", "overrides"]), _md_row(["---"] * 5)]
    for job in table["jobs"]:
        cells = [job["label"], job["status"], job["run"] or MISSING, job["job_hash"][:8]]
        lines.append(_md_row([*map(markdown_text, cells), markdown_code(" ".join(job["overrides"]))]))
    return "\n".join(lines) + f"\n\nFrom a cell to its runs: `kdrun why {table['name']}:ROW:COLUMN`\n"


def _md_row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _md_cell(cell: PrintedCell) -> str:
    text = f"**{markdown_text(cell.text)}**" if cell.bold else markdown_text(cell.text)
    return text + (f"<sup>{','.join(cell.marks)}</sup>" if cell.marks else "")


def latex(table: Table) -> str:
    """A `table` environment; needs \\usepackage{booktabs}."""
    headings, rows = grid(table)
    origin = table["provenance"]
    lines = [
        f"% {origin['command']}   (needs booktabs)",
        *(f"% {name}: {text}" for name, text in provenance_lines(table)[1:]),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(' '.join([table['title'] + '.', *explanation(table)]))}}}",
        rf"  \label{{tab:{re.sub('[^A-Za-z0-9:-]', '-', table['name'])}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(map(latex_text, headings))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(_tex_cell, row))} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(
            rf"  \par\footnotesize\textsuperscript{{{note['mark']}}} {latex_text(note['text'])}"
            for note in table["notes"]
        ),
        *(rf"  \par\footnotesize Mind: {latex_text(warning)}" for warning in table["warnings"]),
        r"\end{table}",
    ]
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n"


def _tex_cell(cell: PrintedCell) -> str:
    text = rf"\textbf{{{latex_text(cell.text)}}}" if cell.bold else latex_text(cell.text)
    return text + (rf"\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else "")


def long_csv(table: Table) -> str:
    """One line for each cell and epoch, in the unit of the records (shares, not percent), with all digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for cell in table["cells"]:
        for which in (*WHICH, ONCE):
            value = cell["values"].get(which)
            if value is None:
                continue
            found = difference_in(cell, which)
            low, high = (found and found.interval) or (None, None)
            line = {
                **{name: cell.get(name) for name in CSV_FIELDS},
                **{"which": "" if which == ONCE else which, "mean": value["mean"], "sd": value["sd"]},
                **{"low": low, "high": high},
                **({"p": found.p_value, "p_holm": found.p_holm, "visible": found.visible} if found else {}),
                **({"improvement": found.improvement, "decision": found.decision(found.margin)} if found else {}),
                **{"published": value.get("published"), "difference": value.get("over_published")},
            }
            writer.writerow("" if line.get(name) is None else csv_cell(line[name]) for name in CSV_FIELDS)
    return out.getvalue()


RENDERED: dict[str, Callable[[Table], str]] = {"md": markdown, "tex": latex, "csv": long_csv}


def show(table: Table) -> None:
    """Print the table with its footnotes and warnings to a terminal, or aligned and without colour to anything else."""
    import sys

    headings, rows = grid(table)
    if sys.stdout.isatty():
        _show_rich(table["title"], headings, rows)
    else:
        print(table["title"])
        print("\n".join(aligned([headings, *([plain(cell) for cell in row] for row in rows)])))
    for line in explanation(table):
        print(line)
    for note in table["notes"]:
        print(f"[{note['mark']}] {note['text']}")
    for warning in table["warnings"]:
        print(f"mind: {warning}")


def plain(cell: PrintedCell) -> str:
    text = f"*{cell.text}*" if cell.bold else cell.text
    return text + "".join(f" [{mark}]" for mark in cell.marks)


def _show_rich(title: str, headings: list[str], rows: list[list[PrintedCell]]) -> None:
    from rich.text import Text

    from kdrun.present.console import Console, columns

    console = Console()
    console.print(title)
    cells = [[Text(plain(PrintedCell(c.text, False, c.marks)), "bold" if c.bold else "") for c in row] for row in rows]
    console.print(columns(headings, cells))
