"""kdrun diagnose RUN|TABLE: whether a student generalises as its teacher does, and what of the two may tell why."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.diagnostics.kept import TEACHER, Diagnosis, file_of, keep, over_seeds, read, roles_of
from kdrun.files import dump_json
from kdrun.plots.subject import find_subject, runs_of
from kdrun.present.tables import aligned, print_table
from kdrun.present.units import MISSING
from kdrun.problems import UserError
from kdrun.tracking.record import DONE
from kdrun.tracking.registry import RunInfo
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder
from kdrun.words import options_in, whole_number

OPTIONS = ("arm", "teacher", "seed", "which")
SOME_FAILED = 3
"""Exit code where some of several runs failed, are not here or could not be measured; a run without a teacher is none of these."""
LESS = ("rank", "sharp T", "gap T")
"""Columns that a narrow terminal goes without, first to last."""
OF_EACH = (
    ("training loss, nats", "train"),
    ("test loss, nats", "test"),
    ("generalisation gap, nats", "gap"),
    ("sharpness, random", "gaussian"),
    ("sharpness, one ascent", "ascent"),
    ("features: width", "width"),
    ("features: rank", "rank"),
    ("features: effective rank", "effective"),
)
OF_PAIR = (
    ("K_hat = KL(student || teacher), nats", "k_hat"),
    ("KL(teacher || student), nats", "k_reverse"),
    ("reconstructed bound on the student's gap", "bound"),
    ("its slack", "slack"),
)
SHARES = (
    ("name different classes", "disagree"),
    ("both right", "both_right"),
    ("only the student right", "only_student"),
    ("only the teacher right", "only_teacher"),
    ("both wrong, same class", "same_wrong"),
    ("both wrong, different classes", "different_wrong"),
)


def main(args: Arguments) -> int:
    """Print the numbers of one run, or a row for each of several; with --json all of it. They stay in RUN/diagnosis.json."""
    options, outputs = options_in(args.overrides, OPTIONS), outputs_folder(args)
    seed, which = whole_number(options, "seed"), options.get("which")
    if which not in (None, "best", "last"):
        raise UserError(f"which={which}: best or last")
    subject = find_subject(outputs, args.words, tables=True)
    named = runs_of(subject, outputs, unfinished=True)
    runs = [(label, run) for label, run in named if not getattr(run, "parts", ())]
    runs += [(f"{label}, {part.id}", part) for label, run in named for part in getattr(run, "parts", ())]
    chosen, left_out = _chosen(runs, options)
    jobs = {job["label"] for job in subject.record.get("jobs") or ()}
    lacking = sorted(jobs - {label for label, _ in named})
    left_out += [f"{label} is left out: its run is not here" for label in lacking]
    file = file_of(options)
    found: list[tuple[str, Diagnosis]] = []
    wrong: UserError | None = None
    from kdrun.diagnostics.pairs import diagnose

    known: dict[Any, Any] = {}
    for label, run, roles in chosen:
        if len(chosen) > 1 and not (args.quiet or args.json):
            print(f"kdrun: {label}", file=sys.stderr)
        kept = None if args.force else read(run.dir, file)
        try:
            diagnosis = diagnose(run, *roles, seed=seed, which=which, known=known, kept=kept)
        except UserError as error:
            wrong = wrong or error
            left_out.append(f"{label} is left out: {error.lines[0]}")
            continue
        keep(run.dir, diagnosis, file)
        found.append((label, diagnosis))
    if wrong is not None and not found:
        raise wrong
    for text in left_out:
        print(f"kdrun: {text}", file=sys.stderr)
    if args.json:
        print(dump_json([{"label": label, **diagnosis} for label, diagnosis in found]))
    elif len(found) == 1:
        print("\n".join(panel(found[0][1])))
    else:
        print_table([_row(label, diagnosis) for label, diagnosis in found], LESS)
    failed = wrong is not None or lacking or any(run.status != DONE for _, run in runs)
    return SOME_FAILED if failed and len(runs) + len(lacking) > 1 else 0


def _chosen(
    runs: Sequence[tuple[str, RunInfo]], options: Mapping[str, str]
) -> tuple[list[tuple[str, RunInfo, tuple[str, str]]], list[str]]:
    """(label, run, roles) of those that have a pair, and why others are left out; UserError where none has one."""
    chosen, left_out, first = [], [], None
    for label, run in runs:
        try:
            chosen.append((label, run, roles_of(run, options.get("arm"), options.get("teacher"))))
        except UserError as error:
            first = first or error
            left_out.append(f"{label} is left out: {error.lines[0]}")
    if not chosen and first is not None:
        raise first
    return chosen, left_out


def panel(diagnosis: Diagnosis) -> list[str]:
    """A run's numbers as lines of at most 80 columns: means and sample deviations over seeds."""
    means, pairs = over_seeds(diagnosis), diagnosis["pairs"]
    several = f"{len(pairs)} seeds" if len(pairs) > 1 else f"seed {pairs[0]['seed']}"
    who = [
        f"{_several(pairs[0][name])}{diagnosis[role]} ({pairs[0][name]['which']} epoch)"
        for role, name in (("arm", "student"), ("teacher", TEACHER))
    ]
    lines = [
        diagnosis["run"],
        f"{' and '.join(who)}, {several}, {pairs[0]['samples']} test samples",
        "",
    ]
    each = [
        ["", "student", "teacher"],
        *([text, _said(means[f"student {n}"]), _said(means[f"teacher {n}"])] for text, n in OF_EACH),
    ]
    ensemble = diagnosis["ensemble"]
    for name in ("bias", "variance") if "why" not in ensemble else ():
        values = [_said((ensemble[who][name], None)) if who in ensemble else MISSING for who in ("student", TEACHER)]
        each.append([f"{name} over seeds, nats", *values])
    lines += [*aligned(each), ""]
    lines += aligned([[text, _said(means[name])] for text, name in OF_PAIR])
    lines += ["", *aligned([[text, _said(means[name], 100), "%"] for text, name in SHARES])]
    held = sum(pair["slack"] >= 0 for pair in pairs)
    lines += ["", f"The reconstructed bound holds in {held} of {len(pairs)} seeds."] if len(pairs) > 1 else [""]
    lines.append("It is not the paper's bound: docs/diagnostics.md")
    if "why" in ensemble:
        lines.append(f"No bias and variance: {ensemble['why']}")
    return lines


def _several(network: Mapping[str, Any]) -> str:
    return f"the mean of {network['networks']} beginning with " if "networks" in network else ""


def _row(label: str, diagnosis: Diagnosis) -> dict[str, str]:
    means = over_seeds(diagnosis)
    columns = {
        "K_hat": "k_hat",
        "gap S": "student gap",
        "gap T": "teacher gap",
        "bound": "bound",
        "slack": "slack",
        "sharp T": "teacher gaussian",
        "rank": "student rank",
    }
    return {
        "run": label,
        **{name: _mean(means[key]) for name, key in columns.items()},
        "n": str(len(diagnosis["pairs"])),
    }


def _said(value: tuple[float, float | None] | None, factor: float = 1.0) -> str:
    if value is None:
        return MISSING
    mean, deviation = value
    text = f"{factor * mean:.3g}"
    return f"{text} ± {factor * deviation:.2g}" if deviation else text  # 0: one network for all seeds


def _mean(value: tuple[float, float | None] | None) -> str:
    return MISSING if value is None else f"{value[0]:.3g}"
