"""Cards as text for people: one table per target and precision, figures down, arms across. No torch.

Every figure of an estimate has the word beside it, and what is not known is n/a.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdrun.config.trees import at
from kdrun.hardware.card import gates
from kdrun.hardware.card.cards import Card, grouped, point
from kdrun.hardware.card.pareto import Front, axes_of, pareto
from kdrun.measures import measure
from kdrun.present.units import MISSING

RUNTIMES = {"onnxruntime": "ONNX Runtime", "torch": "torch", "executorch": "ExecuTorch"}
FORMATS = {"onnx": "ONNX", "torch_export": "torch.export", "executorch": "ExecuTorch"}
VERDICTS = {True: "passed", False: "FAILED", None: MISSING}
OF_A_TARGET = (
    "test ",
    "latency",
    "timed",
    "throughput",
    "ms per",
    "J per",
    "memory, w",
    "peak memory",
    "energy",
    "gate",
    "all gates",
)
"""Rows that another target can change, and the quality."""
GATES = {"deadline": "gate: deadline", "memory": "gate: memory", "worst_class": "gate: worst class"}


def tables(cards: Sequence[Card]) -> list[str]:
    """All tables, each with its heading, what fails, and the front."""
    lines: list[str] = []
    shown: set[str] = set()
    for group in grouped(cards).values():
        files = {digest for card in group for digest in card["export"]["sha256"].values()}
        again = bool(files) and files <= shown  # the same files on another target
        shown |= files
        found = [row for row in rows(group) if not again or row[0].startswith(OF_A_TARGET)]
        lines += [*([""] if lines else []), heading(group[0]), *_aligned(["", *names(group)], found)]
        lines += ["robustness and safety: of the same files as above"] if again else []
        lines += [f"{card['label']} FAILS: {text}" for card in group for text in gates.misses(card, cards)]
        lines += [f"{card['label']}: {text}" for card in group for text in gates.undecided(card)]
        lines += notes(group)
        lines += front_lines(group, names(group))
    return lines


def names(group: Sequence[Card]) -> list[str]:
    """A column's head; a card that fails a gate is marked."""
    return [card["label"] + (" !" if card["passed"] is False else "") for card in group]


def heading(card: Mapping[str, Any]) -> str:
    """`local, fp32, batch 1: measured here (AMD EPYC) with ONNX Runtime 1.32.0`"""
    what = f"{card['target']}, {card['precision']}, batch {card['batch']}"
    if card["kind"] == "estimate":
        return f"{what}: estimate, {card['why']}"
    device = "" if card["device"] == "cpu" else f", {card['device']}"
    runtime = f"{RUNTIMES.get(card['runtime'], card['runtime'])} {card.get('runtime_version') or ''}".strip()
    return f"{what}: measured here ({card['machine'] or 'this machine'}{device}) with {runtime}"


