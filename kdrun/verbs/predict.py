"""kdrun predict RUN [FILE ...]: what a network of a run says of inputs of the user's own, one line of output for each."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kdrun import kinds
from kdrun.domains.inputs import UserInput
from kdrun.present.escape import csv_cell
from kdrun.problems import UserError, closest, listed
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.asked import asked_network, asked_run
from kdrun.verbs.lines import print_line
from kdrun.words import options_in, whole_number

OPTIONS = ("arm", "seed", "which", "part", "as")
FORMS = ("text", "csv", "json")
BATCH = 256
"""Inputs of one forward pass."""


def main(args: Arguments) -> int:
    """Print one line for each input, in order; an input that cannot be used has an empty one, is told, and makes the exit code 2."""
    options = options_in(args.overrides, OPTIONS)
    form = options.get("as", "json" if args.json else "text")
    if form not in FORMS:
        raise UserError(f"as={form}: no such form{closest(form, FORMS)}; all: {listed(FORMS)}")
    run, *words = args.words or ["last"]
    files = [Path(word).expanduser() for word in words]
    view = asked_run(args, run, "whose networks kdrun predict does not ask")
    data = view.config_of(whole_number(options, "seed"))["data"]
    domain = kinds.find(data.get("task", "classification"))
    if missing := [path for path in files if not path.is_file()]:
        raise UserError(f"{missing[0]}: there is no such file")
    network = asked_network(view, options, part=options.get("part"))
    spec = domain.spec(network.kdrun)
    reader = domain.reader(spec, data, view.config["paths"])
    inputs = (one for path in files or [None] for one in reader.read(path))
    print_header(form, spec.labels)
    bad = 0
    for one, outcome in outcomes(network, domain.task(SimpleNamespace(spec=spec)), reader, inputs):
        if outcome is None:
            bad += 1
            print(f"kdrun: {one.where}: {one.problem}", file=sys.stderr)
        print_line(written(form, one, outcome, spec.labels))
    return 2 if bad else 0


def outcomes(
    network: Any, task: Any, reader: Any, inputs: Iterable[UserInput], batch: int = BATCH
) -> Iterator[tuple[UserInput, dict[str, Any] | None]]:
    """Each input with what the network says of it (Task.outcomes); None where the input has a problem."""
    import torch

    inputs = iter(inputs)
    while block := list(islice(inputs, batch)):
        usable = [one.value for one in block if not one.problem]
        said: Iterator[dict[str, Any]] = iter(())
        if usable:
            with torch.inference_mode():
                said = iter(task.outcomes(task.predict(network, reader.encode(usable))))
        for one in block:
            yield one, None if one.problem else next(said)


def print_header(form: str, labels: Iterable[str]) -> None:
    """The first line of CSV."""
    if form == "csv":
        said = ["class", "probability", *(f"probability of {label}" for label in labels)] if labels else ["value"]
        print_line(_cells(["input", *said, "problem"]))


def written(form: str, one: UserInput, outcome: dict[str, Any] | None, labels: Iterable[str]) -> str:
    """One line of output."""
    if form == "json":
        return json.dumps({"input": one.where, **(outcome or {"problem": one.problem})}, ensure_ascii=False)
    if form == "csv":
        outcome = outcome or {}
        names = ("class", "probability") if labels else ("value",)
        each = [outcome.get("probabilities", {}).get(label, "") for label in labels]
        return _cells([one.where, *(outcome.get(name, "") for name in names), *each, one.problem])
    if outcome is None:
        return ""
    return f"{outcome['value']:.6g}" if "value" in outcome else f"{outcome['class']}\t{outcome['probability']:.4f}"


def _cells(cells: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(
        [f"{cell:.6g}" if isinstance(cell, float) else csv_cell(cell) for cell in cells]
    )
    return out.getvalue()