def rows(group: Sequence[Card]) -> list[list[str]]:
    """(figure, a cell per card); rows of which nothing is known for any card are left out, but for those of the gates."""
    metric = group[0]["quality"]["metric"]
    found = measure(metric)
    estimate = group[0]["kind"] == "estimate"
    ms = lambda key: _cell(f"latency.{key}", "{:.3g}", _said)  # noqa: E731
    measured = (
        ("latency p50, ms", ms("p50_ms")),
        ("latency p95, ms", ms("p95_ms")),
        ("latency p99, ms", ms("p99_ms")),
        ("latency jitter, p99 - p50, ms", ms("jitter_ms")),
        ("timed calls", _cell("latency.calls", "{:,}")),
    )
    listed: list[tuple[str, Callable[[Card], str]]] = [
        (f"test {found.title}", _cell("quality.value", found.figure)),
        ("  retention of the teacher's, %", _cell("quality.retention", _percent)),
        ("  of the network in torch", _cell("quality.torch_value", found.figure)),
        *((("latency, ms", ms("ms")),) if estimate else measured),
        ("throughput, per second (batch)", _throughput),
        ("ms per token", _cell("generation.ms_per_token", "{:.3g}")),
        ("J per token", _cell("generation.joules_per_token", "{:.3g}", _estimated("generation"))),
        ("file, kB", _file),
        (
            "memory, weights and largest layer, MB" if estimate else "peak memory of a process, MB",
            _cell("memory.peak_mb", "{:.3g}", _said),
        ),
        ("  of it the bare runtime, MB", _cell("memory.runtime_mb", "{:.1f}")),
        ("energy, mJ per call", _energy),
        ("trained on, samples", _cell("seen.samples", "{:,}")),
        ("  of them labelled", _cell("seen.labelled", "{:,}")),
        ("MACs", _cell("compute.macs", "{:,}")),
        ("  as the inputs are, per sample", _cell("arithmetic.macs", "{:,.0f}")),
        ("  synaptic operations (additions for spikes)", _cell("arithmetic.synaptic", "{:,.0f}")),
        (
            "  energy of both, uJ",
            _cell("arithmetic.joules", lambda value: f"{1e6 * value:.3g}", _estimated("arithmetic")),
        ),
        ("parameters", _cell("compute.parameters", "{:,}")),
        *_robustness_rows(group, found.factor),
        ("recall of the worst class, %", _worst),
        ("  points below the teacher's worst class", _cell("safety.worst_class_drop", _points)),
        ("  class that loses most, points", _largest),
        ("calibration error, %", _cell("safety.ece", _percent)),
        ("errors where the teacher errs, %", _cell("safety.inherited_errors", _percent)),
        ("  of the student alone there, %", _cell("safety.inherited_errors_alone", _percent)),
        ("sensitivity, %", _cell("safety.sensitivity", _percent)),
        ("specificity, %", _cell("safety.specificity", _percent)),
        *_critical_rows(group),
        ("file against network", _difference),
        *((GATES[name], _gate(name)) for name in gates.GATES),
        ("all gates", lambda c: VERDICTS[c["passed"]]),
    ]
    table = [[name, *(cell(card) for card in group)] for name, cell in listed]
    kept = ("test ", "latency p99", "latency, ms", "peak memory", "memory, w", "energy", "gate", "all gates")
    return [row for row in table if row[0].startswith(kept) or any(cell != MISSING for cell in row[1:])]


def notes(group: Sequence[Card]) -> list[str]:
    """Why something is n/a, once for all cards with the same reason; how far an estimate can be trusted."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for card in group:
        for part, why in (card.get("notes") or {}).items():
            reasons.setdefault((part, why), []).append(card["label"])
    lines = [
        f"{part}: {MISSING}{'' if len(labels) == len(group) else f' ({chr(44).join(labels)})'}, {why}"
        for (part, why), labels in reasons.items()
    ]
    if group[0]["kind"] == "estimate" and any(gates.asked(card["gates"]["memory"]) for card in group):
        lines.append(
            "gate memory: an estimate has weights and layers, not the runtime: it can fail the cap, not pass it"
        )
    sources = dict.fromkeys((card.get("arithmetic") or {}).get("source") for card in group)
    lines += [f"energy of operations, without memory: estimate, constants: {source}" for source in sources if source]
    methods = dict.fromkeys((card["latency"] or {}).get("method") for card in group if card["kind"] == "estimate")
    lines += [f"model: {method}" for method in methods if method]
    for card in group:
        latency = card["latency"] or {}
        if card["kind"] == "estimate" and latency.get("ms") is not None:
            lines.append(f"{card['label']}: {_trust(latency)}")
    return lines


def _trust(latency: Mapping[str, Any]) -> str:
    """How far the model was off on this machine, in words."""
    error, here = latency.get("error"), latency.get("measured_here_ms")
    if error is None:
        return f"the model's error is {MISSING}: what this machine reaches in this number format is not measured"
    side = "too fast" if error < 0 else "too slow"
    return f"on this machine the same model is {abs(100 * error):.0f} % {side} (measured {here:.3g} ms)"


def front_lines(cards: Sequence[Card], labels: Sequence[str]) -> list[str]:
    """The Pareto front in words."""
    if len(cards) < 2:
        return []
    front = front_of(cards)
    left = f" ({'; '.join(front.left_out.values())})" if front.left_out else ""
    if len(front.axes) < 2 or not front.front:
        why = (
            "; ".join(front.left_out.values())
            if front.front or len(front.axes) < 2
            else f"{front.axes[0].label} is {MISSING}"
        )
        return [f"no Pareto front: {why}"]
    estimate = any(card["kind"] == "estimate" for card in cards)
    over = ", ".join("latency" if estimate and axis.name == "p99_ms" else axis.label for axis in front.axes)
    said = " (estimates)" if estimate else ""
    lines = [f"Pareto front over {over}{left}{said}: {', '.join(labels[index] for index in front.front)}"]
    return lines + [f"  {labels[one]} is dominated by {labels[other]}" for one, other in front.beaten_by.items()]


def front_of(cards: Sequence[Card]) -> Front:
    """The front of cards with the same settings."""
    return pareto([point(card) for card in cards], axes_of(cards[0]["quality"]["metric"]))


def runs_table(named: Sequence[tuple[str, Card]]) -> list[str]:
    """One line per run (its own result) for cards with the same settings, with the front over them."""
    cards = [card for _, card in named]
    found, estimate = measure(cards[0]["quality"]["metric"]), cards[0]["kind"] == "estimate"
    front = front_of(cards)
    table = []
    for index, (label, card) in enumerate(named):
        place = "front" if index in front.front else ""
        if index in front.beaten_by:
            place = f"dominated by {named[front.beaten_by[index]][0]}"
        table.append(
            [
                label,
                _number(card["quality"]["value"], found.figure),
                _p99(card),
                _energy(card),
                _file(card),
                VERDICTS[card["passed"]],
                place,
            ]
        )
    head = ["run", found.title, "latency, ms" if estimate else "p99, ms", "mJ per call", "kB", "gates", "Pareto"]
    lines = [heading(cards[0]), *_aligned(head, table, last_left=True)]
    lines += [f"{label} FAILS: {text}" for label, card in named for text in gates.misses(card, cards)]
    return [*lines, *(f"left out of the front: {why}" for why in front.left_out.values())]


def line(card: Card) -> str:
    """One line for a panel: time, size, gates, and where that was measured."""
    said = _said(card)
    time = _number(gates.p99(card), lambda value: f"{value:.3g} ms{said}")
    size = f"{_file(card)} kB" if card["memory"]["weights_bytes"] is not None else MISSING
    where = f"{card['target']}, {card['precision']}, {RUNTIMES.get(card['runtime'], card['runtime'])}"
    calls = (card["latency"] or {}).get("calls")
    timed = f", {calls:,} calls" if calls else ""
    return f"{card['label']}: {'' if said else 'p99 '}{time}, {size} ({where}{timed}); {_verdict(card)}"


def _verdict(card: Card) -> str:
    """`all gates passed`, `FAILS the gate worst class: ...`, `not decided: memory n/a`."""
    asked = {GATES[name].removeprefix("gate: "): one for name, one in card["gates"].items() if gates.asked(one)}
    failed = [name for name, one in asked.items() if one["passed"] is False]
    unknown = [name for name, one in asked.items() if one["passed"] is None]
    if failed:
        return f"FAILS the {'gates' if len(failed) > 1 else 'gate'} {', '.join(failed)}: {'; '.join(gates.misses(card, [card]))}"
    if unknown:
        return f"not decided, {', '.join(unknown)}: {'; '.join(gates.undecided(card)) or MISSING}"
    return "all gates passed" if card["passed"] else "no gate is set"


# cells


def _number(value: float | None, text: Callable[[Any], str]) -> str:
    return MISSING if value is None else text(value)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _said(card: Mapping[str, Any]) -> str:
    return " estimate" if card["kind"] == "estimate" else ""


def _estimated(part: str) -> Callable[[Card], str]:
    return lambda card: " estimate" if at(card, f"{part}.estimate") else ""


def _cell(
    path: str, text: str | Callable[[Any], str], said: Callable[[Card], str] = lambda card: ""
) -> Callable[[Card], str]:
    """The figure at a dotted path of a card, as a format or a function writes it, and what is said behind it."""
    write = text.format if isinstance(text, str) else text
    return lambda card: _number(at(card, path), lambda value: write(value) + said(card))


_file = _cell("memory.weights_bytes", lambda value: f"{value / 1e3:,.1f}")
_energy = _cell("energy.joules", lambda value: f"{1e3 * value:.3g}", _estimated("energy"))


def _p99(card: Card) -> str:
    return _number(gates.p99(card), lambda value: f"{value:.3g}{_said(card)}")


def _throughput(card: Card) -> str:
    found = card["throughput"]
    return MISSING if not found else f"{found['per_second']:,.0f} ({found['batch']})"


def _robustness_rows(group: Sequence[Card], factor: float) -> list[tuple[str, Callable[[Card], str]]]:
    known = next((card["robustness"] for card in group if card["robustness"]), None)
    if known is None:
        return []
    kinds = [name for name in ("noise", "blur", "brightness", "contrast") if name in known]
    digits, unit = (2, ", points") if factor == 100 else (4, "")

    def of(key: str) -> Callable[[Card], str]:
        return _cell(f"robustness.{key}", lambda value: f"{factor * value:.{digits}f}")

    def five(kind: str) -> Callable[[Card], str]:
        show = lambda card: " ".join(f"{factor * value:.{digits - 1}f}" for value in card["robustness"][kind])  # noqa: E731
        return lambda card: show(card) if card["robustness"] else MISSING

    return [
        *((f"under {kind}, levels 1 to 5", five(kind)) for kind in kinds),
        (f"  mean drop{unit} ({known['samples']:,} samples)", of("drop")),
        (f"  the teacher's drop{unit}", of("teacher_drop")),
        (f"  mean corruption error{', %' if unit else ''}", of("error")),
        ("  relative to the teacher's, %", _cell("robustness.relative_error", _percent)),
    ]


def _critical_rows(group: Sequence[Card]) -> list[tuple[str, Callable[[Card], str]]]:
    names = dict.fromkeys(name for card in group for name in (card["safety"] or {}).get("critical", ()))

    def of(name: str, key: str) -> Callable[[Card], str]:
        return lambda card: _number(((card["safety"] or {}).get("critical") or {}).get(name, {}).get(key), _percent)

    return [
        row
        for name in names
        for row in (
            (f"false negatives of {name}, %", of(name, "false_negative_rate")),
            ("  agreement with the teacher, %", of(name, "agreement")),
        )
    ]


def _worst(card: Card) -> str:
    found = card["safety"] or {}
    return _number(found.get("worst_class_recall"), lambda value: f"{_percent(value)} (class {found['worst_class']})")


def _largest(card: Card) -> str:
    found = (card["safety"] or {}).get("largest_drop")
    return MISSING if not found else f"{_points(-found['drop'])} (class {found['class']})"


def _difference(card: Card) -> str:
    """The largest difference of an output where rounding bounds it, else the share of equal labels."""
    found = card["export"]
    agree = found.get("labels_agree")
    if found["tolerance"] is None and agree is not None:
        return f"{100 * agree:.1f} % same label"
    return _number(found["max_difference"], lambda value: f"{value:.1g}")


def _gate(name: str) -> Callable[[Card], str]:
    def cell(card: Card) -> str:
        one = card["gates"][name]
        if not gates.asked(one):
            return "-"
        text = VERDICTS[one["passed"]] + (" estimate" if one["estimate"] and one["passed"] is not None else "")
        limit = (
            f"{100 * one['limit']:g} points"
            if name == "worst_class"
            else f"{one['limit']:g} {'ms' if name == 'deadline' else 'MB'}"
        )
        return f"{text} (<= {limit})"

    return cell


def _aligned(head: Sequence[str], table: Sequence[Sequence[str]], last_left: bool = False) -> list[str]:
    """Text with the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (head, *table)) for column in range(len(head))]
    lines = []
    for row in (head, *table):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        if last_left:
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return lines
